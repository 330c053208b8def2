"""What speaks when nobody chose: the prompt gives the prior, the text the posterior."""

from dataclasses import dataclass

from collegium.core.errors import UnknownName
from collegium.core.protocols import PrefixRouter, Shelf, Tokenizer
from collegium.routers.classifier import CLASSIFIER, THRESHOLD, Classifier
from collegium.routers.fitted import check_kind, known_experts
from collegium.routers.posterior import Posterior


@dataclass(frozen=True)
class Default:
    """The classifier on the prompt as prior, then the posterior.

    The posterior alone where no classifier was fitted, where it does not know all of the experts (one was just
    added), or where the base serves token ids.
    """

    threshold: float = THRESHOLD
    fit: str = CLASSIFIER

    def __post_init__(self) -> None:
        """Check the threshold."""
        Classifier(self.threshold, self.fit)

    @property
    def name(self) -> str:
        """Its row in the table."""
        return "default"

    def bind(
        self, experts: tuple[str, ...], *, shelf: Shelf | None = None, tokenizer: Tokenizer | None = None
    ) -> PrefixRouter:
        """Return the router over these experts."""
        known = self._fitted(shelf) if tokenizer is not None else frozenset()
        prior = Classifier(self.threshold, self.fit) if known.issuperset(experts) else None
        return Posterior(prior).bind(experts, shelf=shelf, tokenizer=tokenizer)

    def _fitted(self, shelf: Shelf | None) -> frozenset[str]:
        """Return the experts the classifier knows; none where it was never fitted."""
        if shelf is None:
            return frozenset()
        try:
            _, card = shelf.load_router(self.fit)
        except UnknownName:
            return frozenset()
        check_kind(card, self.fit, router=CLASSIFIER)
        return known_experts(shelf, card)


def default(threshold: float = THRESHOLD, fit: str = CLASSIFIER) -> Default:
    """Return the recipe that is used when none is named.

    >>> default().bind(("law", "code")).needs_likelihoods
    True
    """
    return Default(threshold, fit)
