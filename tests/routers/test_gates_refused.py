"""Gates that are stale, foreign, impossible or unfitted are refused; gates are named like routers."""

import dataclasses

import pytest
import torch
from drawn_gates import NAMES, drawn_head, experts, fitted, vectors

from collegium.compose import GatedMix
from collegium.core.errors import ConfigError, RoutingError, StaleRouter
from collegium.core.routing import Routing
from collegium.models import Ia3Weights
from collegium.routers import GATES, Posterior, arrow, parse, phatgoose, xlora
from collegium.routers.gates import (
    Arrow,
    available_gates,
    grow_phatgoose,
    keep_xlora,
    shrink_phatgoose,
)
from collegium.routers.gates import table as table_module
from collegium.routers.gates.xlora import fresh_head
from collegium.testing import MemoryShelf, random_adapter, random_base
from collegium.testing.gate import _Trial


@pytest.fixture(scope="module")
def world():
    base = random_base("llama")
    adapters = experts(base)
    return base, adapters


def bind(recipe, world, shelf=None, names=NAMES):
    base, adapters = world
    return recipe.bind_gates(names, base=base, adapters=adapters, shelf=shelf)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: arrow(top_k=0), "top_k keeps at least one expert, got 0"),
        (lambda: arrow(temperature=float("nan")), "finite number, got nan"),
        (lambda: phatgoose(top_k=-1), "at least one expert"),
        (lambda: phatgoose(temperature=float("nan")), "positive and finite, got nan"),
        (lambda: phatgoose(temperature=0.0), "positive and finite"),
        (lambda: xlora(top_k=0), "at least one expert"),
        (lambda: fresh_head(random_base("llama"), 2, width=0, scale="softmax", seed=0), "at least one inner unit"),
    ],
)
def test_settings_out_of_bounds(make, says):
    with pytest.raises(RoutingError, match=says):
        make()


def test_gates_are_no_prior():
    odd = object.__new__(Posterior)  # past the type checker of the tests, as a user without one would come
    object.__setattr__(odd, "decay", 1.0)
    object.__setattr__(odd, "prior", arrow())
    with pytest.raises(RoutingError, match="weights by name or a router's recipe"):
        odd.__post_init__()


def test_other_kinds_of_experts_are_refused_by_name(world):
    base, adapters = world
    odd = {**adapters, "odd": {"model.layers.0.mlp.down_proj": Ia3Weights(torch.ones(64))}}
    for recipe in (arrow(), phatgoose()):
        with pytest.raises(RoutingError, match=r"'odd' is of kind ia3"):
            bind(recipe, (base, odd), fitted(base, adapters), ("law", "odd"))


def test_gates_that_were_never_fitted(world):
    for recipe in (phatgoose(), xlora()):
        with pytest.raises(RoutingError, match=f"router fit {recipe.name}"):
            bind(recipe, world, MemoryShelf())
        with pytest.raises(RoutingError, match="none was given"):
            bind(recipe, world)


def test_a_newcomer_makes_phatgoose_stale_for_itself_alone(world):
    shelf = fitted(*world)
    with pytest.raises(StaleRouter, match=r"without \['new'\].*router fit phatgoose"):
        bind(phatgoose(), world, shelf, (*NAMES, "new"))
    assert bind(phatgoose(), world, shelf, NAMES[:2]).experts == NAMES[:2]


def test_every_change_makes_xlora_stale(world):
    shelf = fitted(*world)
    assert bind(xlora(), world, shelf).growth == "refit"
    with pytest.raises(StaleRouter, match=r"new came.*router fit xlora"):
        bind(xlora(), world, shelf, (*NAMES, "new"))
    with pytest.raises(StaleRouter, match="chat are left out"):
        bind(xlora(), world, shelf, NAMES[:2])
    shelf.digests["law"] = "another's"
    with pytest.raises(StaleRouter, match="law changed"):
        bind(xlora(), world, shelf)
    with pytest.raises(StaleRouter, match=r"without \['law'\]"):
        bind(phatgoose(), world, shelf)


def test_a_fit_of_another_base_is_foreign(world):
    _, adapters = world
    other = random_base("llama", 5)
    shelf = fitted(*world)
    for recipe in (phatgoose(), xlora()):
        with pytest.raises(RoutingError, match="learnt inside base"):
            bind(recipe, (other, adapters), shelf)
    with pytest.raises(RoutingError, match="learnt inside base"):
        grow_phatgoose(shelf, expert="new", vectors=vectors(adapters["new"], 1), base=other.fingerprint.short)


def test_gates_of_another_architecture_are_foreign(world):
    base, _ = world
    gates = bind(arrow(), world)
    other = random_base("gpt2")
    for name in NAMES:
        other.attach(name, random_adapter(other))
    with pytest.raises(RoutingError, match="made for another base"):
        GatedMix(other, {name: name for name in NAMES}, gates)
    with pytest.raises(RoutingError, match=r"the gates know \['chat'\]"):
        GatedMix(base, {"law": "law", "code": "code"}, gates)


def test_a_fit_of_another_kind_is_refused(world):
    shelf = fitted(*world)
    shelf.stored["phatgoose"] = shelf.stored["xlora"]
    with pytest.raises(RoutingError, match="not a 'phatgoose'"):
        bind(phatgoose(), world, shelf)


def test_vectors_and_heads_of_no_numbers_are_not_kept(world):
    base, adapters = world
    shelf = fitted(*world)
    nothing = {path: each * float("nan") for path, each in vectors(adapters["new"], 1).items()}
    with pytest.raises(RoutingError, match="must be finite"):
        grow_phatgoose(shelf, expert="new", vectors=nothing, base=base.fingerprint.short)
    head = drawn_head(base, 3)
    broken = dataclasses.replace(head, parameters={name: each / 0 for name, each in head.parameters.items()})
    with pytest.raises(RoutingError, match="must be finite"):
        keep_xlora(shelf, head=broken, experts=NAMES, base=base.fingerprint.short)
    with pytest.raises(RoutingError, match="Did you mean 'law'"):
        shrink_phatgoose(shelf, expert="laws")


def test_names_with_a_common_beginning_are_apart(world):
    base, adapters = world
    shelf = fitted(*world)
    grow_phatgoose(shelf, expert="law.civil", vectors=vectors(adapters["law"], 4), base=base.fingerprint.short)
    shrink_phatgoose(shelf, expert="law")
    tensors, card = shelf.load_router("phatgoose")
    assert "law" not in card["experts"]
    assert any(key.startswith("row/law.civil/") for key in tensors)


# -- named in text ----------------------------------------------------------------------------------------------------


def test_gates_are_named_like_routers():
    assert parse("arrow:top_k=2,temperature=1") == Arrow(2, 1.0)
    assert parse("arrow:top_k=none").top_k is None
    assert parse("xlora").name == "xlora"
    with pytest.raises(ConfigError, match="Did you mean 'temperature'"):
        parse("arrow:temprature=1")
    with pytest.raises(ConfigError, match="Did you mean 'arrow'"):
        parse("arow")
    with pytest.raises(ConfigError, match="names gates"):
        parse("posterior:prior=arrow")


def test_outside_packages_bring_gates(monkeypatch):
    from importlib.metadata import EntryPoint

    group = table_module.GATE_ENTRY_POINTS
    good = EntryPoint("mine", "collegium.routers.gates.table:GATES", group)
    monkeypatch.setattr(EntryPoint, "load", lambda self: GATES["arrow"])
    monkeypatch.setattr(table_module, "entry_points", lambda group: [good])
    assert "mine" in available_gates()
    monkeypatch.setattr(table_module, "entry_points", lambda group: [EntryPoint("arrow", "x:y", group)])
    with pytest.raises(ConfigError, match="a name that is taken"):
        available_gates()


def test_the_trial_reads_what_a_gate_says(world):
    base, adapters = world
    trial = _Trial(arrow(top_k=1), base, adapters, None, torch.zeros(1, 3, dtype=torch.long))
    for name in NAMES:
        base.attach(name, adapters[name])
    said = trial.model(NAMES).trace(trial.tokens)
    assert all(isinstance(routing, Routing) and routing.kind == "simplex" for routing in said.values())
