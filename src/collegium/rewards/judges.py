"""Judges: who gives a text a reward. Adapters with heads on one loaded base, or whole models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose import attach_expert
from collegium.core.errors import CorruptExpert, IncompatibleExpert
from collegium.experts import Expert
from collegium.experts.payloads import AdapterPayload
from collegium.models import Base, Group, HeadWeights, RowPlan
from collegium.rewards.reading import Reading, pooled
from collegium.rewards.sequence import head_of
from collegium.rewards.texts import TextBatch


@runtime_checkable
class Judges(Protocol):
    """Several judges who read texts alike; each gives a text its own head's number, which is what PEFT's would be."""

    @property
    def names(self) -> tuple[str, ...]:
        """Whose rewards they are, in order."""
        ...

    @property
    def reading(self) -> Reading:
        """How they read."""
        ...

    @property
    def base(self) -> Base:
        """Whose tokenizer they read with."""
        ...

    @property
    def resident(self) -> int:
        """How many numbers they hold in memory, the base's counted once."""
        ...

    @property
    def active(self) -> int:
        """How many numbers one text is read with by one judge."""
        ...

    def every(self, batch: TextBatch) -> Float[Tensor, "text judge"]:
        """Return all judges' rewards."""
        ...

    def chosen(self, batch: TextBatch, index: Int[Tensor, " text"]) -> Float[Tensor, " text"]:
        """Return one judge's reward of each text."""
        ...


@dataclass(frozen=True)
class Standards:
    """Mean and deviation of each judge's rewards on its own domain's dev answers."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @staticmethod
    def of(experts: Sequence[Expert]) -> "Standards":
        """Return what the judges' cards say; raises CorruptExpert when they say nothing usable."""
        means, deviations = [], []
        for expert in experts:
            mean, deviation = (_numbers(expert, key) for key in ("mean", "deviation"))
            if len(mean) != len(deviation) or min(deviation) <= 0:
                raise CorruptExpert(
                    f"expert {expert.name!r}: a judge's card holds a mean and a positive deviation for each output, "
                    f"this one says {mean} and {deviation}. Fit it again."
                )
            means += mean
            deviations += deviation
        return Standards(tuple(means), tuple(deviations))

    def apply(self, rewards: Tensor, index: Tensor | None = None) -> Tensor:
        """Return (reward - mean) / deviation: of all judges by column, or of one judge a text."""
        mean, deviation = (rewards.new_tensor(each) for each in (self.mean, self.deviation))
        return (rewards - mean) / deviation if index is None else (rewards - mean[index]) / deviation[index]


class AdapterJudges:
    """Adapters with heads on one base: below the first block that one of them changes, a text is read once.

    experts: judge -> its expert. An expert whose head has as many outputs as there are judges is that of all of them,
    an output each.

    Raises IncompatibleExpert for experts that read differently, or have no head that fits.
    """

    def __init__(self, base: Base, experts: Mapping[str, Expert]) -> None:
        """Attach the experts, each content once."""
        self.base, self.names = base, tuple(experts)
        distinct = {expert.name: expert for expert in experts.values()}
        self.reading = common_reading(list(distinct.values()))
        self.keys = {name: attach_expert(base, expert) for name, expert in distinct.items()}
        self._heads = {name: head_on(expert, base) for name, expert in distinct.items()}
        order = list(distinct)
        self._judges = [
            (order.index(expert.name), self._column(expert, place)) for place, expert in enumerate(experts.values())
        ]
        adapters = [expert.payload for expert in distinct.values() if isinstance(expert.payload, AdapterPayload)]
        self._sizes = [each.parameters for each in adapters]
        self._base_size = size_of(base)

    def _column(self, expert: Expert, place: int) -> int:
        outputs = self._heads[expert.name].weight.shape[0]
        if outputs not in (1, len(self.names)):
            raise IncompatibleExpert(
                f"expert {expert.name!r} has a head of {outputs} outputs; a judge's has one, or one for each of the "
                f"{len(self.names)} domains."
            )
        return 0 if outputs == 1 else place

    @property
    def resident(self) -> int:
        """The base's numbers and those of all adapters and heads."""
        return self._base_size + sum(self._sizes)

    @property
    def active(self) -> int:
        """The base's numbers and those of the largest adapter."""
        return self._base_size + max(self._sizes)

    @property
    def first(self) -> int:
        """The lowest block that one of them changes."""
        return min(
            (self.base.sites[path].block for key in self.keys.values() for path in self.base.adapter(key)),
            default=len(self.base.blocks),
        )

    def every(self, batch: TextBatch) -> Float[Tensor, "text judge"]:
        """Return all judges' rewards, out of one forward."""
        states = pooled(self.base, batch, plan=RowPlan.each(list(self.keys.values())), reading=self.reading)
        said = [head(state) for head, state in zip(self._heads.values(), states, strict=True)]
        return torch.stack([said[expert][:, column] for expert, column in self._judges], dim=1)

    def chosen(self, batch: TextBatch, index: Int[Tensor, " text"]) -> Float[Tensor, " text"]:
        """Return one judge's reward of each text, out of one forward with a row a text."""
        expert = torch.tensor([expert for expert, _ in self._judges])[index]
        column = torch.tensor([column for _, column in self._judges])[index]
        plan = RowPlan((Group(tuple(self.keys.values()), index=expert[:, None]),))
        states = pooled(self.base, batch, plan=plan, reading=self.reading)[0]
        said = states.new_zeros(len(batch))
        for number, head in enumerate(self._heads.values()):
            mine = (expert == number).nonzero().flatten().to(states.device)
            said[mine] = head(states[mine])[torch.arange(len(mine)), column[mine.cpu()]]
        return said


class WholeJudges:
    """Whole models with heads, each with all its weights in memory. models: judge -> the model, opened as a base."""

    def __init__(self, base: Base, models: Mapping[str, Base], reading: Reading) -> None:
        """Take the models; `base` gives the tokenizer alone."""
        self.base, self.names, self.reading = base, tuple(models), reading
        self._models = dict(models)
        self._heads = {name: head_of(model) for name, model in models.items()}

    @property
    def resident(self) -> int:
        """The numbers of all models."""
        return sum(size_of(model) for model in self._models.values())

    @property
    def active(self) -> int:
        """The numbers of the largest model."""
        return max(size_of(model) for model in self._models.values())

    def every(self, batch: TextBatch) -> Float[Tensor, "text judge"]:
        """Return all models' rewards, one model after another."""
        return torch.stack([self._by(name, batch) for name in self.names], dim=1)

    def chosen(self, batch: TextBatch, index: Int[Tensor, " text"]) -> Float[Tensor, " text"]:
        """Return one model's reward of each text; a model reads only its own."""
        said = torch.zeros(len(batch), device=self.base.device)
        for number, name in enumerate(self.names):
            mine = (index == number).nonzero().flatten()
            if len(mine):
                said[mine.to(said.device)] = self._by(name, batch.take(mine))
        return said

    def _by(self, name: str, batch: TextBatch) -> Float[Tensor, " text"]:
        return self._heads[name](pooled(self._models[name], batch, reading=self.reading)[0])[:, 0]


def _numbers(expert: Expert, key: str) -> list[float]:
    found = expert.card.constants.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(each, float | int) for each in found):
        raise CorruptExpert(
            f"expert {expert.name!r}: a judge's card holds the {key} of its rewards, this one says {found!r}. Fit it "
            "again."
        )
    return [float(each) for each in found]


def common_reading(experts: Sequence[Expert]) -> Reading:
    """Return how all of these judges read; raises IncompatibleExpert when they differ."""
    readings = {
        each.name: Reading.from_constants(each.card.constants, where=f"expert {each.name!r}") for each in experts
    }
    if len(set(readings.values())) > 1:
        raise IncompatibleExpert(
            f"judges of one reward model read alike, these do not: {readings}. Fit them with the same "
            "--text-tokens and --pooling."
        )
    return next(iter(readings.values()))


def head_on(expert: Expert, base: Base) -> HeadWeights:
    """Return a judge's head on the base's device; raises IncompatibleExpert where there is none or it does not fit."""
    head = expert.payload.head if isinstance(expert.payload, AdapterPayload) else None
    hidden = int(base.config.hidden_size)
    if head is None or head.weight.shape[1] != hidden:
        found = "none" if head is None else f"one over {head.weight.shape[1]} numbers"
        raise IncompatibleExpert(
            f"expert {expert.name!r}: a judge on {base.name} has a head over its {hidden} hidden numbers, this one has "
            f"{found}. Save adapter and head together, for this base."
        )
    bias = None if head.bias is None else head.bias.to(base.device)
    return HeadWeights(head.weight.to(base.device), bias, head.module)


def size_of(base: Base) -> int:
    """Return how many numbers read a text to its last hidden state; an output layer over a vocabulary says nothing."""
    return sum(each.numel() for each in base.inner.parameters())
