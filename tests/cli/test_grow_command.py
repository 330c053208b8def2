"""`library grow`: what it prints, what a plan leaves, and how mistakes are answered."""

import shutil

import pytest

from collegium.data import read_domains
from collegium.experts import FitConfig, fit_expert
from collegium.library import Library
from collegium.models import load_base
from collegium.testing.library import snapshot

QUICK = ("--tokens", 256, "--window", 32, "--context", 4, "--device", "cpu", "--dtype", "float32", "--threads", 1)


@pytest.fixture
def library(pico_folder, texts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = load_base(str(pico_folder))
    made = Library(tmp_path / "college", base=base, base_reference=str(pico_folder))
    settings = FitConfig(rank=2, steps=2, window=32, batch=2, threads=1)
    made.add(fit_expert(base, read_domains(texts)["law"], config=settings))
    return made


def test_a_domain_that_arrives_is_learnt_and_told(ask, library, texts):
    digest = library.expert_digest("law")
    code, found, shown = ask("library", "grow", texts, "--library", library.path, "--policy", "new", *QUICK)
    assert code == 0, shown
    assert found["arrivals"]["code"]["decision"] == "new"
    assert found["known"] == {"law": "law"}
    assert list(found["domains"]) == ["code", "law"]
    assert list(found["experts"]["untouched"]) == ["law"]
    assert {"base", "before", "after", "text"} == set(found["domains"]["code"])
    assert "1 untouched, their weights the same to the bit" in shown
    assert library.expert_digest("law") == digest
    assert library.card("code").recipe["rank"] == 2, "made as the others were"


def test_a_plan_leaves_nothing(ask, library, texts):
    before = snapshot(library.path)
    code, found, shown = ask("library", "grow", texts, "--library", library.path, "--dry-run", *QUICK)
    assert code == 0, shown
    assert found["plan"]["code"]["nearest"] == "law"
    assert snapshot(library.path) == before


@pytest.mark.parametrize(
    ("words", "way_out"),
    [
        ((), "--most K"),
        (("--retire", "lwa"), "law"),
        (("nowhere",), "does not exist"),
        (("{texts}", "--near", "0"), "--policy extend"),
        (("{texts}", "--as", "classifier"), "router"),
    ],
)
def test_mistakes_are_answered(ask, library, texts, words, way_out):
    before = snapshot(library.path)
    given = [word.replace("{texts}", str(texts)) for word in words]
    code, found, shown = ask("library", "grow", *given, "--library", library.path, *QUICK)
    assert (code, found) == (2, None)
    assert way_out in shown
    assert snapshot(library.path) == before


def test_what_is_no_library_is_refused(ask, texts, tmp_path):
    shutil.copytree(texts, tmp_path / "texts")
    code, _, shown = ask("library", "grow", texts, "--library", tmp_path / "texts", *QUICK)
    assert code == 2
    assert "library" in shown
