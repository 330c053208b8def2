"""A prior estimated once, on held-out texts, and kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import RoutingError
from collegium.core.protocols import PrefixRouter, Shelf, Tokenizer
from collegium.core.tables import nearest
from collegium.routers.fitted import Fit, change_fit, covering_fit, fit_card, load_fit, with_row, without_row
from collegium.routers.held import check_experts, held_alike

_ROUTER = "cached_prior"
_ROW = "row."


@dataclass(frozen=True)
class CachedSequences:
    """The held-out texts behind a cached prior, in the order they are averaged in.

    tokens, lengths: their token ids, right-padded. domains: whose texts they are, one for each.
    """

    tokens: Int[Tensor, "sequence seq"]
    lengths: Int[Tensor, " sequence"]
    domains: tuple[str, ...]


@dataclass(frozen=True)
class CachedPrior:
    """The average posterior over held-out texts: weights for `merge` and `mix`, or a prior for `posterior`.

    The posterior of each text at its last token, with an updating prior = exponentially decayed average (weight
    `alpha` on the newest) of the posteriors of the texts before it, started from 1 / E; the average after the last
    text is the prior.  [DEMix, section 5: alpha 0.3, 100 sequences]

    What is kept is each expert's log-likelihood of each text, so experts come and go and the prior is as if it had
    been estimated with those that are there; and the texts themselves, on which a newcomer is scored.

    fit: the name it lies under in the library.
    """

    fit: str = _ROUTER
    alpha: float = 0.3

    def __post_init__(self) -> None:
        """Check alpha."""
        if not 0 < self.alpha <= 1:
            raise RoutingError(f"cached_prior: alpha is above 0 and at most 1, got {self.alpha}.")

    @property
    def name(self) -> str:
        """Its row in the table."""
        return _ROUTER

    def bind(
        self, experts: tuple[str, ...], *, shelf: Shelf | None = None, tokenizer: Tokenizer | None = None
    ) -> PrefixRouter:
        """Return the router; raises RoutingError when it was never fitted, StaleRouter when it lacks an expert."""
        check_experts(experts)
        tensors, _ = covering_fit(experts, shelf, self.fit, router=_ROUTER)
        log_likelihoods = torch.stack([tensors[f"{_ROW}{expert}"] for expert in experts], dim=-1)
        return held_alike(experts, average_posterior(log_likelihoods, alpha=self.alpha).float())


def cached_prior(fit: str = _ROUTER, alpha: float = 0.3) -> CachedPrior:
    """Return the recipe of the cached prior.

    >>> cached_prior().name
    'cached_prior'
    """
    return CachedPrior(fit, alpha)


def average_posterior(
    log_likelihoods: Float[Tensor, "sequence expert"], *, alpha: float = 0.3
) -> Float[Tensor, " expert"]:
    """Return the decayed average of the texts' last posteriors, in float64.

    >>> average_posterior(torch.tensor([[0.0, -100.0]]), alpha=0.5)
    tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    experts = log_likelihoods.shape[-1]
    prior = torch.full((experts,), 1 / experts, dtype=torch.float64)
    for sequence in log_likelihoods.double():
        prior = (1 - alpha) * prior + alpha * (prior.log() + sequence).softmax(dim=-1)
    return prior / prior.sum()


def fit_cached_prior(
    shelf: Shelf,
    name: str = _ROUTER,
    *,
    log_likelihoods: Float[Tensor, "sequence expert"],
    experts: Sequence[str],
    sequences: CachedSequences | None = None,
) -> None:
    """Keep each expert's log-likelihood of each held-out text, in the order the texts are averaged in.

    sequences: the texts, kept so that a newcomer can be scored on them.
    """
    if log_likelihoods.shape[0] == 0 or log_likelihoods.shape[-1] != len(experts):
        raise RoutingError(
            f"cached_prior: one column per expert and at least one text; got {tuple(log_likelihoods.shape)} for "
            f"{len(experts)} experts."
        )
    columns = zip(experts, log_likelihoods.unbind(dim=-1), strict=True)
    tensors = {f"{_ROW}{expert}": _checked(expert, column) for expert, column in columns}
    if sequences is not None:
        tensors |= {"tokens": sequences.tokens, "lengths": sequences.lengths}
    domains = list(sequences.domains) if sequences is not None else []
    card = fit_card(_ROUTER, shelf, experts=experts, first=sorted(set(domains)), domains=domains)
    shelf.save_router(name, tensors, card)


def cached_sequences(shelf: Shelf, name: str = _ROUTER) -> CachedSequences:
    """Return the texts of the first fit; raises RoutingError when it was fitted without them."""
    tensors, card = load_fit(shelf, name, router=_ROUTER)
    if "tokens" not in tensors:
        raise RoutingError(
            f"cached_prior: fit {name!r} was made of log-likelihoods alone, so none can be computed for a newcomer. "
            "Give its own to grow_cached_prior, or fit again with sequences=."
        )
    return CachedSequences(tensors["tokens"], tensors["lengths"], tuple(card["domains"]))


def grow_cached_prior(
    shelf: Shelf, name: str = _ROUTER, *, expert: str, log_likelihoods: Float[Tensor, " sequence"]
) -> None:
    """Add one expert's log-likelihoods of the texts of the first fit; nothing else changes."""

    def add(tensors: dict[str, Tensor], card: dict[str, Any]) -> Fit:
        held = {len(row) for key, row in tensors.items() if key.startswith(_ROW)}
        if held - {len(log_likelihoods)}:
            raise RoutingError(
                f"cached_prior: the fit holds {max(held)} texts, got {len(log_likelihoods)} likelihoods."
            )
        return {**tensors, f"{_ROW}{expert}": _checked(expert, log_likelihoods)}, with_row(card, shelf, expert)

    change_fit(shelf, name, add, router=_ROUTER)


def shrink_cached_prior(shelf: Shelf, name: str = _ROUTER, *, expert: str) -> None:
    """Forget one expert; nothing else changes. Its texts, if it took part in the first fit, stay until a new fit."""

    def drop(tensors: dict[str, Tensor], card: dict[str, Any]) -> Fit:
        if expert not in card["experts"]:
            raise RoutingError(f"cached_prior: the fit has no expert {expert!r}. {nearest(expert, card['experts'])}")
        return {key: each for key, each in tensors.items() if key != f"{_ROW}{expert}"}, without_row(card, expert)

    change_fit(shelf, name, drop, router=_ROUTER)


def _checked(expert: str, row: Float[Tensor, " sequence"]) -> Float[Tensor, " sequence"]:
    """Return one expert's row as it is kept; refuses what is not finite."""
    if not torch.isfinite(row).all():
        raise RoutingError(f"cached_prior: log-likelihoods must be finite, those of {expert!r} are not.")
    return row.detach().double().cpu().clone()
