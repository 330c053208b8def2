"""What the experiments on reward models are made of: settings, the models compared, and the pairs of a seed."""

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from collegium.data.preferences import PairCorpus, PairDomain
from collegium.rewards import Design, DesignOptions, RewardConfig, Seen
from collegium.rewards.config import Trained

Partner = Literal["larger", "smaller"]
RATE_SEED = 0
"""The one seed on which learning rates are chosen."""


@dataclass(frozen=True)
class Plan:
    """One of the models compared.

    size: of a joint one. trained: what of the base learns, which decides the grid of its learning rates.
    wide: its rank is raised until a text is read with at least as many numbers as by MoRE.
    rated_as: the model whose learning rate it takes, "" = it has its own. other: it stands on the other base.
    everything: it reads all pairs of its domains, ten times.
    """

    design: Design
    trained: Trained = "adapter"
    size: Literal["active", "whole"] = "active"
    wide: bool = False
    rated_as: str = ""
    other: bool = False
    everything: bool = False


PLANS: Mapping[str, Plan] = {
    "joint": Plan("joint"),
    "more": Plan("more"),
    "joint-wide": Plan("joint", wide=True),
    "joint-whole": Plan("joint", "whole", "whole"),
    "joint-whole-long": Plan("joint", "whole", "whole", rated_as="joint-whole", everything=True),
    "joint-old": Plan("joint", rated_as="joint"),
    "joint-whole-old": Plan("joint", "whole", "whole", rated_as="joint-whole"),
    "arliss": Plan("arliss"),
    "rodos": Plan("rodos", "whole"),
    "larger-joint-whole": Plan("joint", "whole", "whole", other=True),
    "smaller-arliss": Plan("arliss", other=True),
    "smaller-more": Plan("more", other=True),
}
GROWING = ("arliss", "rodos")
CONTINUED = ("joint", "joint-whole")
"""Joint models that are also continued on the new domain alone, from one fitted on the old domains."""
OTHERS: Mapping[Partner, tuple[str, ...]] = {
    "larger": ("larger-joint-whole",),
    "smaller": ("smaller-arliss", "smaller-more"),
}


@dataclass(frozen=True)
class RewardSettings:
    """Sizes of an experiment; every model is given the same.

    domains: in order, the last of them the one that is added later. pairs: of a domain that a seed draws at most.
    judged:  pairs of a domain that models are judged by at most.
    rates:   learning rates to choose from, by what is trained; none = the library's own.
    models:  of `PLANS`, on the base itself. grows: whether the last domain is added to the others.
    partner: what the other base is to this one, None = there is no other.
    """

    domains: tuple[str, ...]
    pairs: int
    judged: int = 60
    config: RewardConfig = RewardConfig()  # noqa: RUF009 - frozen
    options: DesignOptions = DesignOptions()  # noqa: RUF009 - frozen
    rates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    models: tuple[str, ...] = ("joint", "more", "joint-wide", "joint-whole", "arliss", "rodos")
    grows: bool = True
    partner: Partner | None = None
    bases: tuple[str, ...] = ()

    @property
    def old(self) -> tuple[str, ...]:
        """The domains that are there from the beginning."""
        return self.domains[:-1] if self.grows else self.domains

    @property
    def new(self) -> str:
        """The domain that is added."""
        return self.domains[-1]

    @property
    def others(self) -> tuple[str, ...]:
        """The models on the other base."""
        return OTHERS[self.partner] if self.partner else ()

    @property
    def fitted(self) -> tuple[str, ...]:
        """All models that are fitted in one go, in order."""
        grown = GROWING if self.grows else ()
        again = tuple(f"{name}-old" for name in CONTINUED) if self.grows else ()
        return (*(name for name in self.models if name not in grown), *self.others, *again)

    @property
    def tuned(self) -> tuple[str, ...]:
        """The models that choose a learning rate of their own, in order."""
        named = (*self.models, *self.others) if self.rates else ()
        return tuple(name for name in named if not PLANS[name].rated_as)

    def plain(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        raw = asdict(self)
        lists = {key: list(value) for key, value in raw.items() if isinstance(value, tuple)}
        return {**raw, **lists, "rates": {kind: list(each) for kind, each in self.rates.items()}}


def draw_pairs(corpus: PairCorpus, settings: RewardSettings, seed: int) -> PairCorpus:
    """Return a seed's pairs of the settings' domains: all, or as many as are drawn of a domain that has more."""
    found = []
    for domain in corpus.only(settings.domains):
        order = random.Random(f"{domain.name} {seed}")
        pairs = domain.pairs
        if len(pairs) > settings.pairs:
            pairs = tuple(order.sample(pairs, settings.pairs))
        found.append(PairDomain(domain.name, pairs, domain.kind, domain.sources))
    return PairCorpus(tuple(found))


def seen_of(corpus: PairCorpus, config: RewardConfig) -> Seen:
    """Return the prompts that no model of a seed may be judged by, and as many pairs as the floor of words reads."""
    hashes = [domain.split().hashes for domain in corpus]
    parts = {part: frozenset(each for own in hashes for each in own[part]) for part in ("train", "dev")}
    return Seen(parts["train"], parts["dev"], config.train_pairs or None)
