"""Who predicted the text so far best speaks: Bayes' rule, cumulative."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import RoutingError
from collegium.core.protocols import Context, PrefixRouter, RouterRecipe, RouterState, Shelf, Tokenizer
from collegium.core.routing import BASE, Routing
from collegium.core.tables import nearest
from collegium.ops.posterior import posterior as log_posterior
from collegium.ops.posterior import running_log_likelihood
from collegium.routers.held import check_experts, context_weights

LEAST_SHARE = 0.01
"""No prior is below this share of 1 / E."""

_LogPrior = Callable[[Context], Float[Tensor, "batch expert"]]


@dataclass(frozen=True)
class Posterior:
    """P(j | x_<t) = prior_j p(x_<t | j) / sum_k prior_k p(x_<t | k), over everything read so far.  [DEMix, section 3]

    prior: None = 1 / E; a mapping name -> weight, normalised (with `base` in it the base is one of the experts); or a
           recipe that needs no likelihoods, whose weights on the context are the prior. Weight which that recipe gives
           to `base` (abstaining) is shared equally.
    decay: what a token's evidence is multiplied with at each later token. 1 = the paper; below 1 the router follows a
           change of domain faster and the regret bound no longer holds.

    No expert's prior is below 1 % of its equal share, so that the regret bound stays finite: the mixture loses at most
    about log(100 E) nats a text against *any* expert (claim M3, NLL <= NLL_j + log 1/prior_j), however sure and wrong
    the prior was.

    Departure from DEMix's public code: that forgets all but the last token, which breaks the bound.
    """

    prior: Mapping[str, float] | RouterRecipe | None = None
    decay: float = 1.0

    def __post_init__(self) -> None:
        """Check the decay and a prior given by hand."""
        if not 0 <= self.decay <= 1:
            raise RoutingError(f"posterior: decay lies between 0 and 1, got {self.decay}.")
        if not (self.prior is None or isinstance(self.prior, Mapping | RouterRecipe)):
            raise RoutingError(f"posterior: a prior is weights by name or a router's recipe, got {self.prior!r}.")
        if isinstance(self.prior, Mapping):
            odd = {name: weight for name, weight in self.prior.items() if not 0 <= weight < math.inf}
            if odd or not math.fsum(self.prior.values()) > 0:
                raise RoutingError(f"posterior: prior weights are finite, not negative, not all 0; got {self.prior}.")

    @property
    def name(self) -> str:
        """Its row in the table."""
        return "posterior"

    def bind(
        self, experts: tuple[str, ...], *, shelf: Shelf | None = None, tokenizer: Tokenizer | None = None
    ) -> PrefixRouter:
        """Return the router over these experts; raises RoutingError on a prior that does not fit them."""
        check_experts(experts)
        if self.prior is None:
            return PosteriorRouter(experts, _alike(torch.ones(len(experts))), self.decay)
        if isinstance(self.prior, Mapping):
            return _with_given_prior(self.prior, experts, decay=self.decay)
        prior = self.prior.bind(experts, shelf=shelf, tokenizer=tokenizer)
        if prior.needs_likelihoods:
            raise RoutingError(f"posterior: router {self.prior.name!r} needs likelihoods, so it cannot be a prior.")

        def log_prior(context: Context) -> Float[Tensor, "batch expert"]:
            weights = context_weights(prior, context, names=(*experts, BASE))
            return _floored(weights[:, :-1] + weights[:, -1:] / len(experts))

        return PosteriorRouter(experts, log_prior, self.decay, growth=prior.growth)


@dataclass(frozen=True)
class PosteriorRouter:
    """The posterior over named experts. State: (log prior, running log-likelihoods)."""

    experts: tuple[str, ...]
    log_prior: _LogPrior
    decay: float = 1.0
    growth: Literal["exact", "refit"] = "exact"
    needs_likelihoods: bool = True

    def start(self, context: Context) -> RouterState:
        """Return the prior, decided from the context, and no evidence."""
        log_prior = self.log_prior(context)
        return log_prior, torch.zeros_like(log_prior, dtype=torch.float64)

    def step(
        self,
        state: RouterState,
        tokens: Int[Tensor, "batch seq"],
        log_likelihoods: Float[Tensor, "batch seq expert"] | None,
    ) -> tuple[Routing, RouterState]:
        """Return the posterior after each of these tokens, and the new state."""
        if log_likelihoods is None or log_likelihoods.shape[-1] != len(self.experts):
            got = "none" if log_likelihoods is None else f"those of {log_likelihoods.shape[-1]}"
            raise RoutingError(f"posterior needs the log-likelihoods of {len(self.experts)} experts, got {got}.")
        log_prior, running = state
        path = running_log_likelihood(log_likelihoods, running, decay=self.decay, padding=tokens < 0)
        routing = Routing(self.experts, log_posterior(log_prior[:, None], path).exp().float())
        return routing, (log_prior, path[:, -1] if tokens.shape[1] else running)


def posterior(prior: Mapping[str, float] | RouterRecipe | None = None, decay: float = 1.0) -> Posterior:
    """Return the recipe of the cumulative posterior.

    >>> from collegium.routers import cached_prior
    >>> posterior(prior=cached_prior()).decay
    1.0
    """
    return Posterior(dict(prior) if isinstance(prior, Mapping) else prior, decay)


def _floored(weights: Float[Tensor, "*batch expert"]) -> Float[Tensor, "*batch expert"]:
    """Return the logarithms of normalised weights, none below `LEAST_SHARE` of 1 / E before they are normalised."""
    shares = weights / weights.sum(dim=-1, keepdim=True)
    shares = shares.clamp(min=LEAST_SHARE / weights.shape[-1])
    return (shares / shares.sum(dim=-1, keepdim=True)).log()


def _alike(weights: Float[Tensor, " expert"]) -> _LogPrior:
    log_prior = _floored(weights)
    return lambda context: log_prior.expand(context.batch, -1)


def _with_given_prior(prior: Mapping[str, float], experts: tuple[str, ...], *, decay: float) -> PosteriorRouter:
    for name in prior:
        if name not in (*experts, BASE):
            raise RoutingError(f"posterior: the prior names an unknown expert {name!r}. {nearest(name, experts)}")
    names = (*experts, BASE) if BASE in prior else experts
    weights = torch.tensor([prior.get(name, 0.0) for name in names])
    return PosteriorRouter(names, _alike(weights), decay)
