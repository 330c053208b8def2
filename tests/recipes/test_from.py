"""`train --from`: a new domain's expert begins with a copy of the nearest one; the others stay to the bit."""

import dataclasses
from pathlib import Path

import pytest
import torch
from listening import Log

from collegium.compose import attach_expert
from collegium.core.errors import ConfigError, LibraryError, TrainingError, UnknownName
from collegium.experts import FitConfig
from collegium.library import Library
from collegium.models import Base, RowPlan, load_base
from collegium.recipes import branch, train
from collegium.recipes.building.parts import Parts
from collegium.recipes.common import Common
from collegium.recipes.watch import Silent
from collegium.testing.pico import pico_base, random_expert

COMMON = Common(device="cpu", dtype="float32", threads=1)
FIT = FitConfig(kind="ffn", window=64, batch=4, steps=24, evaluate_every=6, dev_tokens=256, learning_rate=3e-3)


@pytest.fixture
def config(texts: Path, pico_folder: Path, tmp_path: Path) -> train.TrainConfig:
    return train.TrainConfig(
        data=texts, library=tmp_path / "college", base=str(pico_folder), out=tmp_path / "out", fit=FIT, common=COMMON
    )


def port(folder: Path, texts: Path) -> Path:
    """Return a domain whose words are the sea's in small letters."""
    (folder / "port").mkdir(parents=True)
    for path in sorted((texts / "sea").iterdir()):
        (folder / "port" / path.name).write_text(path.read_text().lower())
    return folder


def said(base: Base, library: Library, name: str) -> torch.Tensor:
    tokens = torch.tensor([list(b"Harbour anchor schooner")])
    return base.logprobs_rows(tokens, plan=RowPlan.one(attach_expert(base, library[name])))


@pytest.mark.recipe
@pytest.mark.parametrize("workers", [1, 2])
def test_the_nearest_expert_is_copied_and_all_old_ones_answer_to_the_bit(config, texts, tmp_path, workers):
    train.run(config, watch=Silent())
    library, base = Library(config.library), load_base(config.base)
    before = {name: (library.expert_digest(name), said(base, library, name)) for name in library}
    log, new = Log(), dataclasses.replace(config, data=port(tmp_path / "new", texts), start="nearest", workers=workers)
    found = train.run(new, watch=log).result["experts"]["port"]
    assert found["from"] == ["sea"]
    assert found["held_out_nats"] < found["held_out_nats_before"]
    assert any("port: nearest by average posterior" in line for line in log.lines)
    assert library.card("port").parents == {"sea": before["sea"][0]}
    for name, (digest, answers) in before.items():
        assert library.expert_digest(name) == digest
        assert torch.equal(said(base, library, name), answers)
    assert library.verify() == {}


def test_which_one_was_nearest_is_remembered_when_the_run_goes_on(pico, texts, tmp_path, monkeypatch):
    library = Library(tmp_path / "college", base=pico)
    (domain,) = train.read_domains(port(tmp_path / "new", texts))
    for name in ("sea", "law"):
        library.add(random_expert(pico, kind="ffn", name=name))
    found = iter(["sea", "law"])
    monkeypatch.setattr(branch, "nearest_expert", lambda *arguments, **named: next(found))
    named = {"kind": "ffn", "window": 32, "parts": Parts(tmp_path), "watch": Silent()}
    first, second = (branch.begin_of("nearest", pico, library, domain, **named) for _ in range(2))
    assert first.name == second.name == "sea"
    assert branch.begin_of("base", pico, library, domain, **named) is None
    assert branch.begin_of("law", pico, library, domain, **named).name == "law"
    with pytest.raises(UnknownName, match="sae"):
        branch.begin_of("sae", pico, library, domain, **named)


@pytest.mark.recipe
def test_a_library_without_experts_of_the_kind_and_another_kind_are_refused(config, texts, tmp_path):
    data = port(tmp_path / "new", texts)
    empty = dataclasses.replace(config, data=data, start="nearest")
    with pytest.raises(TrainingError, match="no experts at all"):
        train.run(empty, watch=Silent())
    train.run(dataclasses.replace(config, domains=("sea",), routers=False), watch=Silent())
    other = dataclasses.replace(empty, fit=dataclasses.replace(FIT, kind="ia3"))
    with pytest.raises(TrainingError, match="it has: ffn"):
        train.run(other, watch=Silent())
    with pytest.raises(TrainingError, match="give --kind ffn"):
        train.run(dataclasses.replace(other, start="sea"), watch=Silent())
    pico_base(3).model.save_pretrained(tmp_path / "other")
    pico_base(3).tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(LibraryError, match="is a library for base"):
        train.run(dataclasses.replace(empty, base=str(tmp_path / "other")), watch=Silent())


@pytest.mark.parametrize("fields", [{"whole": True}, {"joint": True}])
def test_whole_models_and_joint_training_do_not_begin_with_a_copy(config, fields):
    fit = dataclasses.replace(FIT, kind="lora")
    with pytest.raises(ConfigError, match="--from is for small experts"):
        train.run(dataclasses.replace(config, start="nearest", fit=fit, **fields), watch=Silent())
