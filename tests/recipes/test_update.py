"""`library update`: documents to their experts, those alone trained further, all others to the bit as they were."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from letters import text
from listening import Log

from collegium.cli.main import main
from collegium.compose import Cast, attach_expert
from collegium.core.errors import ConfigError, DataError, LibraryError, UnknownName
from collegium.data import Document
from collegium.experts import FitConfig, load_expert, parents_of
from collegium.library import Library
from collegium.models import load_base
from collegium.recipes import train
from collegium.recipes.common import Common
from collegium.recipes.updating import further, sorting
from collegium.recipes.updating import run as updating
from collegium.recipes.watch import Silent
from collegium.routers import fixed, uniform
from collegium.testing.pico import random_expert

COMMON = Common(device="cpu", dtype="float32", threads=1)
FIT = FitConfig(window=64, batch=4, steps=24, evaluate_every=6, dev_tokens=256, learning_rate=3e-3)


@pytest.fixture(scope="module")
def trained(texts: Path, pico_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of law and sea; nobody has read of kitchens."""
    folder = tmp_path_factory.mktemp("libraries") / "college"
    config = train.TrainConfig(
        data=texts,
        library=folder,
        base=str(pico_folder),
        domains=("law", "sea"),
        out=folder.parent / "out",
        fit=dataclasses.replace(FIT, kind="ffn"),
        common=COMMON,
    )
    train.run(config, watch=Silent())
    return folder


@pytest.fixture
def config(trained: Path, tmp_path: Path) -> updating.UpdateConfig:
    library = tmp_path / "college"
    shutil.copytree(trained, library)
    docs = tmp_path / "inbox"
    (docs / "of today").mkdir(parents=True)
    for number in range(100, 124):
        (docs / "of today" / f"letter {number}.txt").write_text(text("law", number))
    for number in range(100, 102):
        (docs / f"note-{number}.txt").write_text(text("sea", number))
    (docs / "odd.md").write_text(text("kitchen", 100))
    (docs / "x.txt").write_text("x")
    return updating.UpdateConfig(library=library, docs=docs, out=tmp_path / "out", fit=FIT, common=COMMON)


def digests(path: Path) -> dict[str, str | None]:
    library = Library(path)
    assert library.verify() == {}
    return {name: library.expert_digest(name) for name in library}


@pytest.mark.recipe
def test_documents_go_to_their_expert_which_alone_is_trained_further(config, trained):
    before, log = digests(config.library), Log()
    found = updating.run(config, watch=log).result
    law = found["experts"]["law"]
    assert law["outcome"] == "updated"
    assert law["documents"] == 24
    assert law["tokens_seen"] > 0
    assert law["perplexity_after"] < law["perplexity_before"]
    assert found["experts"]["sea"] == {"outcome": "too few documents", "documents": 2}
    left = {Path(row["document"]).name: row["why"] for row in found["left"]}
    assert left["odd.md"] in {"abstained", "base"}, "nobody is an expert of kitchens"
    assert left["x.txt"] == "short"
    assert found["untouched"] == {"sea": before["sea"]}
    assert found["changed_by_others"] == []
    now = digests(config.library)
    assert now["sea"] == before["sea"]
    assert now["law"] == law["digest_after"] != before["law"] == law["digest_before"]
    library = Library(config.library)
    card, old = library.card("law"), Library(trained).card("law")
    assert card.parents == {"law": before["law"]}
    assert card.domain == "law"
    assert set(card.documents["train"]) > set(old.documents["train"])
    assert load_expert(Path(law["earlier"])).digest == before["law"]
    assert law["stale_routers"] == []
    for router in library.router_names():
        assert library.load_router(router)[1]["experts"]["law"] == now["law"], router
    assert not (config.out / "work" / "law").exists()


@pytest.mark.recipe
def test_once_more_changes_nothing_and_a_later_inbox_keeps_what_was_for_tests(config):
    first = updating.run(config, watch=Silent()).result
    after = digests(config.library)
    again = updating.run(config, watch=Silent()).result
    assert digests(config.library) == after
    assert {key: value for key, value in again["experts"]["law"].items() if key != "seconds"} == {
        key: value for key, value in first["experts"]["law"].items() if key != "seconds"
    }
    elsewhere = updating.run(dataclasses.replace(config, out=config.out.with_name("anew")), watch=Silent()).result
    assert elsewhere["experts"]["law"]["outcome"] == "too few documents"
    assert elsewhere["left_counts"]["seen"] == 24 - elsewhere["experts"]["law"]["documents"]
    assert digests(config.library) == after


@pytest.mark.recipe
@pytest.mark.parametrize("place", ["fit", "exchange", "routers", "figures"])
def test_interrupted_anywhere_the_command_leaves_what_an_unbroken_run_leaves(config, tmp_path, monkeypatch, place):
    whole = dataclasses.replace(config, library=tmp_path / "whole" / "college", out=tmp_path / "whole" / "out")
    shutil.copytree(config.library, whole.library)
    updating.run(whole, watch=Silent())

    def stop(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if place == "fit":
            patch.setattr(further.StepBar, "log", lambda self, step, values: stop() if step == 9 else None)
        elif place == "exchange":
            patch.setattr("collegium.library.replacement._exchange", stop)
        else:
            patch.setattr(updating, {"routers": "carry_rows", "figures": "figures"}[place], stop)
        with pytest.raises(KeyboardInterrupt):
            updating.run(config, watch=Silent())
    updating.run(config, watch=Silent())
    assert digests(config.library) == digests(whole.library)
    for router in Library(config.library).router_names():
        cards = [Library(each.library).load_router(router)[1]["experts"] for each in (config, whole)]
        assert cards[0] == cards[1]


@pytest.mark.recipe
def test_a_dry_run_sorts_and_touches_nothing_and_a_router_of_the_library_may_sort(config):
    before = digests(config.library)
    for router in ("posterior", "classifier", "default"):
        plan = updating.run(dataclasses.replace(config, dry_run=True, router=router), watch=Silent()).result
        assert plan["experts"]["law"] == {"outcome": "would be updated", "documents": 24}
    assert digests(config.library) == before
    assert not config.out.exists()


@pytest.mark.recipe
def test_an_expert_that_others_came_from_or_was_not_asked_for_stays(config):
    library = Library(config.library, base=load_base(Library(config.library).base_reference))
    base = library.base
    assert base is not None
    child = random_expert(base, kind="ffn", name="child")
    object.__setattr__(child, "card", dataclasses.replace(child.card, parents=parents_of([library["law"]])))
    library.add(child)
    before = digests(config.library)
    with pytest.raises(LibraryError, match="child came from 'law'"):
        updating.run(config, watch=Silent())
    assert digests(config.library) == before
    with pytest.raises(UnknownName, match="lav"):
        updating.run(dataclasses.replace(config, experts=("lav",)), watch=Silent())
    apart = dataclasses.replace(config, experts=("sea",), out=config.out.with_name("apart"))
    assert updating.run(apart, watch=Silent()).result["experts"]["law"]["outcome"] == "not asked for"
    assert digests(config.library) == before
    kept = dataclasses.replace(config, keep_descendants=True)
    assert updating.run(kept, watch=Silent()).result["experts"]["law"]["outcome"] == "updated"


@pytest.mark.recipe
def test_an_expert_that_gains_nothing_stays_as_it_was(config):
    before, log = digests(config.library), Log()
    idle = dataclasses.replace(config, fit=dataclasses.replace(FIT, learning_rate=1.0))
    found = updating.run(idle, watch=log).result
    assert found["experts"]["law"]["outcome"] == "no gain"
    assert digests(config.library) == before
    assert any("gained nothing" in line for line in log.lines)


@pytest.mark.recipe
def test_the_command_shows_what_moved_and_ends_with_one_object(config, capsys):
    words = ["library", "update", config.library, config.docs, "--out", config.out, "--steps", "12", "--window", "64"]
    words += ["--batch", "4", "--threads", "1", "--dtype", "float32", "--learning-rate", "0.003", "--json"]
    assert main([str(word) for word in words]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["experts"]["law"]["outcome"] == "updated"
    assert set(found) >= {"left", "untouched", "seconds", "router"}


@pytest.mark.recipe
def test_a_whole_model_is_trained_further_as_what_it_is(texts, pico_folder, tmp_path):
    made = train.TrainConfig(
        data=texts,
        library=tmp_path / "forest",
        base=str(pico_folder),
        domains=("law", "sea"),
        whole=True,
        routers=False,
        out=tmp_path / "out",
        fit=FIT,
        common=COMMON,
    )
    train.run(made, watch=Silent())
    docs = tmp_path / "inbox"
    docs.mkdir()
    for number in range(100, 112):
        (docs / f"{number}.txt").write_text(text("law", number))
    before = digests(made.library)
    config = updating.UpdateConfig(library=made.library, docs=docs, out=tmp_path / "run", fit=FIT, common=COMMON)
    law = updating.run(config, watch=Silent()).result["experts"]["law"]
    assert law["outcome"] == "updated"
    assert law["perplexity_after"] < law["perplexity_before"]
    card = Library(made.library).card("law")
    assert (card.kind, card.parents) == ("whole", {"law": before["law"]})
    assert digests(made.library)["sea"] == before["sea"]


@pytest.mark.parametrize(
    ("fields", "match"),
    [({"kind": "ffn"}, "leave --kind out"), ({"rank": 4}, "leave --rank out"), ({"layers": "top:1"}, "leave --layers")],
)
def test_kind_and_sizes_are_the_experts_own(tmp_path, fields, match):
    fit = dataclasses.replace(FIT, **fields)
    config = updating.UpdateConfig(library=tmp_path / "none", docs=tmp_path, fit=fit, common=COMMON)
    with pytest.raises(ConfigError, match=match):
        updating.run(config, watch=Silent())


def test_an_empty_library_and_no_documents_are_refused(tmp_path, texts, pico_folder):
    base = load_base(pico_folder)
    Library(tmp_path / "college", base=base, base_reference=str(pico_folder))
    config = updating.UpdateConfig(library=tmp_path / "college", docs=texts, out=tmp_path / "out", common=COMMON)
    with pytest.raises(LibraryError, match="holds no language expert, so there is none to update"):
        updating.run(config, watch=Silent())
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="holds no text"):
        updating.run(dataclasses.replace(config, docs=tmp_path / "nothing"), watch=Silent())
    with pytest.raises(LibraryError, match="there is no library"):
        updating.run(dataclasses.replace(config, library=tmp_path / "none"), watch=Silent())


def test_whom_the_router_gives_to_nobody_and_whom_the_base_reads_as_well_are_left(pico):
    names = ("law", "sea")
    adapters = {name: random_expert(pico, seed, kind="ia3", name=name) for seed, name in enumerate(names)}
    cast = Cast(pico, {name: attach_expert(pico, each) for name, each in adapters.items()}, {})
    documents = [Document(text=f"The court finds that tenant {number} owed rent.") for number in range(4)]
    sorting_of = functools.partial(sorting.sort_documents, documents, cast, window=32, watch=Silent())
    router = fixed({"law": 1.0}).bind(names)
    assert set(sorting_of(router).left.values()) == {"base"}, "a random expert reads worse than the base"
    nobody = fixed({"law": 0.2}).bind(names)
    assert set(sorting_of(nobody).left.values()) == {"abstained"}
    assert set(sorting_of(router, doubter=nobody).left.values()) == {"abstained"}
    assert set(sorting_of(router, doubter=uniform().bind(names)).left.values()) == {"base"}
    assert sorting_of(router).mine == {}


def test_documents_for_tests_alone_are_never_trained_on():
    documents = [Document(text=f"text number {number}") for number in range(200)]
    tests = [each for each in documents if int(each.hash, 16) % 10 == 0]
    others = [each for each in documents if each not in tests]
    assert len(tests) > 3
    assert not sorting.trainable(tests)
    assert not sorting.trainable([*tests, others[0]])
    assert sorting.trainable([*tests, *others[:2]])
    assert not sorting.trainable(others[:2])


def test_an_update_writes_its_plan_as_plain_values(tmp_path) -> None:
    found: dict[str, Any] = updating._counts({"a": "base", "b": "base", "c": "seen"})
    assert found == {"base": 2, "seen": 1}
