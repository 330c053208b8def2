"""`train --joint`: a new base and its library, made whole or not at all, whatever interrupts it."""

import dataclasses
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from listening import Log
from test_killed import contents as everything
from test_killed import trainer

from collegium.cli.main import main
from collegium.core.errors import ConfigError, DataError, LibraryError, ResourceError
from collegium.experts import FitConfig
from collegium.library import Library
from collegium.models import load_base
from collegium.recipes import evaluate, joint, train
from collegium.recipes.common import Common
from collegium.recipes.watch import Silent

COMMON = Common(device="cpu", dtype="float32", threads=1)
FIT = FitConfig(window=64, batch=4, steps=12, evaluate_every=6, dev_tokens=256, learning_rate=3e-3)


@pytest.fixture
def config(texts: Path, pico_folder: Path, tmp_path: Path) -> train.TrainConfig:
    return train.TrainConfig(
        data=texts,
        library=tmp_path / "college",
        base=str(pico_folder),
        joint=True,
        out=tmp_path / "out",
        fit=FIT,
        common=COMMON,
    )


def contents(path: Path) -> dict[str, Any]:
    library = Library(path)
    assert library.verify() == {}
    return {name: library.card(name).payload for name in library} | {"routers": library.router_names()}


@pytest.mark.recipe
def test_joint_training_makes_a_base_and_a_library_whose_experts_know_their_domains(config, texts, tmp_path):
    log = Log()
    made = train.run(config, watch=log).result
    assert "holds" in log.lines[0]
    assert made["base"] == str(tmp_path / "college-base")
    assert set(made["experts"]) == {"law", "sea", "kitchen"}
    assert all(row["held_out_nats"] < row["held_out_nats_before"] for row in made["experts"].values())
    library = Library(config.library)
    shared = load_base(made["base"])
    assert shared.fingerprint == library.base_fingerprint
    assert library.base_reference == made["base"]
    assert {library.card(name).kind for name in library} == {"ffn"}
    assert {library.card(name).recipe["method"] for name in library} == {"joint ffn"}
    assert library.verify() == {}
    assert library.router_names() == ("cached_prior", "classifier", "cluster")
    judged = {"data": texts, "window": 64, "context": 16, "common": COMMON}
    for query in ("", "?router=cached_prior", "?compose=mix"):
        model = f"{config.library}{query}"
        found = evaluate.run(evaluate.EvalConfig(model=model, **judged), watch=Silent()).result
        if "prior" not in query:  # one prior for all domains
            assert all(found["composed"][name] < found["base"][name] for name in library)
        assert all(min(found["matrix"], key=lambda one: found["matrix"][one][name]) == name for name in library)
    assert not (tmp_path / "out" / "joint").exists()
    again = Log()
    assert train.run(config, watch=again).result["experts"] == {}
    assert any("already" in line for line in again.lines)


@pytest.mark.recipe
@pytest.mark.parametrize("place", ["fit", "base", "expert", "routers"])
def test_interrupted_anywhere_the_command_leaves_what_an_unbroken_run_leaves(config, tmp_path, monkeypatch, place):
    unbroken = dataclasses.replace(config, library=tmp_path / "whole" / "college", out=tmp_path / "whole" / "out")
    train.run(unbroken, watch=Silent())

    def stop(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if place == "fit":
            patch.setattr(joint.StepBar, "log", lambda self, step, values: stop() if step == 20 else None)
        elif place == "base":
            patch.setattr(joint, "write_new", stop)
        elif place == "routers":
            patch.setattr(train, "route_all", stop)
        else:
            added = Library.add

            def once(self: Library, *arguments: Any, **named: Any) -> Any:
                patch.setattr(Library, "add", stop)
                return added(self, *arguments, **named)

            patch.setattr(Library, "add", once)
        with pytest.raises(KeyboardInterrupt):
            train.run(config, watch=Silent())
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".staging")] == []
    train.run(config, watch=Silent())
    assert contents(config.library) == contents(unbroken.library)
    stored = [(Path(f"{each}-base") / "model.safetensors").read_bytes() for each in (config.library, unbroken.library)]
    assert stored[0] == stored[1]


@pytest.mark.recipe
def test_killed_at_random_moments_the_command_leaves_what_an_unbroken_run_leaves(texts, pico_folder, tmp_path):
    moments = random.Random(0)
    with trainer(texts, pico_folder, "--joint", "--steps", "12") as run:
        started = time.monotonic()
        run.begin(tmp_path / "unbroken")
        assert run.heard("ended") == 0
        longest = time.monotonic() - started
        library = tmp_path / "broken"
        for _ in range(2):
            child = run.begin(library)
            if not run.ends_within(moments.uniform(0, longest)):
                os.kill(child, signal.SIGKILL)
            assert run.heard("ended") in (0, signal.SIGKILL)
            if (library / "collegium.json").exists():
                assert Library(library).verify() == {}
                assert load_base(tmp_path / "broken-base").fingerprint == Library(library).base_fingerprint
        run.begin(library)
        assert run.heard("ended") == 0
    assert everything(library) == everything(tmp_path / "unbroken")
    stored = [(tmp_path / f"{name}-base" / "model.safetensors").read_bytes() for name in ("broken", "unbroken")]
    assert stored[0] == stored[1]
    assert not (tmp_path / "broken-out" / "joint").exists()


@pytest.mark.recipe
def test_the_commands_go_from_joint_training_to_a_further_domain(texts, pico_folder, tmp_path, capsys):
    library, shared = tmp_path / "college", tmp_path / "shared"
    few = ["--steps", "4", "--window", "64", "--batch", "4", "--threads", "1", "--dtype", "float32", "--json"]
    words = ["train", texts, "--library", library, "--base", pico_folder, "--joint", "--joint-base", shared]
    words += ["--domains", "law", "sea", "--out", tmp_path / "one"]
    assert main([str(word) for word in (*words, *few)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["base"] == str(shared)
    words = ["train", texts, "--library", library, "--base", shared, "--kind", "ffn", "--from", "nearest"]
    words += ["--out", tmp_path / "two"]
    assert main([str(word) for word in (*words, *few)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["experts"]
    assert set(found) == {"kitchen"}
    assert found["kitchen"]["from"][0] in {"law", "sea"}
    assert main(["train", str(texts), "--library", str(library), "--joint", "--whole"]) == 2
    assert "--whole does not go with it" in capsys.readouterr().err


def test_the_recipe_of_the_paper_says_what_would_be_done(texts, pico_folder, tmp_path, capsys):
    recipe = Path(__file__).parents[2] / "recipes" / "paper" / "demix.toml"
    words = ["train", texts, "--config", recipe, "--base", pico_folder, "--library", tmp_path / "college"]
    words += ["--window", "64", "--out", tmp_path / "run", "--dry-run", "--json"]
    assert main([str(word) for word in words]) == 0
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])["plan"]
    assert plan["steps"] == 300_000
    assert not (tmp_path / "college").exists()


@pytest.mark.recipe
def test_what_lies_in_the_way_is_left_alone_and_said(config, tmp_path, texts):
    train.run(config, watch=Silent())
    longer = dataclasses.replace(config, fit=dataclasses.replace(FIT, steps=13))
    with pytest.raises(ConfigError, match="another joint training"):
        train.run(longer, watch=Silent())
    Library(config.library).remove("sea")
    with pytest.raises(ConfigError, match="lacks experts of it"):
        train.run(config, watch=Silent())
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="not made by train --joint"):
        train.run(dataclasses.replace(config, joint_base=tmp_path / "mine"), watch=Silent())
    elsewhere = dataclasses.replace(config, joint_base=tmp_path / "new")
    with pytest.raises(ConfigError, match="is a library for another base"):
        train.run(elsewhere, watch=Silent())
    small = dataclasses.replace(config, joint=False, routers=False, fit=dataclasses.replace(FIT, kind="ffn"))
    with pytest.raises(LibraryError, match="Open it with its own base"):
        train.run(small, watch=Silent())


def test_one_domain_is_refused_before_anything_is_made(config, tmp_path):
    with pytest.raises(DataError, match="at least two domains"):
        train.run(dataclasses.replace(config, domains=("law",)), watch=Silent())
    assert not config.library.exists()
    assert not (tmp_path / "college-base").exists()


def test_too_little_memory_is_said_with_what_is_needed_before_it_is_taken(config, monkeypatch):
    monkeypatch.setattr(joint, "memory_of", lambda device: (1000, 1000))
    log = Log()
    with pytest.raises(ResourceError, match=r"needs 0\.00 GB on cpu.*top:K"):
        train.run(config, watch=log)
    assert "joint training of 3 domains holds" in log.lines[0]


def test_a_dry_run_says_memory_and_disk_and_makes_nothing(config, tmp_path):
    log = Log()
    plan = train.run(dataclasses.replace(config, dry_run=True), watch=log).result["plan"]
    assert plan["kind"] == "ffn"
    assert plan["disk_bytes"] > 0
    assert any("holds" in line for line in log.lines)
    assert not config.library.exists()


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"whole": True}, "--whole does not go with it"),
        ({"workers": 2}, "--workers does not go with it"),
        ({"fit": dataclasses.replace(FIT, kind="ia3")}, "not 'ia3'"),
        ({"fit": dataclasses.replace(FIT, rank=4)}, "rank is for"),
        ({"joint": False, "joint_base": Path("there")}, "give --joint, too"),
    ],
)
def test_what_does_not_go_with_joint_is_refused(config, fields, match):
    with pytest.raises(ConfigError, match=match):
        train.run(dataclasses.replace(config, **fields), watch=Silent())
