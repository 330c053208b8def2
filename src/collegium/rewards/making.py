"""What every design's fit works with, and how its members come into the library: one by one, resumable."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from collegium.core.cards import Kind
from collegium.core.errors import ConfigError, DataError, NameTaken
from collegium.data.preferences import PairCorpus, PairDomain, take_pairs
from collegium.experts import Expert
from collegium.library import Library
from collegium.models import Base
from collegium.rewards.config import RewardConfig, Trained
from collegium.rewards.fit import FittedJudge, hashes_of
from collegium.rewards.router_fit import FittedRouter, PromptMemory, remember
from collegium.rewards.routers import FeatureSpace
from collegium.rewards.texts import Encoder
from collegium.train import Logger, NullLogger, check_rules

RESERVED = re.compile(r"(router|routing)(-\d+)?|joint|heads|adapter|experts-\d+")
"""Names of members that no domain may have: a member is called after the reward model and its domain."""


@dataclass(frozen=True)
class DesignOptions:
    """Settings that only some designs heed.

    size:      joint: an adapter as large as one expert's (`active`), one as large as all experts' together (`total`),
               or all weights of the model (`whole`).
    features:  rodos: what its router sees of a prompt. threshold: rodos and arliss: abstain below this probability.
    memory:    rodos and arliss: prompts of each domain that routers are fitted on and that are kept to fit them anew.
    experts:   more: how many feed-forward experts in each of its layers; 0 = one for each domain.
    top_k:     more: how many of them a token is read by. more_layers: in which of the last layers.
    balance, information: more: weights of the load-balance and of the mutual-information loss.
    """

    size: Literal["active", "total", "whole"] = "active"
    features: FeatureSpace = "states"
    threshold: float = 0.5
    memory: int = 64
    experts: int = 0
    top_k: int = 2
    more_layers: int = 2
    balance: float = 0.01
    information: float = 0.0

    def __post_init__(self) -> None:
        """Raise ConfigError with every option out of its bounds."""
        rules = [
            ("threshold", self.threshold, 0 <= self.threshold <= 1, "lies in [0, 1]"),
            ("memory", self.memory, self.memory >= 2, "is at least 2"),
            ("experts", self.experts, self.experts == 0 or self.experts >= 2, "is at least 2, or 0"),
            ("top_k", self.top_k, self.top_k >= 1, "is at least 1"),
            ("more_layers", self.more_layers, self.more_layers >= 1, "is at least 1"),
            ("balance", self.balance, self.balance >= 0, "is not negative"),
            ("information", self.information, self.information >= 0, "is not negative"),
        ]
        check_rules(rules, what="options of the design")


@dataclass(frozen=True)
class Making:
    """A reward model being made in a library.

    generation: how often its router was fitted, this time counted; each has a name of its own.
    folder:     where interrupted fits lie, None = they cannot go on.
    begin:      told what is fitted in how many steps, returns their logger. figures: of members, filled as it goes.
    """

    base: Base
    library: Library
    corpus: PairCorpus
    name: str
    generation: int = 1
    config: RewardConfig = RewardConfig()  # noqa: RUF009 - frozen
    options: DesignOptions = DesignOptions()
    folder: Path | None = None
    begin: Callable[[str, int], Logger] = lambda label, steps: NullLogger()
    figures: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the domains: there is one at least, and none has a member's name."""
        check_domains(self.corpus, self.name)

    def member(self, part: str) -> str:
        """Return a member's name."""
        return f"{self.name}-{part}"

    @property
    def router(self) -> str:
        """The name of the router's adapter of this generation."""
        return "router" if self.generation == 1 else f"router-{self.generation}"

    @property
    def routing(self) -> str:
        """The name under which this generation's routing is kept: what it remembers and was fitted to."""
        return self.member("routing" if self.generation == 1 else f"routing-{self.generation}")

    def keep(
        self,
        part: str,
        steps: int,
        fit: Callable[[str, Path | None, Logger], FittedJudge | FittedRouter],
        *,
        domains: Sequence[PairDomain | str],
        kind: Kind = "lora",
    ) -> Expert:
        """Return a member, fitted and added to the library unless it is there already with the same settings.

        steps: about how many its fit takes. domains: those it learns from, of a router their names alone.

        Raises NameTaken when an expert of other settings, base or pairs has its name.
        """
        name = self.member(part)
        if name in self.library:
            self.check_kept(name, domains=domains, kind=kind)
            self.figures[name] = {"kept": True}
            return self.library[name]
        logger = self.begin(name, steps)
        folder = None if self.folder is None else self.folder / name
        done = fit(name, folder, logger)
        logger.close()
        self.library.add(done.expert, measured=done.curve)
        self.figures[name] = {"kept": False, **curve_ends(done.curve), **counts(done)}
        return self.library[name]

    def steps(self, domains: Sequence[PairDomain], kind: Trained) -> int:
        """Return how many steps a judge of these domains takes, if no pair is left out."""
        most = self.config.train_pairs
        found = [len(each.split().train) for each in domains]
        return self.config.loop(sum(min(each, most) if most else each for each in found), kind=kind).steps

    def check_kept(self, name: str, *, domains: Sequence[PairDomain | str], kind: Kind = "lora") -> None:
        """Raise NameTaken when a member is of another kind, or was made by other settings or from other pairs."""
        card = self.library.card(name)
        recipe, wanted = card.recipe, self.config.recipe()
        odd = {
            key: (recipe.get(key), value)
            for key, value in wanted.items()
            if key not in ("threads", "learning_rate", "states_mb") and recipe.get(key) != value
        }
        names = [each if isinstance(each, str) else each.name for each in domains]
        pairs = hashes_of([each for each in domains if isinstance(each, PairDomain)])
        if card.kind != kind:
            odd = {"kind": (card.kind, kind)}
        elif recipe.get("domains") != names:
            odd["domains"] = (recipe.get("domains"), names)
        elif any(pairs.values()) and card.documents != pairs:
            odd["pairs"] = ("others", "these")
        if odd:
            told = ", ".join(f"{key} {had!r} there, {now!r} here" for key, (had, now) in sorted(odd.items()))
            raise NameTaken(
                f"the library has a member {name!r} of other settings ({told}). Use the same, take another --as, or "
                f"remove it: `collegium library remove {name}`."
            )

    def memory(self, domains: tuple[PairDomain, ...]) -> PromptMemory:
        """Return prompts of these domains for a router."""
        encoder, most = Encoder(self.base, self.config.text_tokens), self.options.memory
        pairs = {}
        for each in domains:
            split = each.split()
            pairs[each.name] = (
                take_pairs(split.train, self.config.train_pairs or None),
                take_pairs(split.dev, self.config.dev_pairs or None),
            )
        return remember(pairs, encoder, most=most)


def check_domains(corpus: PairCorpus, name: str) -> None:
    """Raise DataError for no domain at all, or one that has another member's name."""
    if not len(corpus):
        raise DataError("a reward model is fitted on the pairs of at least one domain, there is none.")
    odd = [each for each in corpus.names if RESERVED.fullmatch(each)]
    if odd:
        raise DataError(f"a domain cannot be called {odd[0]!r}: {name}-{odd[0]} is another member. Rename it.")


def counts(done: FittedJudge | FittedRouter) -> dict[str, Any]:
    """Return how many examples a member took."""
    if isinstance(done, FittedRouter):
        return {"prompts": done.prompts}
    return {"pairs": done.pairs, "cut_texts": done.cut, "equal_after_cut": done.equal}


def curve_ends(curve: Mapping[str, Any]) -> dict[str, Any]:
    """Return the held-out loss before a fit and at its best."""
    held_out = curve["held_out"]
    return {"dev_loss_before": held_out[0][1], "dev_loss": min(loss for _, loss in held_out)}


def check_two(corpus: PairCorpus, design: str) -> None:
    """Raise ConfigError for a design that routes between domains where there is one only."""
    if len(corpus) < 2:
        raise ConfigError(
            f"--design {design} chooses among judges of several domains, the data has one ({corpus.names[0]}). Use "
            "--design joint, or give more domains: a file or folder each."
        )
