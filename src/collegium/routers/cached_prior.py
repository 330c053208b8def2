"""A prior estimated once, on held-out texts, and kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.errors import RoutingError
from collegium.core.protocols import PrefixRouter, Shelf, Tokenizer
from collegium.core.tables import nearest
from collegium.routers.fitted import check_covered, fit_card, load_fit
from collegium.routers.held import check_experts, held_alike

_ROUTER = "cached_prior"


@dataclass(frozen=True)
class CachedPrior:
    """The average posterior over held-out texts: weights for `merge` and `mix`, or a prior for `posterior`.

    The posterior of each text at its last token, with an updating prior = exponentially decayed average (weight
    `alpha` on the newest) of the posteriors of the texts before it, started from 1 / E; the average after the last
    text is the prior.  [DEMix, section 5: alpha 0.3, 100 sequences]

    What is kept is each expert's log-likelihood of each text, so experts come and go and the prior is as if it had
    been estimated with those that are there.

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
        rows, _ = load_fit(shelf, self.fit, router=_ROUTER)
        check_covered(experts, rows, router=_ROUTER, fit=self.fit)
        log_likelihoods = torch.stack([rows[expert] for expert in experts], dim=-1)
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
    shelf: Shelf, name: str = _ROUTER, *, log_likelihoods: Float[Tensor, "sequence expert"], experts: Sequence[str]
) -> None:
    """Keep each expert's log-likelihood of each held-out text, in the order the texts are averaged in."""
    if log_likelihoods.shape[0] == 0 or log_likelihoods.shape[-1] != len(experts):
        raise RoutingError(
            f"cached_prior: one column per expert and at least one text; got {tuple(log_likelihoods.shape)} for "
            f"{len(experts)} experts."
        )
    _keep(shelf, name, dict(zip(experts, log_likelihoods.unbind(dim=-1), strict=True)))


def grow_cached_prior(
    shelf: Shelf, name: str = _ROUTER, *, expert: str, log_likelihoods: Float[Tensor, " sequence"]
) -> None:
    """Add one expert's log-likelihoods of the texts of the first fit; nothing else changes."""
    rows, _ = load_fit(shelf, name, router=_ROUTER)
    held = {len(row) for row in rows.values()}
    if held - {len(log_likelihoods)}:
        raise RoutingError(f"cached_prior: the fit holds {max(held)} texts, got {len(log_likelihoods)} likelihoods.")
    _keep(shelf, name, {**rows, expert: log_likelihoods})


def shrink_cached_prior(shelf: Shelf, name: str = _ROUTER, *, expert: str) -> None:
    """Forget one expert; nothing else changes."""
    rows, _ = load_fit(shelf, name, router=_ROUTER)
    if expert not in rows:
        raise RoutingError(f"cached_prior: the fit has no expert {expert!r}. {nearest(expert, rows)}")
    _keep(shelf, name, {each: row for each, row in rows.items() if each != expert})


def _keep(shelf: Shelf, name: str, rows: Mapping[str, Tensor]) -> None:
    """Write one tensor per expert; refuses what is not finite."""
    odd = [expert for expert, row in rows.items() if not torch.isfinite(row).all()]
    if odd:
        raise RoutingError(f"cached_prior: log-likelihoods must be finite, those of {odd} are not.")
    kept = {expert: row.detach().double().cpu().clone() for expert, row in rows.items()}
    shelf.save_router(name, kept, fit_card(_ROUTER, experts=sorted(kept)))
