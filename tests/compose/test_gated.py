"""Mixes by gates: at the door, in an ensemble's place, and with two passes whose caches agree with reading at once."""

import dataclasses

import pytest
import torch

from collegium.compose import Cast, Ensemble, GatedMix, SlotVoices, ensemble, mix
from collegium.core.cards import ExpertCard
from collegium.core.errors import RoutingError
from collegium.core.protocols import LanguageModel
from collegium.core.routing import Routing
from collegium.experts import Expert, adapter_payload
from collegium.library import Library
from collegium.routers import arrow, phatgoose, uniform_gate, xlora
from collegium.routers.gates import HeadGates, keep_xlora
from collegium.routers.gates.xlora import fresh_head
from collegium.testing.pico import pico_base, random_adapter, random_base

NAMES = ("law", "code", "chat")


@pytest.fixture
def library(tmp_path):
    base = pico_base()
    made = Library(tmp_path / "library", base=base)
    for place, name in enumerate(NAMES):
        card = ExpertCard(name=name, kind="lora", base=base.fingerprint, domain=name)
        made.add(Expert(card, adapter_payload(base, random_adapter(base, place, rank=place + 2))))
    return made


def drawn_head(base, experts, *, scale="softmax"):
    head, draw = fresh_head(base, experts, width=8, scale=scale, seed=0), torch.Generator().manual_seed(0)
    noise = {name: torch.randn(each.shape, generator=draw) for name, each in head.parameters.items()}
    return dataclasses.replace(head, parameters=noise)


def test_the_door_takes_gates(library):
    base = library.base
    model = mix(base, library, router=arrow(top_k=2))
    assert isinstance(model, GatedMix)
    assert isinstance(model, LanguageModel)
    tokens = torch.randint(0, 200, (2, 9))
    assert model.routing(tokens).dense().shape == (2, 9, 3)
    assert set(model.trace(tokens)) == set(base.linear_sites())
    fewer = mix(base, library, router=arrow(), top_k=1)
    assert all(routing.dense().amax(-1).eq(1).all() for routing in fewer.trace(tokens).values())
    with pytest.raises(RoutingError, match="leaves nobody out"):
        mix(base, library, router=uniform_gate(), top_k=1)


def test_the_prototypes_of_a_library_are_kept_when_gates_are_bound(library):
    mix(library.base, library, router=arrow())
    kept = sorted(path.name for path in (library.path / "derived").iterdir())
    assert len(kept) == 4, "one for each expert, and the base's layers"
    mix(library.base, library, router=arrow())
    assert sorted(path.name for path in (library.path / "derived").iterdir()) == kept


def test_an_ensemble_refuses_gates_and_points_to_mix(library):
    for gates in (arrow(), phatgoose(), xlora(), uniform_gate()):
        with pytest.raises(RoutingError, match=rf"{gates.name!r} is a gate inside the base.*collegium\.mix"):
            ensemble(library.base, library, router=gates)


@dataclasses.dataclass(frozen=True)
class Open:
    """A router of open weights, with likelihoods or without."""

    needs_likelihoods: bool
    experts: tuple[str, ...] = NAMES
    growth: str = "exact"

    def start(self, context):
        return ()

    def step(self, state, tokens, log_likelihoods):
        return Routing(NAMES, torch.ones(len(tokens), 1, 3), kind="open"), state


@pytest.mark.parametrize("needs", [True, False])
def test_an_ensemble_refuses_open_weights_wherever_it_speaks(needs):
    base = random_base("llama")
    for place, name in enumerate(NAMES):
        base.attach(name, random_adapter(base, place))
    model = Ensemble(SlotVoices(base, {name: name for name in NAMES}), Open(needs))
    tokens = torch.randint(0, 200, (2, 5))
    for speak in (
        lambda: model.score(tokens),
        lambda: model.logprobs(tokens),
        lambda: model.open([[1, 2]]),
        lambda: model.routing(tokens),
    ):
        with pytest.raises(RoutingError, match=r"this router's are open\. Use mix"):
            speak()


def test_a_cast_of_whole_models_has_no_slots():
    base = random_base("llama")
    with pytest.raises(RoutingError, match="are whole models"):
        Cast(base, {}, {"law": random_base("llama", 1)}).mixed(arrow(), shelf=None)


@pytest.mark.parametrize("scale", ["softmax", "sigmoid"])
def test_both_passes_are_cached_and_step_by_step_is_as_at_once(scale):
    base = random_base("llama")
    for place, name in enumerate(NAMES):
        base.attach(name, random_adapter(base, place))
    kind = "simplex" if scale == "softmax" else "open"
    model = GatedMix(
        base, {name: name for name in NAMES}, HeadGates(NAMES, drawn_head(base, 3, scale=scale), kind=kind)
    )
    tokens = torch.randint(0, 200, (2, 12), generator=torch.Generator().manual_seed(1))
    whole = model.logprobs(tokens)
    read: list[int] = []
    handle = base.inner.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    opened = model.open([tokens[0, :3].tolist(), tokens[1, :5].tolist()])
    for step in range(6):
        rows = torch.tensor([3, 5]) + step
        wanted = whole[torch.arange(2), rows - 1]
        torch.testing.assert_close(opened.next_logprobs(), wanted, atol=1e-4, rtol=0)
        opened.step(tokens[torch.arange(2), rows])
    handle.remove()
    assert read == [5, 5] + [1, 1] * 6, "each pass reads the prompt once and then token by token"


def test_a_head_weighs_every_layer_by_itself():
    base = random_base("llama")
    base.attach("law", random_adapter(base, 0))
    base.attach("code", random_adapter(base, 1))
    weights = torch.zeros(2, 1, 4, 2)
    weights[0, ..., 0], weights[1, ..., 1] = 1.0, 1.0

    class Split:
        def __call__(self, hidden):
            return weights[:, :, : hidden.shape[1]].expand(-1, len(hidden), -1, -1)

    model = GatedMix(base, {"law": "law", "code": "code"}, HeadGates(("law", "code"), Split()))
    tokens = torch.randint(0, 200, (2, 4))
    joined = {
        path: part for path, part in {**base.adapter("law"), **base.adapter("code")}.items() if ".layers.1." in path
    } | {path: part for path, part in base.adapter("law").items() if ".layers.0." in path}
    base.attach("joined", joined)
    from collegium.models import RowPlan

    wanted = base.score_rows(tokens, plan=RowPlan.one("joined"))[0]
    torch.testing.assert_close(model.score(tokens), wanted, atol=1e-5, rtol=0)
    assert set(model.trace(tokens)) == {"model.layers.0", "model.layers.1"}


def test_a_library_keeps_the_head_and_says_when_it_is_stale(library):
    base = library.base
    keep_xlora(library, head=drawn_head(base, 3), experts=NAMES, base=base.fingerprint.short)
    tokens = torch.randint(0, 200, (1, 6))
    before = mix(base, library, router=xlora()).score(tokens)
    assert torch.equal(mix(base, Library(library.path, base=base), router=xlora()).score(tokens), before)
    library.remove("chat")
    from collegium.core.errors import StaleRouter

    with pytest.raises(StaleRouter, match="chat are left out"):
        mix(base, library, router=xlora())
