"""`library grow` from end to end: what arrives is learnt, who is not touched stays the same to the bit."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from listening import Log

from collegium.core.errors import ConfigError
from collegium.experts import FitConfig
from collegium.library import Library
from collegium.models import load_base
from collegium.recipes import train
from collegium.recipes.common import Common
from collegium.recipes.growing import keeping
from collegium.recipes.growing import run as growing
from collegium.recipes.growing.keeping import payload_hashes
from collegium.recipes.growing.run import GrowConfig
from collegium.recipes.watch import Silent
from collegium.testing.library import snapshot

WORDS = {
    "law": ["court", "statute", "plaintiff", "appeal", "verdict", "jury", "counsel", "decree", "tribunal", "clause"],
    "sea": ["harbour", "anchor", "schooner", "tide", "rudder", "mast", "gull", "reef", "keel", "lantern"],
    "kitchen": ["butter", "onion", "skillet", "simmer", "flour", "garlic", "oven", "pepper", "whisk", "broth"],
}
"""Those of the texts in `conftest.py`."""
COMMON = Common(device="cpu", dtype="float32", threads=1)
FIT = FitConfig(rank=4, window=64, batch=4, steps=40, evaluate_every=20, learning_rate=0.01)

pytestmark = pytest.mark.recipe


def lay_out(root: Path, name: str, words: str, *, first: int = 100) -> Path:
    """A domain of other texts with the words of one of the three."""
    (root / name).mkdir(parents=True)
    for number in range(first, first + 24):
        draw = random.Random(f"{name} {number}")
        lines = [" ".join(draw.choices(WORDS[words], k=7)).capitalize() + "." for _ in range(14)]
        (root / name / f"{number}.txt").write_text(" ".join(lines))
    return root


@pytest.fixture(scope="session")
def trained(texts, pico_folder, tmp_path_factory) -> Path:
    """A library of `law` and `sea`."""
    path = tmp_path_factory.mktemp("trained") / "library"
    config = train.TrainConfig(
        data=texts,
        library=path,
        base=str(pico_folder),
        domains=("law", "sea"),
        out=path.parent / "out",
        fit=FIT,
        common=COMMON,
    )
    train.run(config, watch=Silent())
    return path


@pytest.fixture
def config(trained, tmp_path, texts) -> GrowConfig:
    path = shutil.copytree(trained, tmp_path / "library")
    own = tmp_path / "own"
    for name in ("law", "sea"):
        shutil.copytree(texts / name, own / name)
    return GrowConfig(
        docs=tmp_path / "docs", library=path, texts=own, out=tmp_path / "out", tokens=1024, window=64, context=8,
        common=COMMON,
    )  # fmt: skip


def told(config: GrowConfig, watch=None):
    return growing.run(config, watch=watch or Silent()).result


def test_a_stranger_gets_an_expert_and_a_relative_extends_the_nearest(config, tmp_path, texts):
    docs = lay_out(tmp_path / "docs", "appeals", "law")
    shutil.copytree(texts / "kitchen", docs / "kitchen")
    before = payload_hashes(Library(config.library))
    log = Log()
    found = told(config, log)
    rows = found["arrivals"]
    assert (rows["appeals"]["decision"], rows["appeals"]["expert"]) == ("extend", "law"), log.lines
    assert rows["appeals"]["posterior"]["law"] > 0.9
    assert rows["appeals"]["gain_ratio"] > 0.5 > rows["kitchen"]["gain_ratio"]
    assert (rows["kitchen"]["decision"], rows["kitchen"]["expert"]) == ("new", "kitchen")
    library = Library(config.library)
    assert library.names() == ("kitchen", "law", "law-before", "sea")
    after = payload_hashes(library)
    assert found["experts"] == {
        "new": ["kitchen", "law-before"],
        "replaced": ["law"],
        "removed": [],
        "untouched": {"sea": before["sea"]},
    }
    assert (after["sea"], after["law-before"]) == (before["sea"], before["law"]), "the law of growth"
    assert after["law"] != before["law"], "seen to fail for an expert that is touched"
    assert library.card("law").parents == {"law-before": library.expert_digest("law-before")}
    assert library.card("law").recipe["rank"] == FIT.rank
    domains = found["domains"]
    assert domains["kitchen"]["after"] < 0.9 * domains["kitchen"]["before"]
    assert domains["appeals"]["after"] < domains["appeals"]["before"]
    assert domains["law"]["after"] < 1.05 * domains["law"]["before"]
    assert {row["text"] for row in domains.values()} == {"test"}
    assert found["tokens_trained"] == sum(row["tokens_trained"] for row in rows.values()) > 0
    assert not list((tmp_path / "out").rglob("checkpoints/*"))
    assert_routed(config, ("kitchen", "law", "law-before", "sea"))
    assert any("cluster" in line and "kitchen" in line for line in log.lines), "who could not take it says so"

    stays = snapshot(config.library)
    again = told(config)
    assert (again["known"], again["arrivals"]) == ({"appeals": "law", "kitchen": "kitchen"}, {})
    assert snapshot(config.library) == stays, "what was learnt does not arrive twice"


def assert_routed(config: GrowConfig, names: tuple[str, ...]) -> None:
    """The routers know every expert; `cluster` keeps the words of its first fit, and the kitchen shares none."""
    library = Library(config.library, read_only=True)
    for router in ("classifier", "cached_prior"):
        assert set(library.load_router(router)[1]["experts"]) == set(names), router


def test_a_folder_of_ones_own_becomes_an_expert_beside_what_is_remembered(config, tmp_path):
    """Without any texts of the library's experts: they are judged on what the cached prior remembers."""
    notes = lay_out(tmp_path / "docs", "notes", "kitchen") / "notes"
    found = told(replace(config, docs=notes.parent, texts=None, steps=20))
    assert found["arrivals"]["notes"]["decision"] == "new"
    assert found["arrivals"]["notes"]["own_gain_nats"] is None
    assert {name: row["text"] for name, row in found["domains"].items()} == {
        "notes": "test", "law": "remembered", "sea": "remembered",
    }  # fmt: skip
    assert found["domains"]["notes"]["after"] < found["domains"]["notes"]["before"]
    assert set(found["experts"]["untouched"]) == {"law", "sea"}
    assert_routed(config, ("law", "notes", "sea"))


def test_all_documents_may_be_one_domain(config, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    for name, words in (("monday", "sea"), ("tuesday", "kitchen")):
        lay_out(tmp_path / "days", name, words)
        pages = sorted((tmp_path / "days" / name).iterdir())
        (docs / f"{name}.txt").write_text("\n\n".join(page.read_text() for page in pages))
    found = told(replace(config, name="diary", steps=2, policy="new"))
    assert list(found["arrivals"]) == ["diary"]
    assert "diary" in Library(config.library)


def test_replacing_consolidating_and_retiring(config, tmp_path, texts):
    docs = lay_out(tmp_path / "docs", "appeals", "law")
    shutil.copytree(texts / "kitchen", docs / "kitchen")
    found = told(replace(config, replace=True, steps=10, policy="auto"))
    assert Library(config.library).names() == ("kitchen", "law", "sea")
    assert found["arrivals"]["appeals"]["kept_as"] is None
    shutil.copytree(docs / "kitchen", config.texts / "kitchen")
    hashes = payload_hashes(Library(config.library))
    found = told(replace(config, docs=None, most=2))
    (merged,) = found["merged"]
    library = Library(config.library)
    assert len(library.names()) == 2
    assert merged["into"] in library
    (untouched,) = found["experts"]["untouched"].items()
    assert hashes[untouched[0]] == untouched[1]
    assert set(library.card(merged["into"]).parents) == set(merged["experts"])
    assert_routed(config, library.names())
    found = told(replace(config, docs=None, retire=(untouched[0],)))
    assert (found["retired"], Library(config.library).names()) == ([untouched[0]], (merged["into"],))


def test_a_plan_decides_and_makes_nothing(config, tmp_path):
    lay_out(tmp_path / "docs", "appeals", "law")
    before = snapshot(config.library)
    found = told(replace(config, dry_run=True))
    assert found["plan"]["appeals"]["decision"] == "extend"
    with pytest.raises(ConfigError, match="--policy extend: law cannot go on"):
        told(replace(config, dry_run=True, texts=None, policy="extend"))
    assert snapshot(config.library) == before
    assert not config.out.exists()  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize("at", ["training", "before the exchange", "inside the exchange"])
def test_a_run_that_is_interrupted_loses_no_expert_and_goes_on(config, tmp_path, monkeypatch, at):
    lay_out(tmp_path / "docs", "appeals", "law")
    law = payload_hashes(Library(config.library))["law"]

    def fail(*_, **__):
        raise KeyboardInterrupt

    where = {"training": "fit_further", "before the exchange": "put_in_place", "inside the exchange": "replace_expert"}
    place = keeping if at == "inside the exchange" else growing
    with monkeypatch.context() as patched:
        patched.setattr(place, where[at], fail)
        with pytest.raises(KeyboardInterrupt):
            told(config)
    assert payload_hashes(Library(config.library))["law"] == law
    told(config)
    hashes = payload_hashes(Library(config.library))
    assert law in hashes.values()
    assert hashes["law"] != law
    base = load_base(Library(config.library).base_reference)
    assert Library(config.library, base=base).verify() == {}
