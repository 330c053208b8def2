"""Voices: named distributions over the next token, computed as rows of as few forwards as possible."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose.routed import right_padded
from collegium.core.errors import RoutingError
from collegium.core.protocols import Decoding, LanguageModel, Tokenizer, context_limit
from collegium.core.routing import BASE
from collegium.models import Base, BaseDecoding, Group, RowDecoding, RowPlan


@dataclass(frozen=True)
class Choice:
    """Which voices are asked: the same for every text, or k of them for each.

    names: the voices; index: `Int["batch k"]` positions in `names`, None = all of them for every text.
    """

    names: tuple[str, ...]
    index: Int[Tensor, "batch k"] | None = None

    @property
    def rows(self) -> int:
        """How many rows each text costs."""
        return len(self.names) if self.index is None else self.index.shape[1]

    def keep(self, rows: Int[Tensor, " kept"]) -> "Choice":
        """Return the choice for these texts alone."""
        return self if self.index is None else Choice(self.names, self.index[rows])


@runtime_checkable
class VoicesDecoding(Protocol):
    """Texts continued by every chosen voice at once."""

    def prompt_scores(self) -> Float[Tensor, "batch seq row"]:
        """Return each row's log-probability of each prompt token; 0 at position 0 and for padding."""
        ...

    def logprobs(self) -> Float[Tensor, "batch row vocab"]:
        """Return each row's log-probabilities of the next token."""
        ...

    def step(self, tokens: Int[Tensor, " batch"]) -> None:
        """Append a token to every text."""
        ...

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these texts alone."""
        ...


@runtime_checkable
class Voices(Protocol):
    """Named next-token distributions over one vocabulary."""

    @property
    def names(self) -> tuple[str, ...]:
        """All voices."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer they share."""
        ...

    @property
    def vocab_size(self) -> int:
        """The size of their vocabulary."""
        ...

    def score(
        self, tokens: Int[Tensor, "batch seq"], choice: Choice, *, lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch seq row"]:
        """Return each chosen voice's log-probability of each token; 0 at position 0 and for padding."""
        ...

    def logprobs(
        self, tokens: Int[Tensor, "batch seq"], choice: Choice, *, lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "row batch seq vocab"]:
        """Return each chosen voice's whole distribution at every position."""
        ...

    def open(self, prompts: Sequence[Sequence[int]], choice: Choice) -> VoicesDecoding:
        """Return a decoding of the prompts by the chosen voices."""
        ...


def row_plan(choice: Choice, keys: Mapping[str, str]) -> RowPlan:
    """Return the rows that ask the chosen voices: a group per voice, or per rank of each text's own choice.

    A per-text choice is a blend with one-hot weights, which is that expert alone; `base` is the empty blend.
    """
    if choice.index is None:
        return RowPlan(tuple(Group(() if name == BASE else (keys[name],)) for name in choice.names))
    live = [name for name in choice.names if name != BASE]
    place = torch.tensor([live.index(name) if name != BASE else len(live) for name in choice.names])
    eye = torch.eye(len(live) + 1)[:, : len(live)]
    weights = eye[place[choice.index.cpu()]]
    adapters = tuple(keys[name] for name in live)
    return RowPlan(tuple(Group(adapters, weights[:, rank, None, :]) for rank in range(choice.rows)))


class SlotVoices:
    """The base and adapters on it, computed as rows of one forward with a shared trunk.

    keys: voice name -> name under which its adapter is attached to the base.
    """

    def __init__(self, base: Base, keys: Mapping[str, str]) -> None:
        """Keep the base and the attached adapters' names."""
        self.base = base
        self.keys = dict(keys)

    @property
    def names(self) -> tuple[str, ...]:
        """The base and the adapters."""
        return (BASE, *self.keys)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The base's tokenizer."""
        return self.base.tokenizer

    @property
    def vocab_size(self) -> int:
        """The base's vocabulary."""
        return self.base.vocab_size

    @property
    def context_tokens(self) -> int | None:
        """The longest text that the base reads."""
        return self.base.context_tokens

    def score(
        self, tokens: Int[Tensor, "batch seq"], choice: Choice, *, lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch seq row"]:
        """Return each chosen voice's log-probability of each token."""
        return self.base.score_rows(tokens, lengths=lengths, plan=row_plan(choice, self.keys)).permute(1, 2, 0)

    def logprobs(
        self, tokens: Int[Tensor, "batch seq"], choice: Choice, *, lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "row batch seq vocab"]:
        """Return each chosen voice's whole distribution at every position."""
        return self.base.logprobs_rows(tokens, plan=row_plan(choice, self.keys))

    def open(self, prompts: Sequence[Sequence[int]], choice: Choice) -> VoicesDecoding:
        """Return a decoding of the prompts by the chosen voices."""
        return _SlotDecoding(self.base.open_rows(prompts, row_plan(choice, self.keys)), choice, self.keys)


class _SlotDecoding:
    def __init__(self, rows: RowDecoding, choice: Choice, keys: Mapping[str, str]) -> None:
        self.rows, self.choice, self.keys = rows, choice, keys

    def prompt_scores(self) -> Float[Tensor, "batch seq row"]:
        return self.rows.prompt_scores.permute(1, 2, 0)

    def logprobs(self) -> Float[Tensor, "batch row vocab"]:
        return self.rows.logprobs.transpose(0, 1)

    def step(self, tokens: Int[Tensor, " batch"]) -> None:
        self.rows.step(tokens)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        self.rows.keep(rows)
        self.choice = self.choice.keep(rows)


class SeparateVoices:
    """Language models with weights of their own (whole small LMs, toys), asked one after another."""

    def __init__(self, models: Mapping[str, LanguageModel]) -> None:
        """Keep the models; raises RoutingError when their vocabularies differ."""
        if len({model.vocab_size for model in models.values()}) != 1:
            sizes = {name: model.vocab_size for name, model in models.items()}
            raise RoutingError(f"voices of one ensemble share a vocabulary, got sizes {sizes}.")
        self.models = dict(models)

    @property
    def names(self) -> tuple[str, ...]:
        """The models' names."""
        return tuple(self.models)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The first model's tokenizer."""
        return next(iter(self.models.values())).tokenizer

    @property
    def vocab_size(self) -> int:
        """The vocabulary they share."""
        return next(iter(self.models.values())).vocab_size

    @property
    def context_tokens(self) -> int | None:
        """The longest text that all of them read."""
        return context_limit(*self.models.values())

    def score(
        self, tokens: Int[Tensor, "batch seq"], choice: Choice, *, lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch seq row"]:
        """Return each chosen voice's log-probability of each token."""
        every = [self.models[name].score(tokens, lengths=lengths) for name in choice.names]
        return _pick(torch.stack(every, dim=-1), choice)

    def logprobs(
        self, tokens: Int[Tensor, "batch seq"], choice: Choice, *, lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "row batch seq vocab"]:
        """Return each chosen voice's whole distribution at every position."""
        every = torch.stack([self.models[name].logprobs(tokens, lengths=lengths) for name in choice.names], dim=-1)
        return _pick(every, choice).movedim(-1, 0)

    def open(self, prompts: Sequence[Sequence[int]], choice: Choice) -> VoicesDecoding:
        """Return a decoding of the prompts by the chosen voices."""
        return _SeparateDecoding(self, prompts, choice)


def _pick(values: Float[Tensor, "batch *rest expert"], choice: Choice) -> Float[Tensor, "batch *rest row"]:
    if choice.index is None:
        return values
    index = choice.index.to(values.device)
    shape = (index.shape[0], *([1] * (values.dim() - 2)), index.shape[1])
    return values.gather(-1, index.view(shape).expand(*values.shape[:-1], -1))


class _SeparateDecoding:
    def __init__(self, voices: SeparateVoices, prompts: Sequence[Sequence[int]], choice: Choice) -> None:
        self.choice = choice
        self.models = [voices.models[name] for name in choice.names]
        self.decodings: list[Decoding] = [model.open(prompts) for model in self.models]
        self.prompts, self.lengths = right_padded(prompts)

    def prompt_scores(self) -> Float[Tensor, "batch seq row"]:
        every = [
            decoding.prompt_scores  # of what was read when the prompts were opened
            if isinstance(decoding, BaseDecoding)
            else model.score(self.prompts, lengths=self.lengths)
            for model, decoding in zip(self.models, self.decodings, strict=True)
        ]
        return _pick(torch.stack(every, dim=-1), self.choice)

    def logprobs(self) -> Float[Tensor, "batch row vocab"]:
        every = torch.stack([decoding.next_logprobs() for decoding in self.decodings], dim=-1)
        return _pick(every, self.choice).transpose(1, 2)

    def step(self, tokens: Int[Tensor, " batch"]) -> None:
        for decoding in self.decodings:
            decoding.step(tokens)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        for decoding in self.decodings:
            decoding.keep(rows)
        self.prompts, self.lengths = self.prompts[rows], self.lengths[rows]
        self.choice = self.choice.keep(rows)


class JoinedVoices:
    """Voices of several kinds in one ensemble: rows on the base beside whole models."""

    def __init__(self, parts: Sequence[Voices]) -> None:
        """Keep the parts; raises RoutingError on a name in two of them or on different vocabularies."""
        names = [name for part in parts for name in part.names]
        if len(set(names)) != len(names) or len({part.vocab_size for part in parts}) != 1:
            raise RoutingError(f"joined voices need distinct names and one vocabulary, got {names}.")
        self.parts = tuple(parts)

    @property
    def names(self) -> tuple[str, ...]:
        """All parts' names, in order."""
        return tuple(name for part in self.parts for name in part.names)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The first part's tokenizer."""
        return self.parts[0].tokenizer

    @property
    def vocab_size(self) -> int:
        """The vocabulary they share."""
        return self.parts[0].vocab_size

    @property
    def context_tokens(self) -> int | None:
        """The longest text that all parts read."""
        return context_limit(*self.parts)

    def _split(self, choice: Choice) -> list[tuple[Voices, Choice]]:
        owned = [(part, tuple(name for name in choice.names if name in part.names)) for part in self.parts]
        return [(part, Choice(names)) for part, names in owned if names]

    def _order(self, choice: Choice) -> Int[Tensor, " row"]:
        found = [name for _, part in self._split(choice) for name in part.names]
        return torch.tensor([found.index(name) for name in choice.names])

    def score(
        self, tokens: Int[Tensor, "batch seq"], choice: Choice, *, lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch seq row"]:
        """Return each chosen voice's log-probability of each token."""
        every = [part.score(tokens, chosen, lengths=lengths) for part, chosen in self._split(choice)]
        return _pick(torch.cat(every, dim=-1)[..., self._order(choice)], choice)

    def logprobs(
        self, tokens: Int[Tensor, "batch seq"], choice: Choice, *, lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "row batch seq vocab"]:
        """Return each chosen voice's whole distribution at every position."""
        every = [part.logprobs(tokens, chosen, lengths=lengths) for part, chosen in self._split(choice)]
        return _pick(torch.cat(every)[self._order(choice)].movedim(0, -1), choice).movedim(-1, 0)

    def open(self, prompts: Sequence[Sequence[int]], choice: Choice) -> VoicesDecoding:
        """Return a decoding of the prompts by the chosen voices."""
        parts = [part.open(prompts, chosen) for part, chosen in self._split(choice)]
        return _JoinedDecoding(parts, self._order(choice), choice)


class _JoinedDecoding:
    def __init__(self, parts: list[VoicesDecoding], order: Int[Tensor, " row"], choice: Choice) -> None:
        self.parts, self.order, self.choice = parts, order, choice

    def prompt_scores(self) -> Float[Tensor, "batch seq row"]:
        every = torch.cat([part.prompt_scores() for part in self.parts], dim=-1)[..., self.order]
        return _pick(every, self.choice)

    def logprobs(self) -> Float[Tensor, "batch row vocab"]:
        every = torch.cat([part.logprobs() for part in self.parts], dim=1)[:, self.order]
        return _pick(every.movedim(1, -1), self.choice).movedim(-1, 1)

    def step(self, tokens: Int[Tensor, " batch"]) -> None:
        for part in self.parts:
            part.step(tokens)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        for part in self.parts:
            part.keep(rows)
        self.choice = self.choice.keep(rows)
