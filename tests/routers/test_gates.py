"""Every gate keeps the contract; broken ones are caught; stale, foreign and impossible ones are refused."""

import dataclasses

import pytest
import torch

from collegium.compose import GatedMix, Mix
from collegium.core.errors import ConfigError, RoutingError, StaleRouter
from collegium.core.protocols import Gate
from collegium.core.routing import Routing
from collegium.models import Ia3Weights
from collegium.ops.choosing import standardised, top_softmax
from collegium.routers import GATES, Posterior, arrow, parse, phatgoose, uniform, uniform_gate, xlora
from collegium.routers.gates import (
    Arrow,
    GateRecipe,
    SlotGates,
    available_gates,
    grow_phatgoose,
    keep_xlora,
    shrink_phatgoose,
)
from collegium.routers.gates import table as table_module
from collegium.routers.gates.phatgoose import LearningGate
from collegium.routers.gates.xlora import fresh_head
from collegium.testing import MemoryShelf, check_gates, random_adapter, random_base
from collegium.testing.gate import _Trial

NAMES = ("law", "code", "chat")


def experts(base):
    """Three experts of different ranks and layers, and a newcomer."""
    targets = {
        "law": ["q_proj", "up_proj"],
        "code": None,
        "chat": ["q_proj", "down_proj"],
        "new": ["v_proj", "up_proj"],
    }
    return {
        name: random_adapter(base, place, rank=2 + place, targets=each)
        for place, (name, each) in enumerate(targets.items())
    }


def vectors(adapter, seed):
    draw = torch.Generator().manual_seed(seed)
    return {path: torch.randn(part.shape[0], generator=draw) for path, part in adapter.items()}


def drawn_head(base, count, *, scale="softmax", seed=0):
    """A head that says something else at every token and layer."""
    head, draw = fresh_head(base, count, width=8, scale=scale, seed=seed), torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(each.shape, generator=draw) for name, each in head.parameters.items()}
    return dataclasses.replace(head, parameters=noise)


def fitted(base, adapters, *, scale="softmax"):
    """A shelf with every fit, and the digests by which a stale one is told."""
    shelf = MemoryShelf()
    shelf.digests = {name: f"digest of {name}" for name in adapters}
    for place, name in enumerate(NAMES):
        grow_phatgoose(shelf, expert=name, vectors=vectors(adapters[name], place), base=base.fingerprint.short)
    keep_xlora(shelf, head=drawn_head(base, 3, scale=scale), experts=NAMES, base=base.fingerprint.short)
    return shelf


RECIPES = [
    uniform_gate(),
    arrow(),
    arrow(top_k=1),
    arrow(top_k=2, temperature=0.0),
    arrow(top_k=None, temperature=0.3),
    phatgoose(),
    phatgoose(top_k=None, temperature=2.0),
    xlora(),
    xlora(top_k=2),
]


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


def test_every_row_of_the_table_is_tried():
    assert {recipe.name for recipe in RECIPES} == set(GATES)
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


# -- what is refused --------------------------------------------------------------------------------------------------


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
