"""`align run / eval / sample` as a user calls them, on a pico base."""

import json
from pathlib import Path

import pytest

from collegium.cli.main import main
from collegium.library import Library
from collegium.models import load_base
from collegium.recipes.building.training import StepBar

TARGET = 'regex("[a-z]")'
SMALL = ["--prompt", "Once", "--tokens", "4", "--batch", "32", "--dtype", "float32"]
LEARN = [
    "--samples",
    "96",
    "--pool",
    "64",
    "--fresh",
    "32",
    "--rank",
    "4",
    "--layers",
    "top:1",
    "--threads",
    "1",
    "--learning-rate",
    "0.02",
]


@pytest.fixture
def call(capsys):
    """Return a function that runs a command with --json: exit code, object or None, what people read."""

    def called(*words: object) -> tuple[int, dict | None, str]:
        capsys.readouterr()
        code = main([*map(str, words), "--json"])
        shown = capsys.readouterr()
        return code, json.loads(shown.out.splitlines()[-1]) if shown.out.strip() else None, shown.err

    return called


def run(call, base: object, place: Path, texts: Path, *words: object) -> tuple[int, dict | None, str]:
    library = ["--library", place / "library", "--as", "policy", "--out", place / "run", "--general", texts]
    return call("align", "run", "--target", TARGET, "--model", base, *SMALL, *LEARN, *library, *words)


def evaluated(call, policy: str, texts: Path) -> dict:
    """Return what `align eval` says of a policy, on the texts that `run` measured it on."""
    sizes = ["--tokens", "4", "--batch", "32", "--pool", "64", "--fresh", "32", "--dtype", "float32"]
    code, measured, told = call("align", "eval", "--model", policy, *sizes, "--general", texts)
    assert code == 0, told
    assert measured is not None
    return measured


def test_a_policy_is_made_measured_and_used(call, pico_folder: Path, texts: Path, tmp_path: Path) -> None:
    code, made, told = run(call, pico_folder, tmp_path, texts)
    assert code == 0, told
    assert made is not None
    assert made["samples_seen"] == 96
    for part in ("before", "after"):
        assert set(made[part]) == {
            "moments",
            "kl_p_pi",
            "kl_pi_a",
            "tv",
            "distinct_2",
            "self_bleu_5",
            "general_perplexity",
            "intervals",
        }
    assert made["before"]["kl_pi_a"] == pytest.approx(0.0, abs=1e-6)
    assert made["before"]["kl_p_pi"] == pytest.approx(made["ahead"]["nats"], abs=1e-6)
    assert abs(made["after"]["kl_pi_a"]) > 1e-6  # of few texts, so an estimate may be negative
    assert "<svg" in (tmp_path / "run" / "report.html").read_text()
    policy = f"{tmp_path / 'library'}#policy"
    measured = evaluated(call, policy, texts)
    assert measured["after"]["kl_p_pi"] == pytest.approx(made["after"]["kl_p_pi"], abs=1e-3)
    words = ["--original", pico_folder, "--target", TARGET, *SMALL, "--samples", "5", "--most", "640", "--qrs"]
    code, drawn, told = call("align", "sample", "--model", policy, *words)
    assert code == 0, told
    assert drawn is not None
    assert len(drawn["samples"]) == 5
    assert drawn["moments"] == {TARGET: 1.0}
    assert call("generate", "Once", "--model", policy, "--tokens", "3")[0] == 0


@pytest.mark.parametrize("way", ["#a", "?router=uniform&compose=mix", "?router=posterior&compose=ensemble"])
def test_a_policy_stands_on_experts_and_says_so(call, way: str, pico_folder: Path, texts: Path, tmp_path: Path) -> None:
    from collegium.testing.pico import random_expert

    base = load_base(str(pico_folder))
    library = Library(tmp_path / "library", base=base, base_reference=str(pico_folder))
    for seed, name in enumerate("ab"):
        library.add(random_expert(base, seed, name=name))
    code, made, told = run(call, f"{tmp_path / 'library'}{way}", tmp_path, texts)
    assert code == 0, told
    assert made is not None
    policy = f"{tmp_path / 'library'}#policy"
    measured = evaluated(call, policy, texts)
    assert measured["after"]["general_perplexity"] == pytest.approx(made["after"]["general_perplexity"], rel=1e-4)
    assert measured["after"]["kl_p_pi"] == pytest.approx(made["after"]["kl_p_pi"], abs=1e-3)
    assert call("generate", "Once", "--model", f"{tmp_path / 'library'}?router=uniform", "--tokens", "3")[0] == 0
    code, _, told = call(
        "library", "export", "policy", "--library", tmp_path / "library", "--to", "peft", "--out", tmp_path / "peft"
    )
    assert code == 2
    assert "was made on top of" in told
    call("library", "remove", "a", "--library", tmp_path / "library", "--keep-descendants")
    code, _, told = call("generate", "Once", "--model", policy, "--tokens", "3")
    assert code == 2
    assert "'a'" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", 'contain("x")'], "Did you mean 'contains'?"),
        (["--target", 'contains("zebra")'], "none keeps the constraint"),
        (["--target", 'python("os:system")'], "--allow-code"),
        (["--method", "gcd"], "Did you mean 'gdc'?"),
        (["--method", "fdpg-reverse_kl"], "is infinite as long as"),
        (["--prompt", ""], "give what texts go on from"),
        (["--batch", "1"], "batch is at least 2"),
        (["--as", "a/b"], "a/b"),
        (["--target", 'reward("nowhere#x")'], "nowhere"),
        (["--layers", "top:99"], "99"),
    ],
)
def test_mistakes_end_with_two_and_leave_nothing(
    call, words: list[str], message: str, pico_folder: Path, texts: Path, tmp_path: Path
) -> None:
    code, _, told = run(call, pico_folder, tmp_path, texts, *words)
    assert code == 2
    assert message in " ".join(told.split())
    assert not (tmp_path / "library").exists()


def test_a_whole_policy_is_a_whole_expert(call, pico_folder: Path, texts: Path, tmp_path: Path) -> None:
    code, made, told = run(call, pico_folder, tmp_path, texts, "--whole", "--samples", "64")
    assert code == 0, told
    assert made is not None
    assert made["before"]["kl_pi_a"] == pytest.approx(0.0, abs=1e-6)
    assert abs(made["after"]["kl_pi_a"]) > 1e-6
    card = Library(tmp_path / "library").card("policy")
    assert (card.kind, card.context) == ("whole", {})
    code, _, told = call("generate", "Once", "--model", f"{tmp_path / 'library'}#policy", "--tokens", "2")
    assert code == 0, told
    code, _, told = run(call, f"{tmp_path / 'library'}#policy", tmp_path, texts, "--whole", "--as", "again")
    assert code == 2
    assert "Give its folder as --model" in told


def test_another_model_may_write_the_first_texts(call, pico_folder: Path, texts: Path, tmp_path: Path) -> None:
    assert run(call, pico_folder, tmp_path, texts)[0] == 0
    place = tmp_path / "second"
    code, made, told = run(call, pico_folder, place, texts, "--proposal", f"{tmp_path / 'library'}#policy")
    assert code == 0, told
    assert made is not None
    assert Library(place / "library").card("policy").recipe["proposal"].endswith("library#policy")
    code, _, told = run(
        call, pico_folder, tmp_path / "third", texts, "--proposal", pico_folder, "--method", "reinforce"
    )
    assert code == 2
    assert "a proposal is for gdc, gdc++" in told


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for name, (good, bad) in {"yes": ("aaa", "zzz"), "no": ("zzz", "aaa")}.items():
        rows = [{"prompt": f"{name} {n}: ", "chosen": f"{good}{n}", "rejected": f"{bad}{n}"} for n in range(40)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def prefer(call, base: object, pairs: Path, place: Path, texts: Path, *words: object):
    library = ["--library", place / "library", "--as", "policy", "--out", place / "run", "--general", texts]
    sizes = ["--rank", "4", "--layers", "all", "--passes", "4", "--learning-rate", "0.02", "--fresh", "8"]
    sizes += ["--tokens", "4", "--threads", "1", "--text-tokens", "32"]
    return call("align", "prefer", pairs, "--model", base, *sizes, *library, *words)


def test_interrupted_it_goes_on_to_what_an_unbroken_run_leaves(call, pico_folder, pairs, texts, tmp_path, monkeypatch):
    assert prefer(call, pico_folder, pairs, tmp_path / "unbroken", texts)[0] == 0

    class Stopping(StepBar):
        def log(self, step, values):
            super().log(step, values)
            if step == 19:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("collegium.recipes.aligning.prefer.StepBar", Stopping)
        assert prefer(call, pico_folder, pairs, tmp_path / "broken", texts)[0] == 130
    assert list((tmp_path / "broken" / "run" / "checkpoints").iterdir())
    assert prefer(call, pico_folder, pairs, tmp_path / "broken", texts)[0] == 0
    one, other = (Library(tmp_path / each / "library").card("policy") for each in ("unbroken", "broken"))
    assert one.payload == other.payload


def test_a_policy_learns_preferences(call, pico_folder: Path, pairs: Path, texts: Path, tmp_path: Path) -> None:
    code, made, told = prefer(call, pico_folder, pairs, tmp_path, texts)
    assert code == 0, told
    assert made is not None
    assert made["before"]["accuracy"] == {"no": 0.5, "yes": 0.5}
    assert made["before"]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert min(made["after"]["accuracy"].values()) > 0.9
    assert made["after"]["loss"] < 0.6
    assert made["before"]["kl_pi_a"] == 0.0
    assert set(made["after"]) == {
        "accuracy",
        "loss",
        "kl_pi_a",
        "distinct_2",
        "self_bleu_5",
        "general_perplexity",
        "intervals",
    }
    assert (tmp_path / "run" / "report.html").is_file()
    assert not (tmp_path / "run" / "checkpoints").exists()
    card = Library(tmp_path / "library").card("policy")
    assert card.recipe["method"] == "align dpo"
    assert set(card.documents) == {"train", "dev"}
    code, _, told = call("generate", "yes 3: ", "--model", f"{tmp_path / 'library'}#policy", "--tokens", "2")
    assert code == 0, told
    code, _, told = prefer(call, pico_folder, pairs, tmp_path, texts)
    assert code == 2
    assert "take another --as" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--beta", "0"], "beta"),
        (["--passes", "0"], "passes"),
        (["--domains", "yess"], "Did you mean 'yes'"),
        (["--model", "minilm-l6"], "has no output layer"),
    ],
)
def test_mistakes_about_preferences_are_told(call, pico_folder, pairs, texts, tmp_path, words, told) -> None:
    base = [] if "--model" in words else ["--model", pico_folder]
    library = ["--library", tmp_path / "library", "--as", "policy", "--general", texts]
    code, _, shown = call("align", "prefer", pairs, *base, *library, *words)
    assert code == 2
    assert told in shown
    assert not (tmp_path / "library").exists()
