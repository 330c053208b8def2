"""Who the prompt looks like speaks: one-versus-rest logistic regression on its words."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.errors import RoutingError
from collegium.core.protocols import Context, PrefixRouter, Shelf, Tokenizer
from collegium.core.routing import BASE
from collegium.routers.features import count_features, scaled
from collegium.routers.fitted import covering_fit
from collegium.routers.held import HeldRouter, check_experts

CLASSIFIER = "classifier"
THRESHOLD = 1 / 3
"""By default it abstains where an unseen domain is more than twice as likely."""
LONGEST = 128
"""Words beyond which a longer text makes the calibration no surer."""


@dataclass(frozen=True)
class Classifier:
    """The probability that a context is of an expert's domain, from its words; abstains when it is like none.

    A row per expert: logistic regression on tf-idf against a fixed background sample ("rest"), calibrated on held-out
    excerpts with a slope that depends on their length. Row e gives p_e, the probability against the rest when both
    are equally likely; with m_e other domains in the background, the weight is p_e / (p_e + m_e (1 - p_e)), normalised
    over the experts.

    Whether it abstains is decided by a second calibration, q_e, against domains that the row did not see: each domain
    of the background is left out once, and q_e is the probability that a context is of the expert's domain and not of
    one left out, when both are equally likely. When no q_e reaches `threshold`, or no word of the context occurred in
    the fit, all weight is on `base`. With a single other domain in the background none can be left out, and q_e = p_e.

    fit: the name it lies under in the library.
    """

    threshold: float = THRESHOLD
    fit: str = CLASSIFIER

    def __post_init__(self) -> None:
        """Check the threshold."""
        if not 0 <= self.threshold <= 1:
            raise RoutingError(f"classifier: threshold lies between 0 and 1, got {self.threshold}.")

    @property
    def name(self) -> str:
        """Its row in the table."""
        return CLASSIFIER

    def bind(
        self, experts: tuple[str, ...], *, shelf: Shelf | None = None, tokenizer: Tokenizer | None = None
    ) -> PrefixRouter:
        """Return the router; raises RoutingError when it was never fitted, StaleRouter when it lacks an expert."""
        check_experts(experts)
        tensors, _ = covering_fit(experts, shelf, self.fit, router=CLASSIFIER)
        rows = Rows(
            torch.stack([tensors[f"row.{name}"] for name in experts]),
            torch.stack([tensors[f"calibration.{name}"] for name in experts]),
            tensors["inverse_frequency"],
        )

        def decide(context: Context) -> Float[Tensor, "batch expert"]:
            texts = context_texts(context, tokenizer)
            return torch.stack([rows.weights(text, threshold=self.threshold) for text in texts])

        return HeldRouter((*experts, BASE), decide)


def classifier(threshold: float = THRESHOLD, fit: str = CLASSIFIER) -> Classifier:
    """Return the recipe of the classifier.

    >>> classifier(threshold=0.7).threshold
    0.7
    """
    return Classifier(threshold, fit)


@dataclass(frozen=True)
class Rows:
    """One-versus-rest rows.

    calibration: intercept; slope, slope with length, offset against the rest; number of domains in the rest; slope,
    slope with length, offset against unseen domains.
    """

    rows: Float[Tensor, "expert bucket"]
    calibration: Float[Tensor, "expert 8"]
    inverse_frequency: Float[Tensor, " bucket"]

    def weights(self, text: str, *, threshold: float) -> Float[Tensor, " entry"]:
        """Return the experts' weights for a text, and that of `base`, last."""
        features = count_features(text)
        experts = len(self.rows)
        abstaining = torch.nn.functional.one_hot(torch.tensor(experts), experts + 1).float()
        own = self.rows[:, features.index]
        if not bool(own.any()):
            return abstaining
        intercept, against, rest, unseen = self.calibration.split((1, 3, 1, 3), dim=-1)
        raw = (own * scaled(features, self.inverse_frequency)).sum(dim=-1) + intercept[:, 0]
        length = length_share(features.words)
        if float(_log_odds(raw, length, unseen).sigmoid().max()) < threshold:
            return abstaining
        log_odds, rest = _log_odds(raw, length, against), rest[:, 0]
        shares = torch.nn.functional.logsigmoid(log_odds - rest.log()).softmax(dim=0)
        return torch.cat([shares.float(), torch.zeros(1)])


def _log_odds(
    raw: Float[Tensor, " expert"], length: float, platt: Float[Tensor, "expert 3"]
) -> Float[Tensor, " expert"]:
    slope, with_length, offset = platt.unbind(dim=-1)
    return raw * (slope + with_length * length) + offset


def length_share(words: int) -> float:
    """Return how long a text is, from 0 (nothing) to 1 (long enough)."""
    return math.log1p(min(words, LONGEST)) / math.log1p(LONGEST)


def context_texts(context: Context, tokenizer: Tokenizer | None) -> tuple[str, ...]:
    """Return the contexts as text; raises RoutingError for a base that serves token ids alone."""
    if context.texts is not None:
        return context.texts
    if tokenizer is None:
        raise RoutingError("this router reads text, but the base has no tokenizer; use uniform, fixed or posterior.")
    pairs = zip(context.tokens.tolist(), context.lengths.tolist(), strict=True)
    return tuple(tokenizer.decode(row[:length]) for row, length in pairs)
