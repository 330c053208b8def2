"""Every gate keeps the contract, broken ones are caught, and each says what its formula says."""

import dataclasses

import pytest
import torch
from drawn_gates import NAMES, experts, fitted, vectors

from collegium.compose import GatedMix, Mix
from collegium.core.errors import RoutingError
from collegium.core.protocols import Gate
from collegium.models import Ia3Weights
from collegium.ops.choosing import standardised, top_softmax
from collegium.routers import GATES, arrow, phatgoose, uniform, uniform_gate, xlora
from collegium.routers.gates import (
    GateRecipe,
    SlotGates,
    grow_phatgoose,
    shrink_phatgoose,
)
from collegium.routers.gates.phatgoose import LearningGate
from collegium.routers.gates.xlora import fresh_head
from collegium.testing import check_gates, random_adapter, random_base

RECIPES = [
    *(method.build() for method in GATES.values()),
    arrow(top_k=1),
    arrow(top_k=2, temperature=0.0),
    arrow(top_k=None, temperature=0.3),
    phatgoose(top_k=None, temperature=2.0),
    xlora(top_k=2),
]
"""Every row of the table as it comes, and other settings."""


def check(recipe, *, scale="softmax"):
    base = random_base("llama")
    adapters = experts(base)
    shelf = fitted(base, adapters, scale=scale)
    grow = shrink = None
    if recipe.name == "phatgoose":

        def grow():
            learnt = vectors(adapters["new"], 9)
            grow_phatgoose(shelf, expert="new", vectors=learnt, base=base.fingerprint.short)

        def shrink():
            shrink_phatgoose(shelf, expert="new")

    check_gates(recipe, base=base, adapters=adapters, newcomer="new", shelf=shelf, grow=grow, shrink=shrink)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_every_gate_keeps_the_contract(recipe):
    assert isinstance(recipe, GateRecipe)
    check(recipe)


def test_open_gates_keep_it_too():
    check(xlora(), scale="sigmoid")
    check(xlora(top_k=1), scale="sigmoid")


def test_every_row_is_complete():
    assert all(recipe.name in GATES for recipe in RECIPES)
    assert all(method.growth and method.summary for method in GATES.values())


def test_gates_on_other_architectures():
    for architecture in ("gpt2", "gpt_neox", "gemma3"):
        base = random_base(architecture)
        adapters = {name: random_adapter(base, place, rank=place + 1) for place, name in enumerate((*NAMES, "new"))}
        check_gates(arrow(top_k=2), base=base, adapters=adapters, newcomer="new")


# -- broken gates are caught ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Broken:
    """Arrow with every gate's answer changed."""

    change: object
    top_k: int | None = None

    @property
    def name(self):
        return "broken"

    def bind_gates(self, experts, *, base, adapters, shelf=None):
        found = arrow(top_k=None).bind_gates(experts, base=base, adapters=adapters, shelf=shelf)
        return SlotGates(experts, {path: self._broken(gate) for path, gate in found.slots.items()})

    def _broken(self, gate):
        return lambda hidden: (self.change(gate(hidden)[0]), None)


def ahead(weights):
    return weights.flip(1) if weights.ndim == 3 else weights


def by_batch(weights):
    return weights.mean(dim=0, keepdim=True).expand_as(weights)


def first_loud(weights):
    return torch.nn.functional.one_hot(torch.zeros(weights.shape[:-1], dtype=torch.long), weights.shape[-1]).float()


@pytest.mark.parametrize(
    ("recipe", "law"),
    [
        (Broken(ahead), "look|changed|ahead"),
        (Broken(by_batch), "alone|batch|row|padding|look"),
        (Broken(lambda weights: weights, top_k=1), "at most 1 experts speak"),
        (Broken(lambda weights: torch.full_like(weights, 1 / 3)), "does not change"),
        (Broken(first_loud), "does not change|order of experts"),
    ],
)
def test_broken_gates_are_caught(recipe, law):
    with pytest.raises(AssertionError, match=law):
        check(recipe)


def test_gates_of_open_weights_that_claim_a_simplex_are_caught():
    with pytest.raises(RoutingError, match="sum to 1"):
        check(Broken(lambda weights: 2 * weights))


@dataclasses.dataclass(frozen=True)
class Forgetful:
    """Arrow that keeps a sum over all experts it was ever bound to: growth that is not exact."""

    seen: dict
    top_k: int | None = None
    name: str = "forgetful"

    def bind_gates(self, experts, *, base, adapters, shelf=None):
        self.seen.update(dict.fromkeys(experts))
        temperature = 1.0 + 0.1 * len(self.seen)
        found = arrow(None, temperature).bind_gates(experts, base=base, adapters=adapters, shelf=shelf)
        return found


def test_growth_that_leaves_a_trace_is_caught():
    with pytest.raises(AssertionError, match="restores every answer"):
        check(Forgetful({}))


@dataclasses.dataclass(frozen=True)
class Careless:
    """An X-LoRA-like gate that never looks whether its fit is stale."""

    top_k: int | None = None
    name: str = "careless"

    def bind_gates(self, experts, *, base, adapters, shelf=None):
        from collegium.routers.gates import HeadGates

        return HeadGates(experts, fresh_head(base, len(experts), width=4, scale="softmax", seed=0))


def test_a_stale_fit_that_speaks_is_caught():
    base = random_base("llama")
    adapters = {name: random_adapter(base, 0) for name in (*NAMES, "new")}
    with pytest.raises(AssertionError, match="must be fitted again"):
        check_gates(Careless(), base=base, adapters=adapters, newcomer="new")


# -- what they say ----------------------------------------------------------------------------------------------------


def test_arrow_is_the_softmax_of_the_largest_projections():
    base = random_base("llama")
    adapters = experts(base)
    gates = arrow(top_k=2, temperature=0.5).bind_gates(NAMES, base=base, adapters=adapters)
    path = "model.layers.1.self_attn.q_proj"
    hidden = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    weights, index = gates.slots[path](hidden)
    right = [torch.linalg.svd(adapters[name][path].delta().double()).Vh[0].float() for name in NAMES]
    logits = torch.stack([(hidden @ vector).abs() / 0.5 for vector in right], dim=-1)
    kept = logits.masked_fill(logits < logits.topk(2, dim=-1).values[:, -1:], float("-inf")).softmax(dim=-1)
    assert torch.allclose(torch.zeros(5, 3).scatter(-1, index, weights), kept, atol=1e-5)
    assert isinstance(gates.slots[path], Gate)


def test_a_temperature_of_nothing_is_the_square_root_of_the_width():
    base = random_base("llama")
    adapters, hidden = experts(base), torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    path = "model.layers.0.self_attn.q_proj"
    said = [
        arrow(None, temperature).bind_gates(NAMES, base=base, adapters=adapters).slots[path](hidden)[0]
        for temperature in (0.0, -3.0, 8.0, 1.0)
    ]
    assert torch.equal(said[0], said[1])
    assert torch.allclose(said[0], said[2])
    assert not torch.allclose(said[0], said[3])


def test_phatgoose_is_a_cosine_times_the_root_of_the_width():
    base = random_base("llama")
    adapters, path = experts(base), "model.layers.0.self_attn.q_proj"
    shelf = fitted(base, adapters)
    gates = phatgoose(top_k=None).bind_gates(NAMES, base=base, adapters=adapters, shelf=shelf)
    hidden = torch.randn(5, 64, generator=torch.Generator().manual_seed(2))
    rows = torch.stack([vectors(adapters[name], place)[path] for place, name in enumerate(NAMES)])
    cosine = torch.cosine_similarity(
        hidden[:, None] - hidden.mean(-1)[:, None, None], (rows - rows.mean(-1, keepdim=True))[None], dim=-1
    )
    assert torch.allclose(gates.slots[path](hidden)[0], (8 * cosine).softmax(dim=-1), atol=1e-4)


def test_the_uniform_gate_is_the_uniform_router():
    base = random_base("llama")
    adapters = experts(base)
    adapters["chat"] = {"model.layers.0.mlp.down_proj": Ia3Weights(torch.rand(64) + 0.5)}
    for name in NAMES:
        base.attach(name, adapters[name])
    keys, tokens = {name: name for name in NAMES}, torch.randint(0, 200, (2, 7))
    gates = uniform_gate().bind_gates(NAMES, base=base, adapters=adapters)
    wanted = Mix(base, keys, uniform().bind(NAMES)).score(tokens)
    assert torch.allclose(GatedMix(base, keys, gates).score(tokens), wanted, atol=1e-5)


@pytest.mark.parametrize("top_k", [2, None])
@pytest.mark.parametrize("name", ["arrow", "phatgoose"])
def test_joined_gates_say_what_each_says(name, top_k):
    base = random_base("llama")
    adapters = experts(base)
    paths = [f"model.layers.1.self_attn.{each}_proj" for each in "qkv"]
    recipe = (arrow if name == "arrow" else phatgoose)(top_k=top_k)
    gates = recipe.bind_gates(NAMES, base=base, adapters=adapters, shelf=fitted(base, adapters))
    one, *others = (gates.slots[path] for path in paths)
    hidden = torch.randn(5, 64, generator=torch.Generator().manual_seed(4))
    weights, index = one.joined(others)(hidden)

    def dense(said, chosen):
        return said if chosen is None else torch.zeros(5, len(NAMES)).scatter(-1, chosen, said)

    for place, path in enumerate(paths):
        got = dense(weights[place], None if index is None else index[place])
        assert torch.allclose(got, dense(*gates.slots[path](hidden)), atol=1e-6)
    assert one.joined([LearningGate(torch.zeros(64))]) is None
    assert one.joined([dataclasses.replace(one, top_k=1)]) is None


def test_top_k_beyond_the_experts_is_all_of_them():
    base = random_base("llama")
    adapters, hidden = experts(base), torch.randn(4, 64)
    path = "model.layers.0.self_attn.q_proj"
    few, all_ = (
        arrow(top_k).bind_gates(NAMES, base=base, adapters=adapters).slots[path](hidden) for top_k in (9, None)
    )
    assert torch.equal(few[0], all_[0])
    assert few[1] is None


def test_small_steps():
    weights, index = top_softmax(torch.tensor([[1.0, 2.0, 3.0]]), None)
    assert index is None
    assert float(weights.sum()) == pytest.approx(1)
    assert torch.isfinite(standardised(torch.zeros(2, 4))).all()
    gate = LearningGate(torch.zeros(4))
    assert gate(torch.ones(2, 3, 4))[0].shape == (2, 3, 1)
    assert float(gate(torch.ones(1, 4))[0]) == 0.5
