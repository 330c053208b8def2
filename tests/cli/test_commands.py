"""Every command on a pico base: exit codes, the object that programs get, and what a mistake is told."""

import json
import shutil

import pytest

from collegium.cli.main import main
from collegium.library import Library
from collegium.models import BASES, device, load_base, pinned_folder

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


def test_nothing_is_no_row(capsys, library, pico_folder, tmp_path):
    Library(tmp_path / "none", base=load_base(pico_folder))
    capsys.readouterr()
    assert main(["library", "list", "--library", str(tmp_path / "none"), "--jsonl"]) == 0
    assert main(["library", "verify", "--library", str(library), "--jsonl"]) == 0
    assert capsys.readouterr().out == ""


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


def test_eval_where_no_domain_has_an_expert_has_no_accuracy(ask, library, texts, tmp_path):
    for name, other in (("law", "statutes"), ("code", "programs")):
        shutil.copytree(texts / name, tmp_path / "texts" / other)
    words = ["eval", tmp_path / "texts", "--model", library, "--window", "32", "--context", "8", "--threads", "1"]
    code, found, shown = ask(*words)
    assert code == 0
    assert (found["routing"]["accuracy"], found["routing"]["ece"]) == (None, None)
    assert found["routing"]["regret_nats_per_token"] is not None
    assert "routing: - % of windows" in shown
    assert "nan" not in shown


def test_eval_shows_answers_as_a_table(ask, pico_folder, tmp_path):
    rows = [{"prompt": f"Say {n}.", "completion": f"{n} {n}"} for n in range(5)]
    (tmp_path / "echo.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["eval", tmp_path, "--model", pico_folder, "--answer-tokens", "2", "--window", "32", "--context", "2"]
    code, found, shown = ask(*words)
    assert (code, found["answers"]["echo"]["rows"]) == (0, 5)
    assert "{" not in shown
    table = next(line for line in shown.splitlines() if line.startswith("answers"))
    assert table.split() == ["answers", "rows", "exact_match", "f1"]
    assert "0.00 (0.00 to 0.00)" in shown


def test_compare_sets_the_default(ask, library, texts):
    words = ["compare", texts, "--library", library, "--window", "32", "--context", "8", "--threads", "1"]
    code, found, _ = ask(*words)
    assert code == 0
    assert found["default_set"]
    assert "base" in [row["name"] for row in found["rows"]]


def test_generate_says_where_a_model_reads_no_further(ask, library):
    few = ("--tokens", "2", "--temperature", "0", "--threads", "1")
    many = ("--tokens", "100000", "--temperature", "0", "--threads", "1")
    code, found, shown = ask("generate", "Article 1.", "--model", f"{library}#law", *many)
    assert code == 0, shown
    assert found["ended"] == "length"
    assert f"stopped after {found['tokens']} tokens" in shown
    assert "stopped after" not in ask("generate", "Article 1.", "--model", f"{library}#law", *few)[2]


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


def test_a_library_made_with_a_relative_base_works_from_any_directory(ask, pico_folder, texts, tmp_path, monkeypatch):
    monkeypatch.chdir(pico_folder.parent)
    library = tmp_path / "college"
    words = ["train", texts, "--library", library, "--base", pico_folder.name, "--out", tmp_path / "run", *FEW]
    assert ask(*words, "--domains", "law")[0] == 0
    monkeypatch.chdir(tmp_path)
    assert ask("library", "list", "--library", library)[1]["base"] == str(pico_folder)
    assert ask("generate", "Article", "--model", "college", "--tokens", "1", "--threads", "1")[0] == 0


@pytest.mark.parametrize("place", ["{file}", "{file}/below", "/proc/foo"])
def test_a_run_needs_a_folder(ask, pico_folder, texts, tmp_path, place):
    (tmp_path / "file").write_text("")
    out = place.format(file=tmp_path / "file")
    words = ["train", texts, "--library", tmp_path / "college", "--base", pico_folder, "--out", out, *FEW]
    code, found, shown = ask(*words)
    assert (code, found) == (2, None)
    assert "--out is a folder" in shown
    assert "Traceback" not in shown


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


def test_describe_counts_and_finds_near_duplicates(ask, texts, pico_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("collegium.models.sources._read_model", None)  # counting tokens needs no weights
    code, found, shown = ask("data", "describe", texts, "--base", pico_folder)
    assert code == 0
    assert {row["name"]: row["documents"] for row in found["domains"]} == {"law": 12, "code": 12}
    assert all(row["tokens"] == row["bytes"] for row in found["domains"])  # a byte tokenizer
    assert found["near_duplicates"] == []
    shutil.copytree(texts, tmp_path / "copy")
    shutil.copy(tmp_path / "copy" / "law" / "00.txt", tmp_path / "copy" / "code" / "law.txt")
    (tmp_path / "copy" / "sources.json").write_text('{"domains": {"law": [{"name": "a court", "licence": "CC0"}]}}')
    code, found, shown = ask("data", "describe", tmp_path / "copy")
    assert "law comes from a court, licence: CC0" in shown
    assert found["near_duplicates"][0]["similarity"] == 1.0
    assert "100 % the same" in shown


def test_pull_says_first_what_it_would_do(ask, tmp_path):
    code, found, _ = ask("data", "pull", tmp_path / "texts", "--dry-run")
    assert (code, sorted(found["domains"])) == (0, ["chat", "code", "drama", "speeches"])
    assert not (tmp_path / "texts").exists()


def test_pull_says_first_which_pairs_it_would_fetch(ask, tmp_path):
    code, found, _ = ask("data", "pull", tmp_path / "pairs", "--preferences", "--dry-run")
    assert (code, found["domains"]) == (0, ["checked", "code", "film", "headline", "ratings", "turn"])
    code, found, shown = ask("data", "pull", tmp_path / "pairs", "--hub", "hh", "--dry-run")
    assert (code, found["hub"]) == (0, "hh")
    assert "pairs of hh" in shown
    assert not (tmp_path / "pairs").exists()


def test_pull_writes_pairs_of_code_without_a_network(ask, tmp_path):
    words = ["data", "pull", tmp_path / "pairs", "--preferences", "--domains", "code"]
    code, found, shown = ask(*words)
    assert code == 0
    assert [row["name"] for row in found["domains"]] == ["code"]
    assert found["domains"][0]["pairs"] == len((tmp_path / "pairs" / "code.jsonl").read_text().splitlines()) >= 400
    assert "code (corruption) comes from standard library of Python" in shown
    assert ask(*words)[0] == 0
    code, _, shown = ask(*words, "--seed", "1")
    assert code == 2
    assert "choose another folder" in shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--preferences", "--hub", "hh"], "give one of them"),
        (["--domains", "code"], "--domains is for --preferences and --labelled"),
        (["--rows", "3"], "--rows is for --hub"),
        (["--hub", "hh", "--rows", "-1"], "--rows is for --hub"),
        (["--hub", "hhh"], "Did you mean 'hh'"),
        (["--hub", "hh"], "cannot be fetched"),
        (["--hub", "wos"], "data pull FOLDER --labelled"),
        (["--preferences", "--domains", "cod"], "Did you mean 'code'"),
    ],
)
def test_mistakes_about_pairs_are_told(ask, tmp_path, words, told):
    code, _, shown = ask("data", "pull", tmp_path / "pairs", *words)
    assert code == 2
    assert told in " ".join(shown.split())
    assert not (tmp_path / "pairs").exists()


def test_discover_writes_domains_that_can_be_read(ask, texts, tmp_path):
    words = ["discover", texts, "--domains", "2", "--out", tmp_path / "found", "--threads", "1"]
    code, found, shown = ask(*words, "--dry-run")
    assert (code, found["out"], (tmp_path / "found").exists()) == (0, None, False)
    code, found, shown = ask(*words)
    assert code == 0
    assert found["nmi"] == pytest.approx(1.0)
    assert sorted(path.stem for path in (tmp_path / "found").glob("*.jsonl")) == ["cluster-0", "cluster-1"]
    assert "NMI" in shown
    assert "under 3 documents" not in shown
    for row in found["clusters"]:
        written = (tmp_path / "found" / f"{row['name']}.jsonl").read_text().lower()
        assert all(term in written for term in row["top_terms"])
    code, _, shown = ask(*words)
    assert code == 2
    assert "exists already" in shown


def test_discover_says_which_clusters_are_too_small(ask, tmp_path):
    for name, words in (("law", "court tenant rent"), ("code", "loop string value")):
        (tmp_path / "texts" / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "texts" / name / f"{number}.txt").write_text(f"{words} {words.split()[number % 3]}")
    (tmp_path / "texts" / "code" / "copy.txt").write_text("court tenant rent court")
    command = ["discover", tmp_path / "texts", "--out", tmp_path / "out", "--threads", "1", "--dry-run", "--domains"]
    code, found, shown = ask(*command, "6")
    few = sum(row["documents"] < 3 for row in found["clusters"])
    assert code == 0
    assert f"{few} of {len(found['clusters'])} clusters have under 3 documents" in shown
    assert f"{6 - len(found['clusters'])} of the 6 asked for came out empty: lower --domains" in shown
    assert sum(row["documents"] for row in found["clusters"]) == 6, "equal texts are one document"
    assert ask(*command, "2")[1]["nmi"] == pytest.approx(1.0), "a text of both domains has no label"


def test_doctor_tells_device_speed_and_versions(ask):
    code, found, _ = ask("doctor", "--device", "cpu", "--threads", "1")
    assert code == 0
    assert found["device"] == "cpu"
    assert found["gigaflops"]["float32"] > 0
    assert found["fits_parameters"]["bfloat16"] > found["fits_parameters"]["float32"] > 0


def test_doctor_measures_anew_and_takes_no_lock_for_a_base(ask, tmp_path, monkeypatch):
    monkeypatch.setenv("COLLEGIUM_CACHE", str(tmp_path))
    monkeypatch.setattr(device, "_gigaflops", lambda dtype, place: 2.0)
    name, pinned = next(iter(BASES.items()))
    lock = pinned_folder(name, pinned).with_suffix(".lock")
    lock.parent.mkdir()
    lock.touch()
    assert ask("doctor")[1]["bases"] == dict.fromkeys(BASES, False)
    lock.with_suffix("").mkdir()
    monkeypatch.setattr(device, "_gigaflops", lambda dtype, place: 3.0)
    found = ask("doctor")[1]
    assert found["bases"] == {**dict.fromkeys(BASES, False), name: True}
    assert found["gigaflops"] == {"float32": 3.0, "bfloat16": 3.0}


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
        (["compare", "{texts}", "--library", "{library}", "--max-slowdown", "inf"], "finite"),
        (["generate", "x", "--model", "{library}", "--experts", "law=.5,law=.5"], "comes twice"),
        (["generate", "x", "--model", "{library}", "--temperature", "nan"], "--temperature"),
        (["generate", "x", "--model", "{library}", "--temperature", "inf"], "--temperature"),
        (["generate", "x", "--model", "{library}", "--repetition-penalty", "inf"], "--repetition-penalty"),
        (["generate", "x", "--model", "{library}", "--stop", ""], "--stop"),
        (["eval", "{texts}", "--model", "{library}", "--context", "-5"], "--context -5"),
        (["eval", "{texts}", "--model", "{library}", "--answer-rows", "-1"], "answer_rows is at least 1"),
        (["eval", "{texts}", "--model", "{library}", "--budget", "9" * 400], "numbers up to"),
        (["eval", "{texts}", "--model", "{library}", "--budget", "99999999999999999999"], "numbers up to"),
        (["train", "{texts}", "--library", "{library}", "--learning-rate", "inf"], "learning_rate is positive"),
        (["train", "{texts}", "--library", "{library}", "--learning-rate", "nan"], "learning_rate is positive"),
        (["doctor", "--threads", "100000000000"], "--threads"),
        (["doctor", "--device", "tpu"], "a device is one of"),
        (["doctor", "--threads", "-1"], "--threads"),
        (["doctor", "--dtype", "float3"], "Did you mean 'float32'?"),
        (["library", "show", "lw", "--library", "{library}"], "Did you mean 'law'?"),
        (["library", "list", "--library", "{texts}"], "there is no library"),
    ],
)
def test_mistakes_are_told(ask, library, texts, words, lesson):
    code, found, shown = ask(*(word.format(texts=texts, library=library) for word in words))
    assert (code, found) == (2, None)
    assert lesson in shown
    assert "Traceback" not in shown
