"""`train` goes on where it was, whoever shares the work, and leaves nothing but experts."""

import dataclasses
from pathlib import Path

import pytest
from listening import Log

from collegium.core.errors import ConfigError, LibraryError, TrainingError
from collegium.experts import FitConfig
from collegium.library import Library
from collegium.models import KINDS
from collegium.recipes import branch, evaluate, train
from collegium.recipes.building.parts import Parts
from collegium.recipes.common import Common
from collegium.recipes.keep import remove_expert
from collegium.recipes.watch import Silent

COMMON = Common(device="cpu", dtype="float32", threads=2)
FIT = FitConfig(window=32, batch=2, steps=4, evaluate_every=2, dev_tokens=64)


def config(**fields: object) -> train.TrainConfig:
    given = {"data": Path("texts"), "library": Path("library"), "fit": FIT, "common": COMMON, **fields}
    return train.TrainConfig(**given)  # pyright: ignore[reportArgumentType]


def test_a_budget_of_time_gives_the_same_steps_when_the_run_goes_on(pico, tmp_path, monkeypatch):
    speeds = iter([640.0, 6400.0, 64.0])
    monkeypatch.setattr(train, "tokens_per_second", lambda base, fit: next(speeds))
    timed = config(budget="10s")
    parts = Parts(tmp_path)
    assert train.resolve_fit(timed, pico, threads=1, parts=parts).steps == 100
    assert train.resolve_fit(timed, pico, threads=1, parts=parts).steps == 100
    assert train.resolve_fit(config(budget="20s"), pico, threads=1, parts=parts).steps == 2000
    assert train.resolve_fit(timed, pico, threads=1).steps == 10, "a dry run measures and keeps nothing"


def test_a_budget_of_time_for_whole_models_asks_for_their_speed(pico, monkeypatch):
    monkeypatch.setattr(train, "whole_tokens_per_second", lambda base, fit: 64.0)
    assert train.resolve_fit(config(budget="10s", whole=True), pico, threads=1).steps == 10


def test_the_run_folder_does_not_depend_on_how_many_share_the_work():
    shared = train.work_folder(config(workers=2), 1)
    assert shared == train.work_folder(config(workers=1, common=dataclasses.replace(COMMON, threads=1)), 1)
    assert shared != train.work_folder(config(), 2)


@pytest.mark.recipe
def test_whole_models_are_resumed_kept_warned_of_and_leave_no_checkpoints(texts, pico_folder, tmp_path, monkeypatch):
    whole = config(
        data=texts,
        library=tmp_path / "library",
        base=str(pico_folder),
        whole=True,
        routers=False,
        out=tmp_path / "out",
        fit=dataclasses.replace(FIT, learning_rate=1e-9),
        common=dataclasses.replace(COMMON, threads=1),
    )
    first = train.run(dataclasses.replace(whole, domains=("law",)), watch=Silent())
    assert first.result["experts"]["law"]["branch"] == {"base": 1.0}
    left = tmp_path / "out" / "law" / "checkpoints" / "step-00000002"
    left.mkdir(parents=True)  # as a kill between keeping and clearing away leaves it

    def wrong(*arguments: object, **named: object) -> None:
        raise ValueError("a mistake of ours")

    log = Log()
    grown = dataclasses.replace(whole, parents=("law",))
    with monkeypatch.context() as patch:
        patch.setattr(branch, "branch_weights", wrong)
        with pytest.raises(TrainingError, match="2 of 2 experts failed"):
            train.run(grown, watch=log)
    train.run(grown, watch=log)
    library = Library(whole.library)
    assert set(library.names()) == {"law", "sea", "kitchen"}
    assert set(library.card("sea").parents) == {"law"}
    assert not list((tmp_path / "out").glob("*/*"))
    for name in ("sea", "kitchen"):
        warnings = library.card(name).warnings
        assert all(f"{name}: {warning}" in log.lines for warning in warnings)


@pytest.mark.parametrize("odd", [{"rank": 4}, {"alpha": 8.0}, {"targets": ("q_proj",)}, {"layers": "top:2"}])
def test_settings_of_low_rank_experts_are_refused_for_whole_models(odd):
    with pytest.raises(ConfigError, match=f"--whole.*{next(iter(odd))} is for "):
        train.run(config(whole=True, fit=dataclasses.replace(FIT, **odd)), watch=Silent())


@pytest.mark.recipe
def test_whole_models_branch_from_their_parents_and_speak_together(texts, pico_folder, tmp_path):
    alone = dataclasses.replace(COMMON, threads=1)
    config = train.TrainConfig(
        data=texts,
        library=tmp_path / "library",
        base=str(pico_folder),
        domains=("law", "sea"),
        whole=True,
        out=tmp_path / "out",
        fit=FitConfig(window=64, batch=8, evaluate_every=10, steps=6, learning_rate=3e-3),
        common=alone,
    )
    train.run(config, watch=Silent())
    grown = dataclasses.replace(config, domains=("kitchen",), parents=("law", "sea"))
    branch = train.run(grown, watch=Silent()).result["experts"]["kitchen"]["branch"]
    assert sum(branch.values()) == pytest.approx(1)
    library = Library(config.library)
    assert set(library.card("kitchen").parents) == {"law", "sea"}
    with pytest.raises(LibraryError, match="kitchen"):
        remove_expert(library, "law")
    for query in ("", "?compose=merge&experts=law,sea"):
        model, log = f"{config.library}{query}", Log()
        found = evaluate.run(
            evaluate.EvalConfig(data=texts, model=model, window=64, context=16, budget="600", common=alone),
            watch=log,
        ).result
        who = "law, sea" if query else "kitchen, law, sea"
        assert f"loading whole models beside the base ({who})" in " ".join(log.lines)
        assert all(found["composed"][name] < found["base"][name] for name in ("law", "sea"))
    with pytest.raises(ConfigError, match="--whole"):
        train.run(dataclasses.replace(grown, whole=False), watch=Silent())


@pytest.mark.recipe
@pytest.mark.parametrize("kind", KINDS)
def test_experts_of_every_kind_are_planned_trained_and_kept(kind, texts, pico_folder, tmp_path):
    asked = config(
        data=texts,
        library=tmp_path / "library",
        base=str(pico_folder),
        routers=False,
        fit=dataclasses.replace(FIT, kind=kind),
        out=tmp_path / "out",
    )
    plan = train.run(dataclasses.replace(asked, dry_run=True), watch=Silent()).result["plan"]
    made = train.run(asked, watch=Silent())
    library = Library(tmp_path / "library")
    assert {library.card(name).kind for name in library} == {kind} == {plan["kind"]}
    assert {library.card(name).recipe["method"] for name in library} == {f"fit {kind}"}
    (numbers,) = {row["trained_parameters"] for row in made.result["experts"].values()}
    assert plan["disk_bytes"] >= 4 * numbers * len(library)
    assert library.verify() == {}
    assert train.run(asked, watch=Silent()).result["experts"] == {}, "what is there is left alone"


@pytest.mark.recipe
def test_a_library_of_several_kinds_is_evaluated(texts, pico_folder, tmp_path):
    library = tmp_path / "library"
    for domain, kind in zip(sorted(each.name for each in texts.iterdir()), ("ia3", "prefix"), strict=False):
        asked = config(data=texts, library=library, base=str(pico_folder), routers=False, out=tmp_path / "out")
        fit = dataclasses.replace(FIT, kind=kind)
        train.run(dataclasses.replace(asked, fit=fit, domains=(Path(domain).stem,)), watch=Silent())
    judged = evaluate.EvalConfig(data=texts, model=f"{library}?router=uniform", window=32, context=8, common=COMMON)
    found = evaluate.run(judged, watch=Silent()).result
    assert {Library(library).card(name).kind for name in found["matrix"]} == {"ia3", "prefix"}
    assert all(value > 0 for row in found["matrix"].values() for value in row.values())
