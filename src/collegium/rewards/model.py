"""Reward models: judges, who is asked of them, and what is made of their answers. A reward model is a `Feature`.

Each judge's reward is standardised by its own domain's dev answers, (r - mean) / deviation, so that domains and
averages are comparable; `raw=True` gives the head's own number. Where a router abstains, the mean of all standardised
rewards is given.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import ConfigError
from collegium.core.samples import Sample
from collegium.models import Base
from collegium.models.trunk import Trunk
from collegium.rewards.judges import AdapterJudges, Judges, Standards
from collegium.rewards.mixture import MixtureJudges
from collegium.rewards.routers import ABSTAIN, AdapterRouter, PromptRouter, choices
from collegium.rewards.texts import Encoder, TextBatch, batch_of, encode_all

Route = Literal["router", "average"]

BATCH = 32
"""How many texts are read at once where nothing else is said."""


@runtime_checkable
class Mixer(Protocol):
    """Weights of the judges by prompt, all of whom are asked: the gate of a multi-objective head."""

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        ...

    def __call__(self, prompts: TextBatch) -> Float[Tensor, "prompt judge"]:
        """Return log-weights."""
        ...


@dataclass(frozen=True, eq=False)
class Rewards:
    """What a reward model says of samples, in their order, float32 on the processor.

    every:  all judges' standardised rewards, None where only the chosen ones were asked.
    routes: log-probabilities of the domains, None without a router. choice: whose reward it is, `ABSTAIN` = the mean.
    cut:    which texts did not fit whole.
    """

    rewards: Float[Tensor, " sample"]
    every: Float[Tensor, "sample judge"] | None
    routes: Float[Tensor, "sample domain"] | None
    choice: Int[Tensor, " sample"]
    cut: tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class RewardModel:
    """A reward model of any design.

    judges:  one, or one for each domain. router: who chooses among them; None = there is one, or the mean is given.
    mixer:   weighs them, in place of a router. threshold: the probability below which the router abstains.
    batch:   texts read at once; across batch shapes rewards agree to 1e-4.
    """

    name: str
    design: str
    judges: Judges
    standards: Standards
    router: PromptRouter | None = None
    mixer: Mixer | None = None
    threshold: float = 0.0
    route: Route = "router"
    batch: int = BATCH

    @property
    def domains(self) -> tuple[str, ...]:
        """The judges' names: their domains."""
        return self.judges.names

    @property
    def parameters_resident(self) -> int:
        """How many numbers are in memory."""
        extra = (self.router, self.mixer)
        return self.judges.resident + sum(each.parameters for each in extra if each is not None)

    @property
    def parameters_active(self) -> int:
        """How many numbers a text is read with, the router's among them."""
        extra = (self.router, self.mixer)
        return self.judges.active + sum(each.parameters for each in extra if each is not None)

    def __call__(self, samples: Sequence[Sample]) -> Float[Tensor, " sample"]:
        """Return each sample's standardised reward, by the judge whom its prompt chooses."""
        return self.judge(samples).rewards

    def judge(
        self,
        samples: Sequence[Sample],
        *,
        by: str | None = None,
        every: bool = False,
        raw: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Rewards:
        """Return the rewards of samples and whose they are.

        by:    a judge who is asked whatever the prompt; no router is. every: ask all of them, and say what each says.
        raw:   the heads' own numbers, not standardised.

        Raises DataError for an empty text, ConfigError for an unknown judge.
        """
        if by is not None and by not in self.domains:
            raise ConfigError(f"{self.name} has no judge {by!r}; it has {', '.join(self.domains)}.")
        encoded = encode_all(samples, Encoder(self.judges.base, self.judges.reading.text_tokens))
        order = sorted(range(len(encoded)), key=lambda place: -len(encoded[place].tokens))
        parts: list[_Part] = []
        for first in range(0, len(order), self.batch):
            rows = order[first : first + self.batch]
            with torch.no_grad():
                parts.append(self._part(batch_of([encoded[row] for row in rows]), by=by, every=every, raw=raw))
            if progress is not None:
                progress(first + len(rows))
        return _in_order(parts, order, tuple(each.cut for each in encoded), len(self.domains))

    def usage(self, samples: Sequence[Sample]) -> Float[Tensor, "layer expert"] | None:
        """Return each inner expert's share of the tokens' choices by layer; None where there are none inside."""
        if not isinstance(self.judges, MixtureJudges):
            return None
        encoded = encode_all(samples, Encoder(self.judges.base, self.judges.reading.text_tokens))
        parts = [encoded[first : first + self.batch] for first in range(0, len(encoded), self.batch)]
        counts = torch.stack([self.judges.usage(batch_of(part)) for part in parts]).sum(0)
        return counts / counts.sum(-1, keepdim=True).clamp(min=1)

    def _part(self, batch: TextBatch, *, by: str | None, every: bool, raw: bool) -> "_Part":
        with shared_trunk(self.judges, self.router, batch) as given:
            routes = None if self.router is None or by is not None else self._routes(batch, given)
            choice = self._choice(batch, routes, by)
            whole = every or self.mixer is not None or bool((choice == ABSTAIN).any())
            if not whole:
                with given(batch.tokens.shape[1]):
                    said = self.judges.chosen(batch, choice).cpu()
                return _Part(said if raw else self.standards.apply(said, choice), None, routes, choice)
            with given(batch.tokens.shape[1]):
                found = self.judges.every(batch).cpu()
        shown = found if raw else self.standards.apply(found)
        if self.mixer is not None and by is None:
            return _Part((self.mixer(batch.of_prompts).exp().cpu() * shown).sum(-1), shown, routes, choice)
        own = shown.gather(1, choice.clamp(min=0)[:, None])[:, 0]
        return _Part(torch.where(choice == ABSTAIN, shown.mean(1), own), shown, routes, choice)

    def _routes(self, batch: TextBatch, given: "Given") -> Float[Tensor, "text domain"]:
        assert self.router is not None
        prompts = batch.of_prompts
        if isinstance(self.router, AdapterRouter) and self.router.base is self.judges.base and self.router.base.causal:
            with given(prompts.tokens.shape[1]):
                return self.router(prompts).cpu()
        return self.router(prompts).cpu()

    def _choice(self, batch: TextBatch, routes: Tensor | None, by: str | None) -> Int[Tensor, " text"]:
        if by is not None:
            return torch.full((len(batch),), self.domains.index(by))
        if len(self.domains) == 1:
            return torch.zeros(len(batch), dtype=torch.long)
        if routes is None or self.route == "average":
            return torch.full((len(batch),), ABSTAIN)
        return choices(routes, self.threshold)


@dataclass(frozen=True, eq=False)
class _Part:
    rewards: Tensor
    every: Tensor | None
    routes: Tensor | None
    choice: Tensor


def _in_order(parts: Sequence[_Part], order: Sequence[int], cut: tuple[bool, ...], judges: int) -> Rewards:
    """Return what was said of all parts in the samples' own order."""
    if not parts:
        nothing = torch.zeros(0)
        return Rewards(nothing, torch.zeros(0, judges), None, torch.zeros(0, dtype=torch.long), ())
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))

    def joined(values: Sequence[Tensor | None]) -> Tensor | None:
        kept = [each for each in values if each is not None]
        return torch.cat(kept)[back] if len(kept) == len(values) else None

    rewards, choice = joined([each.rewards for each in parts]), joined([each.choice for each in parts])
    assert rewards is not None
    assert choice is not None
    return Rewards(
        rewards, joined([each.every for each in parts]), joined([each.routes for each in parts]), choice, cut
    )


Given = Callable[[int], contextlib.AbstractContextManager[None]]
"""Width -> the context in which the base takes the states of the batch, up to that width, as read."""


@contextlib.contextmanager
def shared_trunk(judges: Judges, router: PromptRouter | None, batch: TextBatch) -> Iterator[Given]:
    """Give the context in which blocks below all adapters are not run again for a batch read once.

    Judges and router on one decoder take them; what else there is runs whole. The states below are those of the text
    alone, and a prompt's are the first of them.
    """
    base = judges.base
    if not isinstance(judges, AdapterJudges) or not isinstance(router, AdapterRouter) or not base.causal:
        yield lambda width: contextlib.nullcontext()
        return
    first = min(judges.first, _first_block(base, router.key))
    if not first:
        yield lambda width: contextlib.nullcontext()
        return
    trunk = Trunk(base, first)
    states = trunk.states(batch.tokens, lengths=batch.lengths)
    yield lambda width: trunk.given(states[:, :width])


def _first_block(base: Base, key: str) -> int:
    return min(base.sites[path].block for path in base.adapter(key))
