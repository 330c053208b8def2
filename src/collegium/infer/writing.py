"""A text under way: drawn token by token, shown as far as it is settled, ended."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.protocols import Tokenizer
from collegium.infer.sampling import Sampling

if TYPE_CHECKING:
    from transformers import LogitsProcessorList


@dataclass(frozen=True)
class Generation:
    """One continued text.

    shares: per new token, each expert's share in it; empty for a model with a single voice.
    speakers: each expert's mean share. ended: `stop`, `end` (the model ended its text) or `length` (as many tokens as
    asked for, or as the model reads).
    """

    text: str
    tokens: tuple[int, ...]
    log_prob: float
    ended: str
    experts: tuple[str, ...] = ()
    shares: tuple[tuple[float, ...], ...] = ()

    @property
    def speakers(self) -> dict[str, float]:
        """Each expert's mean share over the new tokens, largest first."""
        if not self.shares:
            return {}
        means = torch.tensor(self.shares).mean(0).tolist()
        pairs = zip(self.experts, means, strict=True)
        return dict(sorted(pairs, key=lambda pair: -pair[1]))


@dataclass
class Writing:
    """A text under way.

    most: how many new tokens it may have. shown: how much of its text was handed out.
    """

    prompt: list[int]
    random: torch.Generator
    most: int
    tokens: list[int] = field(default_factory=list)
    shares: list[tuple[float, ...]] = field(default_factory=list)
    log_prob: float = 0.0
    text: str = ""
    shown: int = 0
    ended: str = ""

    def finished(self, experts: tuple[str, ...]) -> Generation:
        """Return what was written, by these experts."""
        return Generation(self.text, tuple(self.tokens), self.log_prob, self.ended, experts, tuple(self.shares))


def draw(log_probs: Float[Tensor, " vocab"], writing: Writing, sampling: Sampling, chain: "LogitsProcessorList") -> int:
    """Return the next token of one text."""
    seen = torch.tensor([writing.prompt + writing.tokens])
    scores = chain(seen, log_probs[None].float().cpu())[0]  # pyright: ignore[reportArgumentType]
    if sampling.temperature == 0:
        return int(scores.argmax())
    return int(torch.multinomial(scores.softmax(-1), 1, generator=writing.random))


def note(writing: Writing, token: int, log_prob: float, shares: Float[Tensor, " expert"] | None) -> None:
    """Write down a token, its log-probability and who spoke it."""
    writing.tokens.append(token)
    writing.log_prob += log_prob
    if shares is not None:
        writing.shares.append(tuple(shares.tolist()))


def grow(writing: Writing, tokenizer: Tokenizer | None, sampling: Sampling, ends: frozenset[int]) -> str:
    """Return the text that the last token has settled, and note when the whole has ended."""
    if writing.tokens[-1] in ends:
        writing.ended = "end"
    elif tokenizer is not None:
        writing.text = tokenizer.decode(writing.tokens)
        cut = [place for place in (writing.text.find(stop) for stop in sampling.stop) if place >= 0]
        if cut:
            writing.text, writing.ended = writing.text[: min(cut)], "stop"
    if not writing.ended and len(writing.tokens) >= writing.most:
        writing.ended = "length"
    settled = writing.text if writing.ended else settled_text(writing.text, sampling.stop)
    new = settled[writing.shown :]
    writing.shown += len(new)
    return new


def last_shares(writing: Writing, experts: Sequence[str]) -> dict[str, float]:
    """Return each expert's share in the last token; empty for a single voice."""
    return dict(zip(experts, writing.shares[-1], strict=True)) if writing.shares else {}


def end_tokens(tokenizer: Tokenizer | None) -> frozenset[int]:
    """Return the token ids that end a text."""
    end = getattr(tokenizer, "eos_token_id", None)
    return frozenset(end if isinstance(end, list) else () if end is None else (end,))


def settled_text(text: str, stops: Sequence[str]) -> str:
    """Return the part of a growing text that later tokens cannot take back.

    Held back are the bytes of an unfinished character, and an ending that may become a stop string.

    >>> settled_text("so END", ["END OF"])
    'so '
    """
    text = text.rstrip("\ufffd")
    held = [size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])]
    return text[: len(text) - max(held, default=0)]
