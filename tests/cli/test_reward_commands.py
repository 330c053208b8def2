"""`reward fit / eval / score / grow / drop`: what they answer, write and leave alone."""

import json

import pandas
import peft
import pytest
import torch
from reward_world import SAME, fit_words, rows_of, write_pairs, write_rows
from transformers import AutoModelForSequenceClassification

from collegium.cli.main import main
from collegium.core.samples import Sample
from collegium.library import Library
from collegium.models import load_base
from collegium.recipes.rewarding.plan import StepClock
from collegium.rewards import DESIGNS, RewardRecord, open_reward
from collegium.testing.library import snapshot
from collegium.testing.pico import random_expert

MEMBERS = {
    "joint": {"joint-joint"},
    "multi": {"multi-heads"},
    "more": {"more-adapter", "more-experts-1", "more-experts-2"},
    "rodos": {"rodos-law", "rodos-code"},
    "arliss": {"arliss-law", "arliss-code", "arliss-router"},
}
FIELDS = {
    *("design", "accuracy", "length_matched", "floor", "router_accuracy", "parameters_resident", "parameters_active"),
    *("routes", "matrix", "confusion", "abstained", "ece", "pairs", "kinds", "usage", "skipped", "cut_texts"),
    *("route", "seconds"),
}


@pytest.fixture
def evaluated(ask, judged, pairs):
    def call(design, *words, data=pairs):
        code, found, shown = ask("reward", "eval", data, "--model", f"college#{design}", *SAME, *words)
        assert code == 0, shown
        return found

    return call


@pytest.mark.parametrize("design", DESIGNS)
def test_a_fit_tells_its_members_and_leaves_a_whole_library(ask, pairs, pico_folder, tmp_path, monkeypatch, design):
    monkeypatch.chdir(tmp_path)
    words = fit_words(pairs, "college", design, design, pico_folder)
    code, found, _ = ask(*words)
    assert code == 0
    assert (found["design"], found["domains"], found["name"]) == (design, ["code", "law"], design)
    library = Library("college", read_only=True)
    assert set(library) == MEMBERS[design]
    assert set(found["members"]) <= MEMBERS[design]
    assert all(each["dev_loss"] <= each["dev_loss_before"] for each in found["members"].values())
    assert library.verify() == {}
    assert found["parameters_active"] <= found["parameters_resident"]
    assert not list(tmp_path.glob("runs/*/checkpoints"))
    code, _, shown = ask(*words)
    assert code == 2
    assert "has a model" in shown


def test_tokens_seen_are_tokens(judged):
    card = Library("college").card("arliss-law")
    pairs_read = 32  # one pass in steps of eight pairs
    assert card.tokens_seen > 20 * pairs_read


@pytest.mark.parametrize("design", DESIGNS)
def test_eval_gives_the_documented_object_and_writes_a_report(evaluated, tmp_path, design):
    found = evaluated(design, "--out", tmp_path / "out")
    assert set(found) == FIELDS
    assert found["design"] == design
    assert set(found["accuracy"]) == {"code", "law"}
    assert found["accuracy"] == found["routes"]["router"]
    routed = DESIGNS[design].grows
    assert (found["router_accuracy"] is not None) == routed
    assert all(0 <= each <= 1 for each in found["accuracy"].values())
    assert found["pairs"]["law"] + found["skipped"]["law"] == 40
    assert f"Reward model {design}" in (tmp_path / "out" / "report.html").read_text()
    kept = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (kept["command"], kept["result"]) == ("reward eval", found)


@pytest.mark.parametrize("route", ["router", "average", "oracle"])
def test_accuracy_is_that_of_the_route_asked_for(evaluated, route):
    found = evaluated("rodos", "--route", route)
    assert (found["route"], found["accuracy"]) == (route, found["routes"][route])


def test_a_route_that_does_not_exist_has_no_figure(evaluated):
    assert evaluated("joint", "--route", "oracle")["accuracy"] == {"code": None, "law": None}


def test_prompts_that_were_seen_are_left_out_and_other_pairs_are_judged_whole(evaluated, tmp_path):
    known = evaluated("arliss")
    library = Library("college")
    documents = library.card("arliss-law").documents
    assert known["skipped"]["law"] == len(documents["train"]) + len(documents["dev"])
    found = evaluated("arliss", data=write_pairs(tmp_path / "fresh", "law", "code", seed=5, count=12))
    assert found["pairs"] == {"code": 12, "law": 12}
    assert found["skipped"] == {"code": 0, "law": 0}
    assert found["floor"] == {"code": None, "law": None}, "no training pair is among them"
    assert evaluated("arliss", "--budget", "5", data=tmp_path / "fresh")["pairs"] == {"code": 5, "law": 5}
    assert evaluated("arliss", "--domains", "law", data=tmp_path / "fresh")["pairs"] == {"law": 12}


def test_a_domain_without_a_judge_is_judged_by_those_there_are(evaluated, tmp_path):
    found = evaluated("arliss", data=write_pairs(tmp_path / "other", "film"))
    assert found["accuracy"].keys() == {"film"}
    assert found["routes"]["oracle"] == {"film": None}
    assert found["router_accuracy"] is None, "no pair is of a domain that the router knows"


def test_planning_an_evaluation_writes_nothing(ask, judged, pairs, tmp_path):
    before = snapshot(tmp_path)
    code, found, _ = ask("reward", "eval", pairs, "--model", "college#arliss", "--dry-run", *SAME)
    assert (code, set(found["plan"]["pairs"])) == (0, {"code", "law"})
    assert snapshot(tmp_path) == before
    assert not (tmp_path / "runs").exists()


def test_a_judge_is_asked_by_itself(evaluated, pico_folder):
    found = evaluated("arliss-law")
    assert (found["design"], list(found["matrix"]), found["router_accuracy"]) == ("single", ["arliss-law"], None)
    assert found["matrix"]["arliss-law"] == evaluated("arliss")["matrix"]["law"], "as the reward model's own judge says"


def table(path, rows):
    frame = pandas.DataFrame(rows)
    {"csv": frame.to_csv, "parquet": frame.to_parquet}[path.suffix[1:]](path, index=False)
    return path


ASKED = [{"prompt": f"law {n}?", "completion": f"abc{'xy'[n % 2]}"} for n in range(5)]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_rows_of_any_form_are_scored_alike(ask, judged, pico_folder, tmp_path, form):
    path = tmp_path / f"rows.{form}"
    if form == "jsonl":
        write_rows(path, ASKED)
    else:
        table(path, ASKED)
    code, found, _ = ask("reward", "score", path, "--model", "college#arliss", *SAME)
    assert code == 0
    assert [{key: row[key] for key in ("prompt", "completion")} for row in found["rows"]] == ASKED
    base = load_base(str(pico_folder))
    model = open_reward(base, Library("college", base=base), "arliss")
    expected = model([Sample(row["prompt"], row["completion"]) for row in ASKED]).tolist()
    assert [row["reward"] for row in found["rows"]] == pytest.approx(expected, abs=1e-4)
    assert {row["judge"] for row in found["rows"]} <= {"law", "code"}


def test_scores_are_standardised_unless_raw_numbers_are_asked_for(ask, judged, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", ASKED)
    words = ["reward", "score", path, "--model", "college#arliss-law", *SAME]
    shown = [row["reward"] for row in ask(*words)[1]["rows"]]
    raw = [row["reward"] for row in ask(*words, "--raw")[1]["rows"]]
    constants = Library("college").card("arliss-law").constants
    (mean,), (deviation,) = constants["mean"], constants["deviation"]
    assert shown == pytest.approx([(each - mean) / deviation for each in raw], abs=1e-4)
    assert shown != pytest.approx(raw, abs=1e-3)


def test_rows_of_programs_and_chats(judged, capsys, tmp_path):
    chat = {"prompt": [{"role": "user", "content": "law 1?"}], "completion": [{"role": "assistant", "content": "ab"}]}
    path = write_rows(tmp_path / "rows.jsonl", [chat, {**chat, "completion": "a" * 90}])
    assert main(["reward", "score", str(path), "--model", "college#rodos", "--jsonl", *SAME]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["prompt"] for row in rows] == [chat["prompt"]] * 2
    assert [row["completion"] for row in rows] == [chat["completion"], "a" * 90]
    assert [row["cut"] for row in rows] == [True, True], "the template's marks count as text"


def test_other_names_of_columns_and_the_average(ask, judged, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": "law 1?", "answer": "abx"}])
    words = ["reward", "score", path, "--model", "college#arliss", "--columns", "completion=answer", *SAME]
    assert ask(*words)[1]["rows"][0]["judge"] in ("law", "code")
    assert ask(*words, "--route", "average")[1]["rows"][0]["judge"] is None
    assert ask(*words, "--dry-run")[1] == {"plan": {"rows": 1}}


@pytest.mark.parametrize("design", [name for name, row in DESIGNS.items() if row.grows])
def test_a_domain_comes_and_goes_and_the_others_stay(ask, judged, evaluated, tmp_path, design):
    data = write_pairs(tmp_path / "more", "law", "film")
    before = evaluated(f"{design}-law")
    digests = {name: Library("college").expert_digest(name) for name in (f"{design}-law", f"{design}-code")}
    code, found, _ = ask("reward", "grow", data, "--model", f"college#{design}", *SAME)
    assert (code, found["came"], found["left"], found["domains"]) == (0, ["film"], [], ["code", "law", "film"])
    assert set(found["moved"]) == {"law", "code"}
    assert not list(tmp_path.glob("runs/*/checkpoints"))
    grown = evaluated(design, data=data)
    assert grown["matrix"].keys() == {"code", "law", "film"}
    code, found, _ = ask("reward", "drop", "code", "--model", f"college#{design}", *SAME)
    assert (code, found["left"], found["domains"]) == (0, ["code"], ["law", "film"])
    library = Library("college")
    assert f"{design}-code" not in library
    assert library.expert_digest(f"{design}-law") == digests[f"{design}-law"]
    assert library.verify() == {}
    after = evaluated(f"{design}-law")
    assert after["accuracy"] == before["accuracy"]


@pytest.mark.parametrize("design", DESIGNS)
def test_a_plan_measures_and_makes_nothing(ask, pairs, pico_folder, tmp_path, monkeypatch, design):
    monkeypatch.chdir(tmp_path)
    code, found, shown = ask(*fit_words(pairs, "college", "j", design, pico_folder, "--dry-run"))
    plan = found["plan"]
    assert code == 0
    assert plan["train_tokens_per_second"] > 0
    assert plan["expected_seconds"] > 0
    assert plan["domains"]["law"] == {"train_pairs": 31, "of": 31, "cut_texts": 0}
    assert "tokens a second (measured)" in shown
    assert ("2 whole models" in shown) == (design == "rodos")
    assert list(tmp_path.iterdir()) == []
    weights = 4 * sum(each.numel() for each in load_base(str(pico_folder)).inner.parameters())
    assert (plan["judging_bytes"] == 2 * weights) == (design == "rodos")
    assert (plan["disk_bytes"] > 2 * weights) == (design in ("rodos", "more"))


def test_the_plan_of_larger_judges_is_larger(ask, pairs, pico_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def bytes_of(design, *words):
        plan = ask(*fit_words(pairs, "college", "j", design, pico_folder, "--dry-run", *words))[1]["plan"]
        return plan["judging_bytes"]

    active, total, whole = (bytes_of("joint", "--size", size) for size in ("active", "total", "whole"))
    assert active < total < whole
    assert bytes_of("more", "--experts", "4") > bytes_of("more")


def test_a_clock_tells_the_first_step_from_the_later_ones(monkeypatch):
    moments = iter([0.0, 5.0, 6.0, 8.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(moments))
    clock = StepClock()
    for values in ({"held_out_loss": 1.0}, {"loss": 1.0}, {"loss": 1.0}, {"loss": 1.0}):
        clock.log(0, values)
    clock.log(3, {"held_out_loss": 1.0})
    assert clock.seconds == (5.0, 1.0)


def test_more_experts_than_domains_are_a_mixture_like_another(ask, pairs, pico_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, _ = ask(*fit_words(pairs, "college", "j", "more", pico_folder, "--experts", "3"))
    assert code == 0
    assert {f"j-experts-{number}" for number in (1, 2, 3)} <= set(Library("college"))


def test_texts_that_do_not_fit_are_cut_by_the_rule_and_counted(ask, pico_folder, tmp_path, monkeypatch):
    """A prompt keeps its last half of the room, an answer its first tokens in what is left."""
    monkeypatch.chdir(tmp_path)
    for name in ("law", "code"):
        rows = [{**row, "prompt": "p" * 100 + row["prompt"]} for row in rows_of(name)]
        write_rows(tmp_path / "long" / f"{name}.jsonl", rows)
    code, found, _ = ask(*fit_words("long", "college", "j", "arliss", pico_folder))
    assert code == 0
    assert found["members"]["j-law"]["cut_texts"] == 2 * (31 + 4)
    found = ask("reward", "eval", "long", "--model", "college#j", *SAME)[1]
    assert found["cut_texts"] == {name: 2 * count for name, count in found["pairs"].items()}


# -- the library's own commands ---------------------------------------------------------------------------------------


def test_a_library_tells_of_its_reward_models(ask, judged):
    code, found, shown = ask("library", "list", "--library", judged)
    assert (code, found["models"]) == (0, sorted(DESIGNS))
    assert {row["task"] for row in found["experts"]} == {"reward", "classification"}
    assert "model arliss: reward arliss of code, law; 3 members" in shown
    code, found, shown = ask("library", "show", "arliss", "--library", judged)
    assert (code, found["record"]["design"], found["record"]["members"]) == (
        *(0, "arliss"),
        ["arliss-code", "arliss-law", "arliss-router"],
    )
    assert "member arliss-router" in shown
    assert ask("library", "show", "arliss-law", "--library", judged)[1]["card"]["task"] == "reward"
    assert ask("library", "verify", "--library", judged)[0] == 0


def test_a_damaged_record_is_listed_and_does_not_hide_the_rest(ask, judged):
    (judged / "models" / "arliss.json").write_text("{")
    code, found, shown = ask("library", "list", "--library", judged)
    assert (code, "arliss" in found["models"]) == (0, True)
    assert "model 'arliss' is damaged" in shown


@pytest.mark.parametrize("design", DESIGNS)
def test_a_removed_reward_model_takes_members_and_routing_along(ask, judged, design):
    others = [name for name in Library(judged) if name not in MEMBERS[design]]
    code, found, _ = ask("library", "remove", design, "--library", judged)
    assert code == 0
    assert set(found["removed"]) >= {design, *MEMBERS[design]}
    library = Library(judged)
    assert list(library) == others
    assert not [name for name in library.router_names() if name.startswith(f"{design}-")]
    assert design not in library.model_names()
    assert library.verify() == {}


def test_a_member_is_not_removed_from_under_its_model(ask, judged):
    before = snapshot(judged)
    code, _, shown = ask("library", "remove", "arliss-law", "--library", judged)
    assert code == 2
    assert "arliss came from 'arliss-law'" in shown
    assert snapshot(judged) == before


@pytest.fixture
def speaking(judged, pico_folder):
    """The library with two experts that speak beside its judges."""
    base = load_base(str(pico_folder))
    library = Library(judged, base=base)
    for seed, name in enumerate(("law", "code")):
        library.add(random_expert(base, seed, name=name))
    return judged


def test_compositions_pass_judges_over(ask, speaking, texts):
    code, found, _ = ask("generate", "Article", "--model", f"{speaking}?router=uniform", "--tokens", 4, *SAME)
    assert code == 0
    words = ["eval", texts, "--model", f"{speaking}?router=uniform", *SAME]
    code, found, shown = ask(*words, "--context", 8, "--window", 32)
    assert code == 0, shown
    assert set(found["matrix"]) == {"law", "code"}


@pytest.mark.parametrize("name", ["arliss", "arliss-law", "rodos-law", "arliss-router", "joint"])
def test_what_writes_no_text_is_no_language_model(ask, speaking, name):
    for reference in (f"college#{name}", f"college?experts={name}"):
        if name in DESIGNS and "?" in reference:
            continue  # a model is no expert
        code, _, shown = ask("generate", "Article", "--model", reference, *SAME)
        assert code == 2
        assert "writes no text" in " ".join(shown.split())


def test_training_experts_that_speak_leaves_judges_alone(ask, judged, texts, tmp_path, pico_folder):
    before = {name: digest for name, digest in snapshot(judged).items() if name.split("/")[0] in ("experts", "models")}
    routings = Library(judged).router_names()
    words = ["train", texts, "--library", judged, "--base", pico_folder, "--steps", 2, "--window", 32, "--batch", 2]
    code, _, shown = ask(*words, "--rank", 2, "--out", tmp_path / "train", *SAME)
    assert code == 0, shown
    after = snapshot(judged)
    assert {name: after[name] for name in before} == before
    assert set(routings) < set(Library(judged).router_names()), "the routers of those that speak came, none went"
    assert {"law", "code"} <= set(Library(judged).names("language"))
    assert ask("library", "remove", "law", "--library", judged)[0] == 0
    assert RewardRecord.load(Library(judged), "arliss").domains == ("code", "law")


@pytest.mark.parametrize("form", ["vllm", "lorax", "gguf", "merged"])
@pytest.mark.parametrize("name", ["arliss-law", "arliss-router", "rodos-law", "more-experts-1"])
def test_forms_without_a_place_for_heads_refuse_judges(ask, judged, tmp_path, form, name):
    code, _, shown = ask("library", "export", name, "--library", judged, "--to", form, "--out", tmp_path / "out")
    assert code == 2
    assert f"nothing without its head, for which {form} has no place" in " ".join(shown.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_peft_folder_keeps_the_head(ask, judged, pico_folder, tmp_path):
    """PEFT opens the folder as a sequence classifier and gives the judge's own raw numbers."""
    words = ["library", "export", "arliss-law", "--library", judged, "--to", "peft", "--out", tmp_path / "out"]
    assert ask(*words)[0] == 0
    path = write_rows(tmp_path / "rows.jsonl", ASKED)
    words = ["reward", "score", path, "--model", "college#arliss-law", "--raw", *SAME]
    raw = [row["reward"] for row in ask(*words)[1]["rows"]]
    bare = AutoModelForSequenceClassification.from_pretrained(pico_folder, num_labels=1)
    theirs = peft.PeftModel.from_pretrained(bare, tmp_path / "out").eval()
    with torch.no_grad():
        found = [float(theirs(torch.tensor([[*(row["prompt"] + row["completion"]).encode()]])).logits) for row in ASKED]
    assert found == pytest.approx(raw, abs=1e-4)


def test_exports_of_all_take_the_experts_that_speak(ask, speaking, tmp_path):
    found = ask("library", "export", "--library", speaking, "--to", "vllm", "--out", tmp_path / "served")[1]
    assert found["experts"] == ["code", "law"]


@pytest.mark.parametrize("expression", ["0.5*arliss-law + 0.5*arliss-code", "average(arliss-law, arliss-code)"])
def test_judges_are_not_merged(ask, judged, expression):
    before = snapshot(judged)
    code, _, shown = ask("library", "merge", expression, "--library", judged, "--as", "both")
    assert code == 2
    assert "a head each" in shown
    assert snapshot(judged) == before


def test_a_plan_in_a_library_that_is_there_adds_nothing(ask, judged, pairs, pico_folder):
    before = snapshot(judged)
    assert ask(*fit_words(pairs, judged, "new", "arliss", pico_folder, "--dry-run"))[0] == 0
    assert snapshot(judged) == before
