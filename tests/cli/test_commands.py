"""Every command on a pico base: exit codes, the object that programs get, and what a mistake is told."""

import json
import shutil

import pytest

from collegium.cli.main import main

FEW = ["--steps", "2", "--rank", "2", "--window", "32", "--threads", "1"]


@pytest.fixture(scope="module")
def library(pico_folder, texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("libraries") / "college"
    work = tmp_path_factory.mktemp("runs")
    words = ["train", texts, "--library", folder, "--base", pico_folder, "--out", work, *FEW]
    assert main([str(word) for word in words]) == 0
    return folder


def test_train_tells_what_became_of_every_domain(ask, library, pico_folder, texts, tmp_path):
    words = ["train", texts, "--library", tmp_path / "new", "--base", pico_folder, "--out", tmp_path / "run", *FEW]
    code, found, shown = ask(*words, "--domains", "law", "--no-routers")
    assert code == 0
    assert list(found["experts"]) == ["law"]
    assert found["experts"]["law"]["tokens_seen"] > 0
    assert "law" in shown


def test_list_and_show(ask, library):
    code, found, shown = ask("library", "list", "--library", library)
    assert code == 0
    assert [row["name"] for row in found["experts"]] == ["code", "law"]
    assert found["routers"] == ["cached_prior", "classifier", "cluster"]
    assert "2 experts" in shown
    code, found, shown = ask("library", "show", "law", "--library", library)
    assert (code, found["card"]["name"], found["descendants"]) == (0, "law", [])
    assert "law" in shown


def test_lists_as_rows(capsys, library):
    capsys.readouterr()
    assert main(["library", "list", "--library", str(library), "--jsonl"]) == 0
    assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == ["code", "law"]


def test_eval_has_the_promised_shape(ask, library, texts):
    code, found, shown = ask("eval", texts, "--model", library, "--window", "32", "--context", "8", "--threads", "1")
    assert code == 0
    assert {"base", "matrix", "composed", "oracle", "bits_per_byte", "routing", "seconds"} <= set(found)
    assert {name: set(row) for name, row in found["matrix"].items()} == {
        "law": {"law", "code"},
        "code": {"law", "code"},
    }
    assert set(found["routing"]) >= {"accuracy", "regret_nats_per_token", "ece"}
    assert "oracle" in shown


def test_compare_sets_the_default(ask, library, texts):
    words = ["compare", texts, "--library", library, "--window", "32", "--context", "8", "--threads", "1"]
    code, found, _ = ask(*words)
    assert code == 0
    assert found["default_set"]
    assert "base" in [row["name"] for row in found["rows"]]


def test_generate_says_who_spoke(ask, library):
    model = f"{library}?router=posterior&compose=ensemble"
    code, found, shown = ask("generate", "Article 1.", "--model", model, "--tokens", "4", "--temperature", "0")
    assert code == 0
    assert found["tokens"] <= 4
    assert set(found["speakers"]) == {"law", "code"}
    assert "who spoke" in shown


def test_add_and_remove(ask, library, tmp_path):
    code, found, _ = ask("library", "add", library / "experts" / "law", "--library", library, "--as", "statutes")
    assert (code, found["added"]) == (0, "statutes")
    code, found, shown = ask("library", "add", library / "experts" / "law", "--library", library, "--as", "statutes")
    assert (code, found) == (2, None)
    assert "already" in shown
    code, found, _ = ask("library", "remove", "statutes", "--library", library, "--dry-run")
    assert (code, found["would_remove"]) == (0, ["statutes"])
    code, found, _ = ask("library", "remove", "statutes", "--library", library)
    assert (code, found["removed"], found["kept"]) == (0, ["statutes"], [])
    code, _, shown = ask("library", "remove", "statutes", "--library", library)
    assert code == 2
    assert "no expert" in shown or "statutes" in shown


def test_adding_to_no_library_needs_a_base(ask, library, pico_folder, tmp_path):
    law = library / "experts" / "law"
    code, _, shown = ask("library", "add", law, "--library", tmp_path / "none")
    assert code == 2
    assert "--base" in shown
    code, found, _ = ask("library", "add", law, "--library", tmp_path / "made", "--base", pico_folder)
    assert (code, found["added"]) == (0, "law")


def test_verify_finds_damage(ask, library, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(library, copy)
    assert ask("library", "verify", "--library", copy)[:2] == (
        0,
        {"checked": 2, "shapes_compared": True, "problems": {}},
    )
    weights = copy / "experts" / "law" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    code, found, shown = ask("library", "verify", "--library", copy)
    assert (code, list(found["problems"])) == (1, ["law"])
    assert "law" in shown


def test_describe_counts_and_finds_near_duplicates(ask, texts, pico_folder, tmp_path):
    code, found, shown = ask("data", "describe", texts, "--base", pico_folder)
    assert code == 0
    assert {row["name"]: row["documents"] for row in found["domains"]} == {"law": 12, "code": 12}
    assert all(row["tokens"] == row["bytes"] for row in found["domains"])  # a byte tokenizer
    assert found["near_duplicates"] == []
    shutil.copytree(texts, tmp_path / "copy")
    shutil.copy(tmp_path / "copy" / "law" / "00.txt", tmp_path / "copy" / "code" / "law.txt")
    code, found, shown = ask("data", "describe", tmp_path / "copy")
    assert found["near_duplicates"][0]["similarity"] == 1.0
    assert "100 % the same" in shown


def test_pull_says_first_what_it_would_do(ask, tmp_path):
    code, found, _ = ask("data", "pull", tmp_path / "texts", "--dry-run")
    assert (code, sorted(found["domains"])) == (0, ["chat", "code", "drama", "speeches"])
    assert not (tmp_path / "texts").exists()


def test_discover_writes_domains_that_can_be_read(ask, texts, tmp_path):
    words = ["discover", texts, "--domains", "2", "--out", tmp_path / "found", "--threads", "1"]
    code, found, shown = ask(*words, "--dry-run")
    assert (code, found["out"], (tmp_path / "found").exists()) == (0, None, False)
    code, found, shown = ask(*words)
    assert code == 0
    assert found["nmi"] == pytest.approx(1.0)
    assert sorted(path.stem for path in (tmp_path / "found").glob("*.jsonl")) == ["cluster-0", "cluster-1"]
    assert "NMI" in shown
    code, _, shown = ask(*words)
    assert code == 2
    assert "exists already" in shown


def test_doctor_tells_device_speed_and_versions(ask):
    code, found, _ = ask("doctor", "--device", "cpu", "--threads", "1")
    assert code == 0
    assert found["device"] == "cpu"
    assert found["gigaflops"]["float32"] > 0
    assert found["fits_parameters"]["bfloat16"] > found["fits_parameters"]["float32"] > 0


def test_claims_and_benches_are_listed(ask):
    code, found, _ = ask("claims", "list")
    assert code == 0
    assert {"M1", "M2", "M3"} <= {row["id"] for row in found["claims"]}
    code, found, _ = ask("bench", "list")
    assert code == 0
    assert all(row["what"] for row in found["benches"])
    code, found, _ = ask("claims", "run", "M3", "--dry-run")
    assert code == 0
    code, _, shown = ask("claims", "run", "M3", "--budget", "200k")
    assert code == 2
    assert "a time" in shown


@pytest.mark.parametrize(
    ("words", "lesson"),
    [
        (["eval", "{texts}", "--model", "{library}?router=postrior"], "Did you mean 'posterior'?"),
        (["eval", "{texts}", "--model", "{library}#lw"], "Did you mean 'law'?"),
        (["eval", "{texts}/none", "--model", "{library}"], "does not exist"),
        (["generate", "x", "--model", "no-such-base"], "no base is called"),
        (["generate", "", "--model", "{library}"], "empty"),
        (["generate", "x", "--model", "{library}", "--experts", "law=much"], "NAME=WEIGHT"),
        (["compare", "{texts}", "--library", "{library}", "--max-slowdown", "0.5"], "at least 1"),
        (["doctor", "--device", "tpu"], "a device is one of"),
        (["doctor", "--threads", "-1"], "--threads"),
        (["library", "show", "lw", "--library", "{library}"], "Did you mean 'law'?"),
        (["library", "list", "--library", "{texts}"], "there is no library"),
    ],
)
def test_mistakes_are_told(ask, library, texts, words, lesson):
    code, found, shown = ask(*(word.format(texts=texts, library=library) for word in words))
    assert (code, found) == (2, None)
    assert lesson in shown
    assert "Traceback" not in shown
