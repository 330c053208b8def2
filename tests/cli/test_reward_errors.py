"""Mistakes with reward models: exit code 2, one sentence with the rule and the way out, and nothing half made."""

import json
import shutil

import pytest
import torch
from reward_world import QUICK, SAME, fit_words, rows_of, write_pairs, write_rows
from safetensors.torch import load_file, save_file

from collegium.core.cards import json_object
from collegium.core.files import file_hash
from collegium.library import Library
from collegium.rewards import DESIGNS


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The folder where commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fit(refused, world, pairs, pico_folder):
    """Return a function that asks for a fit that cannot be."""

    def call(*words, says, data=pairs, design="arliss", name="j"):
        base = () if "--base" in words else ("--base", pico_folder)
        asked = ("reward", "fit", data, "--library", "new", "--as", name, "--design", design, *base, *QUICK, *words)
        refused(*asked, says=says, root=world)

    return call


def pairs_with(root, **changes):
    """Write two domains of pairs, of which the eighth row of one is changed; None takes a column away."""
    write_pairs(root, "law", "code")
    rows = rows_of("law")
    rows[7] = {key: value for key, value in {**rows[7], **changes}.items() if value is not None}
    write_rows(root / "law.jsonl", rows)
    return root


EQUAL = rows_of("law")[7]["chosen"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rejected": None}, ("law.jsonl:8", "there is no column `rejected`", "--columns rejected=NAME")),
        ({"rejected": EQUAL}, ("law.jsonl:8", "`chosen` equals `rejected`", "--drop-unusable")),
        ({"chosen": " "}, ("law.jsonl:8", "`chosen` is empty", "--drop-unusable")),
        ({"prompt": ""}, ("law.jsonl:8", "`prompt` is empty", "--drop-unusable")),
        ({"margin": float("nan")}, ("law.jsonl:8", "`margin` holds a finite number, got nan")),
        ({"margin": float("inf")}, ("law.jsonl:8", "`margin` holds a finite number, got inf")),
        ({"rejected": 5}, ("law.jsonl:8", "a text or a list of messages")),
    ],
)
def test_a_row_that_is_no_pair_is_named(fit, world, changes, says):
    fit(data=pairs_with(world / "bad", **changes), says=says)


def test_unusable_pairs_are_left_out_when_asked(ask, world, pico_folder):
    data = pairs_with(world / "bad", rejected=EQUAL)
    assert ask(*fit_words(data, "new", "j", "joint", pico_folder, "--drop-unusable"))[0] == 0


@pytest.mark.parametrize("design", [name for name in DESIGNS if name != "joint"])
def test_a_single_domain_leaves_nothing_to_choose(fit, world, design):
    says = (f"--design {design} chooses among judges of several domains, the data has one (law)", "--design joint")
    fit(data=write_pairs(world / "one", "law"), design=design, says=says)


def test_a_judge_of_one_domain_is_a_joint_one(ask, world, pico_folder):
    assert ask(*fit_words(write_pairs(world / "one", "law"), "new", "j", "joint", pico_folder))[0] == 0


@pytest.mark.parametrize("plan", [[], ["--dry-run"]])
def test_no_more_experts_are_chosen_than_there_are(fit, plan):
    fit("--experts", 3, "--top-k", 5, *plan, design="more", says="--top-k chooses among the experts of a layer: 5 of 3")
    fit("--top-k", 3, *plan, design="more", says="3 of 2")


@pytest.mark.parametrize("plan", [[], ["--dry-run"]])
def test_a_base_reads_as_far_as_its_context(fit, plan):
    fit("--text-tokens", 600, *plan, says="pico reads at most 512 tokens, got 600")
    fit("--text-tokens", 4, *plan, says="text_tokens is at least 8, got 4")


def test_answers_that_differ_behind_the_cut_teach_nothing(fit, world):
    data = write_pairs(world / "long", "law", "code")
    rows = [{**row, "chosen": "a" * 60 + "x", "rejected": "a" * 60 + "y"} for row in rows_of("law")]
    write_rows(data / "law.jsonl", rows)
    fit(data=data, says=("no pair is left of law", "do not differ in their first 48 tokens", "--text-tokens"))


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("domain", ["router", "routing-2", "joint", "heads", "adapter", "experts-1"])
def test_no_domain_has_the_name_of_another_member(fit, world, design, domain):
    data = write_pairs(world / "odd", "law", domain)
    fit(data=data, design=design, says=(f"a domain cannot be called '{domain}'", "Rename it"))


def test_a_domain_needs_prompts_in_each_part(fit, world):
    write_pairs(world / "few", "law", count=2)
    fit(data=write_pairs(world / "few", "code"), says="domain 'law' has pairs of 2 different prompts; at least 3")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--domains", "lew"], "Did you mean 'law'?"),
        (["--budget", "5m"], "`reduced` or `full`, got '5m'"),
        (["--base", "smollm2"], "no base is called 'smollm2'"),
        (["--layers", "top:x"], "got 'top:x'"),
        (["--targets", "nope"], "no linear layer is called 'nope'"),
        (["--batch", 0, "--rank", 0], ("batch is at least 1", "rank is at least 1")),
        (["--threshold", 2], "threshold lies in [0, 1]"),
        (["--columns", "chosn=better"], "chosen"),
        (["--out", "a-file"], "--out is a folder"),
    ],
)
def test_settings_that_cannot_be_are_told(fit, world, words, says):
    (world / "a-file").write_text("x")
    fit(*words, says=says)


def test_an_unknown_design_has_a_neighbour(fit):
    fit(design="arlis", says="Did you mean 'arliss'?")


@pytest.mark.parametrize(
    ("name", "says"),
    [("a/b", "path parts"), ("base", "the base model's own name"), ("classifier", "the name of a router")],
)
def test_names_that_cannot_be(fit, name, says):
    fit(name=name, says=says)


@pytest.mark.parametrize("plan", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("name", "says"),
    [("arliss", "collegium reward grow"), ("rodos-law", "already"), ("arliss-routing", "already")],
)
def test_a_name_that_is_taken(refused, judged, pairs, pico_folder, name, says, plan):
    words = fit_words(pairs, "college", name, "arliss", pico_folder, *plan)
    refused(*words, says=says, root=judged.parent)


def test_a_member_of_other_making_is_not_taken_for_ones_own(refused, judged, world, pairs, pico_folder):
    """A model that was never finished leaves members behind; they serve the same fit alone."""
    (judged / "models" / "arliss.json").unlink()
    shutil.rmtree(judged / "routers" / "arliss-routing")
    says = "of other settings"
    words = fit_words(pairs, "college", "arliss", "rodos", pico_folder, "--out", "out")
    (world / "out").mkdir()
    refused(*words, says=(says, "kind 'lora' there, 'whole' here"), root=judged)
    other = write_pairs(world / "other", "law", "code", seed=3)
    words = fit_words(other, "college", "arliss", "arliss", pico_folder, "--out", "out")
    refused(*words, says=(says, "pairs 'others' there"), root=judged)
    words = fit_words(pairs, "college", "arliss", "arliss", pico_folder, "--out", "out", "--rank", 2)
    refused(*words, says=(says, "rank 4 there, 2 here"), root=judged)


def test_parts_of_another_mixture_are_not_taken_for_ones_own(refused, judged, pairs, pico_folder):
    (judged / "models" / "more.json").unlink()
    words = fit_words(pairs, "college", "more", "more", pico_folder, "--out", "out", "--top-k", 1)
    refused(*words, says="of another mixture", root=judged)


def test_a_diverging_fit_is_told_and_leaves_no_member(ask, world, pairs, pico_folder):
    code, found, shown = ask(
        *fit_words(pairs, "new", "j", "arliss", pico_folder), "--learning-rate", "1e30", "--passes", 20
    )
    told = " ".join(shown.split())
    assert (code, found) == (2, None)
    assert "a fit stops at the first that is not finite" in told
    assert "Traceback" not in told
    library = Library(world / "new")
    assert (list(library), library.model_names(), library.router_names()) == ([], (), ())


# -- reward models that are damaged ------------------------------------------------------------------------------------


def rewrite(judged, name, change):
    """Change an adapter's tensors, and its card's checksum with them: a file written that way from the start."""
    folder = judged / "experts" / name
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(change(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    card = json.loads((folder / "card.json").read_text())
    card["payload"]["adapter_model.safetensors"] = file_hash(folder / "adapter_model.safetensors")
    (folder / "card.json").write_text(json.dumps(card))


def evaluate(pairs, name):
    return ("reward", "eval", pairs, "--model", f"college#{name}", *SAME)


def test_an_adapter_that_holds_no_number(refused, judged, pairs):
    def change(tensors):
        key = next(key for key in tensors if "lora_B" in key)
        return {**tensors, key: torch.full_like(tensors[key], float("nan"))}

    rewrite(judged, "arliss-law", change)
    refused(*evaluate(pairs, "arliss"), says=("arliss-law", "NaN"), root=judged.parent)


def test_an_adapter_without_its_head(refused, judged, pairs):
    rewrite(judged, "arliss-law", lambda tensors: {key: each for key, each in tensors.items() if "score" not in key})
    refused(*evaluate(pairs, "arliss"), says=("arliss-law", "head"), root=judged.parent)


def test_a_file_that_was_changed_is_noticed(refused, judged, pairs):
    path = judged / "experts" / "arliss-law" / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(*evaluate(pairs, "arliss"), says="arliss-law", root=judged.parent)


@pytest.mark.parametrize("design", [name for name, row in DESIGNS.items() if row.grows])
def test_a_router_that_knows_other_domains(refused, judged, pairs, design):
    library = Library(judged)
    tensors, card = library.load_router(f"{design}-routing")
    library.save_router(f"{design}-routing", tensors, {**card, "domains": ["code", "chat"]})
    refused(*evaluate(pairs, design), says=("code, chat", "reward grow"), root=judged.parent)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"kind": "policy"}, "no reward model"),
        ({"version": 99}, "version 99"),
        ({"judges": 5}, "damaged"),
        ({"members": ["gone"]}, "the library lacks"),
    ],
)
def test_a_record_that_is_none(refused, judged, pairs, record, says):
    path = judged / "models" / "arliss.json"
    path.write_text(json.dumps({**json_object(path.read_text(), where="it"), **record}))
    refused(*evaluate(pairs, "arliss"), says=says, root=judged.parent)


@pytest.mark.parametrize("name", ["more-adapter", "more-experts-1", "multi-heads"])
def test_parts_that_judge_together_are_not_asked_alone(refused, judged, pairs, name):
    model = name.partition("-")[0]
    refused(*evaluate(pairs, name), says=f"is a part of reward model '{model}'", root=judged.parent)


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("college", "is named LIB#NAME"),
        ("nowhere#arliss", "there is no library"),
        ("college#arlis", "Did you mean 'arliss'?"),
        ("college#arliss-router", "is for classification, not for reward"),
        ("college#a#b", "LIB#NAME"),
    ],
)
def test_references_that_name_no_reward_model(refused, judged, pairs, reference, says):
    for command in (("eval", pairs), ("drop", "law"), ("grow", pairs)):
        refused("reward", *command, "--model", reference, *SAME, says=says, root=judged.parent)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--route", "best"], "router, average or oracle, got 'best'"),
        (["--budget", "5m"], "`full` or a number of pairs, got '5m'"),
        (["--domains", "lew"], "Did you mean 'law'?"),
        (["--batch", "0"], "--batch"),
    ],
)
def test_evaluations_that_cannot_be(refused, judged, pairs, words, says):
    refused(*evaluate(pairs, "arliss"), *words, says=says, root=judged.parent)


def test_pairs_that_were_all_seen_judge_nothing(refused, judged, pairs):
    seen = set(Library(judged).card("joint-joint").documents["train"])
    from collegium.data.preferences import Pair

    rows = [row for row in rows_of("law") if Pair(**row).hash in seen]
    data = write_rows(judged.parent / "seen" / "law.jsonl", rows).parent
    refused(*evaluate(data, "joint"), says=("was fitted on every prompt", "Give other pairs"), root=judged.parent)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a"}, ("rows.jsonl:1", "lacks `completion`", "--columns completion=answer")),
        ({"prompt": "a", "completion": 5}, ("rows.jsonl:1", "got 5")),
        ({"prompt": "", "completion": "b"}, "empty"),
        ({"prompt": "a", "completion": ""}, "empty"),
        ({"prompt": "a", "completion": [{"role": "assistant"}]}, "rows.jsonl:1"),
    ],
)
def test_rows_that_cannot_be_scored(refused, judged, row, says):
    write_rows(judged.parent / "rows.jsonl", [row])
    refused("reward", "score", "rows.jsonl", "--model", "college#arliss", *SAME, says=says, root=judged.parent)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--route", "oracle"], "--route is router or average"),
        (["--batch", "0"], "--batch is at least 1"),
        (["--columns", "chosen=better"], "renames prompt and completion"),
    ],
)
def test_scorings_that_cannot_be(refused, judged, words, says):
    write_rows(judged.parent / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    words = ["reward", "score", "rows.jsonl", "--model", "college#arliss", *SAME, *words]
    refused(*words, says=says, root=judged.parent)


# -- domains that come and go ------------------------------------------------------------------------------------------


def test_the_last_two_domains_stay_together(refused, judged):
    words = ("reward", "drop", "law", "--model", "college#arliss", *SAME)
    refused(*words, says=("has two domains", "LIB#arliss-code", "library remove arliss"), root=judged.parent)


@pytest.mark.parametrize("design", [name for name, row in DESIGNS.items() if not row.grows])
def test_designs_of_one_piece_neither_grow_nor_shrink(refused, judged, world, design):
    says = (f"is of design {design}", "no domain comes or goes")
    refused("reward", "drop", "law", "--model", f"college#{design}", *SAME, says=says, root=judged.parent)
    data = write_pairs(world / "more", "film")
    refused("reward", "grow", data, "--model", f"college#{design}", *SAME, says=says, root=judged.parent)


def test_growth_that_cannot_be_makes_nothing(refused, judged, world, pairs):
    words = ("--model", "college#arliss", *SAME)
    refused("reward", "grow", pairs, *words, says="has all of these domains already", root=judged.parent)
    refused("reward", "drop", "lew", *words, says="Did you mean 'law'?", root=judged.parent)
    data = write_pairs(world / "tiny", "film", count=2)
    refused("reward", "grow", data, *words, says="at least 3 are needed", root=judged.parent)
    data = write_pairs(world / "odd", "router")
    refused("reward", "grow", data, *words, says="a domain cannot be called 'router'", root=judged.parent)
