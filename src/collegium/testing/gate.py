"""What all gates must satisfy, whatever they weigh by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose import GatedMix
from collegium.core.errors import StaleRouter
from collegium.core.protocols import Shelf
from collegium.core.randomness import generator
from collegium.core.routing import Routing, dense_weights
from collegium.models import Adapter, Base
from collegium.routers.gates import GateRecipe
from collegium.testing.language_model import check_language_model

_ROUNDING = 1e-5
"""What another batch shape or order of summation may move a weight by, in float32."""


@dataclass(frozen=True, eq=False)
class _Trial:
    """Texts, and the experts on a base that gates are bound to."""

    recipe: GateRecipe
    base: Base
    adapters: Mapping[str, Adapter]
    shelf: Shelf | None
    tokens: Int[Tensor, "batch seq"]

    def model(self, experts: tuple[str, ...]) -> GatedMix:
        """Return the mix by the gates bound to these experts."""
        own = {name: self.adapters[name] for name in experts}
        gating = self.recipe.bind_gates(experts, base=self.base, adapters=own, shelf=self.shelf)
        return GatedMix(self.base, {name: name for name in experts}, gating)

    def weights(
        self, model: GatedMix, tokens: Int[Tensor, "batch seq"]
    ) -> dict[str, Float[Tensor, "batch seq expert"]]:
        """Return what every gate says, a column for each expert in the order of their names."""
        names = tuple(sorted(model.experts))
        return {path: dense_weights(routing, names) for path, routing in model.trace(tokens).items()}


def check_gates(
    recipe: GateRecipe,
    *,
    base: Base,
    adapters: Mapping[str, Adapter],
    newcomer: str | None = None,
    shelf: Shelf | None = None,
    grow: Callable[[], None] | None = None,
    shrink: Callable[[], None] | None = None,
    seed: int = 0,
    tolerance: float = 1e-4,
) -> None:
    """Return nothing when gates keep their contract; raise AssertionError with what broke.

    The laws: the mix is a language model, step by step as at once (`check_language_model`); at each layer at most
    `top_k` experts have weight, and none that does not change the layer; nothing looks ahead; padding moves nothing; a
    text in a batch is as it is alone; the order of experts does not matter; the trace names layers of the base, and the
    routing is its mean, in decoding too. With a newcomer added and removed again every answer is as before, to the
    last bit; gates that must be fitted again refuse the newcomer.

    adapters:     experts by name; they are attached to the base under these names. newcomer: the one that comes last.
    grow, shrink: what fits the newcomer and what forgets it, where gates are fitted one by one.
    """
    for name, adapter in adapters.items():
        base.attach(name, adapter)
    experts = tuple(name for name in adapters if name != newcomer)
    tokens = torch.randint(0, base.vocab_size, (3, 8), generator=generator(seed, "gates"))
    trial = _Trial(recipe, base, adapters, shelf, tokens)
    model = trial.model(experts)
    _check_trace(model, trial)
    check_language_model(model, seed=seed, batch=3, seq=7, contexts=(1, 3), tolerance=tolerance)
    _check_looks_back(model, trial)
    _check_alone(model, trial)
    _check_decoding(model, trial, tolerance=tolerance)
    _check_order(trial, experts, tolerance=tolerance)
    if newcomer is not None:
        _check_growth(trial, experts, newcomer, grow=grow, shrink=shrink)


def _check_trace(model: GatedMix, trial: _Trial) -> None:
    found, modules = model.trace(trial.tokens), dict(trial.base.model.named_modules())
    assert found, "gates act somewhere"
    for path, routing in found.items():
        assert path in modules, f"the trace names a module that the base lacks: {path!r}"
        assert routing.experts == model.experts, f"the trace at {path!r} is over other experts: {routing.experts}"
        assert routing.dense().shape[:2] == trial.tokens.shape, f"one routing per token at {path!r}"
        _check_sparse(routing, path, trial)
    mean = torch.stack([routing.dense() for routing in found.values()]).mean(dim=0)
    _same(model.routing(trial.tokens).dense(), mean, within=_ROUNDING, law="the routing is the mean of the trace")


def _check_sparse(routing: Routing, path: str, trial: _Trial) -> None:
    most, top_k = int((routing.dense() != 0).sum(dim=-1).max()), trial.recipe.top_k
    assert top_k is None or most <= top_k, f"at most {top_k} experts speak at {path!r}, got {most}"
    if trial.recipe.name == "uniform_gate" or not any(path in adapter for adapter in trial.adapters.values()):
        return
    for name in routing.experts:
        if path not in trial.adapters[name]:
            silent = dense_weights(routing, routing.experts)[..., routing.experts.index(name)]
            assert not silent.any(), f"{name!r} does not change {path!r}, but has weight there"


def _check_looks_back(model: GatedMix, trial: _Trial) -> None:
    before = trial.weights(model, trial.tokens)
    for place in range(1, trial.tokens.shape[1]):
        later = torch.arange(trial.tokens.shape[1]) >= place
        after = trial.weights(model, torch.where(later, trial.tokens.flip(0), trial.tokens))
        for path, weights in before.items():
            law = f"nothing looks ahead: other tokens from {place} on leave the weights before, at {path}"
            _same(after[path][:, :place], weights[:, :place], within=_ROUNDING, law=law)


def _check_alone(model: GatedMix, trial: _Trial) -> None:
    together, seq = trial.weights(model, trial.tokens), trial.tokens.shape[1]
    for row in range(len(trial.tokens)):
        length = seq - row
        alone = trial.weights(model, trial.tokens[row : row + 1, :length])
        for path, weights in alone.items():
            law = f"padding moves nothing, and a text in a batch is as it is alone, at {path}"
            _same(weights[0], together[path][row, :length], within=_ROUNDING, law=law)


def _check_decoding(model: GatedMix, trial: _Trial, *, tolerance: float) -> None:
    tokens = trial.tokens
    whole, lengths = model.routing(tokens).dense(), torch.tensor([2, 4, 3])
    opened = model.open([tokens[row, :length].tolist() for row, length in enumerate(lengths.tolist())])
    kept = torch.tensor([2, 0])
    for step in range(3):
        assert opened.routing is not None
        law = f"the routing of step {step} is that of the whole text"
        rows = torch.arange(3) if step < 2 else kept
        _same(opened.routing.dense()[:, -1], whole[rows, lengths[rows] - 1 + step], within=tolerance, law=law)
        if step == 0:
            opened.step(tokens[torch.arange(3), lengths])
        elif step == 1:
            opened.keep(kept)
            opened.step(tokens[kept, lengths[kept] + 1])


def _check_order(trial: _Trial, experts: tuple[str, ...], *, tolerance: float) -> None:
    plain, turned = trial.model(experts), trial.model(experts[::-1])
    _same(
        turned.score(trial.tokens),
        plain.score(trial.tokens),
        within=tolerance,
        law="the order of experts is irrelevant",
    )
    said, other = trial.weights(plain, trial.tokens), trial.weights(turned, trial.tokens)
    for path, weights in said.items():
        _same(other[path], weights, within=_ROUNDING, law=f"the order of experts is irrelevant, at {path}")


def _check_growth(
    trial: _Trial,
    experts: tuple[str, ...],
    newcomer: str,
    *,
    grow: Callable[[], None] | None,
    shrink: Callable[[], None] | None,
) -> None:
    model = trial.model(experts)
    if model.gating.growth == "refit":
        _check_refuses(trial, (*experts, newcomer))
        _check_refuses(trial, experts[1:])
        return
    before, scores = trial.weights(model, trial.tokens), model.score(trial.tokens)
    if grow is not None:
        grow()
    larger = trial.model((*experts, newcomer))
    _check_trace(larger, trial)
    if shrink is not None:
        shrink()
    after = trial.model(experts)
    law = "adding and removing an expert restores every answer"
    _same(after.score(trial.tokens), scores, within=0.0, law=law)
    for path, weights in trial.weights(after, trial.tokens).items():
        _same(weights, before[path], within=0.0, law=f"{law}, at {path}")


def _check_refuses(trial: _Trial, experts: tuple[str, ...]) -> None:
    try:
        trial.model(experts)
    except StaleRouter:
        return
    raise AssertionError(f"gates that must be fitted again take experts they were not fitted for: {experts}")


def _same(actual: Tensor, expected: Tensor, *, within: float, law: str) -> None:
    gap = float((actual - expected).abs().max()) if actual.numel() else 0.0
    assert gap <= within, f"{law}: off by {gap:.3g}, allowed {within:.3g}"
