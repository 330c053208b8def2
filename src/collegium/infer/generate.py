"""Generation: a loop over a decoding, with transformers' own logits processors, saying who spoke."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.errors import ConfigError, DataError
from collegium.core.protocols import Decoding, LanguageModel, Tokenizer, context_limit
from collegium.core.randomness import generator

if TYPE_CHECKING:
    from transformers import LogitsProcessorList


_COLDEST = 1e-4
"""Below this temperature, scores divided by it are no longer finite."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn."""

    tokens: int = 100
    """At most this many new tokens."""
    temperature: float = 0.8
    """Above 1 is bolder, below 1 safer; 0 takes the likeliest token."""
    top_k: int = 0
    """Draw among this many likeliest tokens; 0 = all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this probability."""
    repetition_penalty: float = 1.0
    """Above 1 makes what was said less likely."""
    stop: tuple[str, ...] = ()
    """Strings that end a text; cut off with all that follows."""

    def __post_init__(self) -> None:
        """Report every impossible value at once."""
        wrong = [
            message
            for bad, message in (
                (self.tokens < 1, f"--tokens must be at least 1, got {self.tokens}."),
                (
                    self.temperature != 0 and not _COLDEST <= self.temperature < math.inf,
                    f"--temperature must be 0 (greedy), or {_COLDEST:g} or more, got {self.temperature}.",
                ),
                (self.top_k < 0, f"--top-k must be 0 (all) or more, got {self.top_k}."),
                (not 0 < self.top_p <= 1, f"--top-p lies in (0, 1], got {self.top_p}."),
                (
                    not 0 < self.repetition_penalty < math.inf,
                    f"--repetition-penalty is a number above 0, got {self.repetition_penalty}.",
                ),
                (
                    isinstance(self.stop, str) or not all(self.stop),
                    f"--stop takes strings of at least one character, each by itself, got {self.stop!r}.",
                ),
            )
            if bad
        ]
        if wrong:
            raise ConfigError(" ".join(wrong))


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
class _Row:
    """A text under way."""

    prompt: list[int]
    random: torch.Generator
    most: int
    tokens: list[int] = field(default_factory=list)
    shares: list[tuple[float, ...]] = field(default_factory=list)
    log_prob: float = 0.0
    text: str = ""
    shown: int = 0
    ended: str = ""


Stream = Callable[[int, str, Mapping[str, float]], None]
"""Told (prompt number, new text, each expert's share in it) as texts grow."""


def processors(sampling: Sampling) -> "LogitsProcessorList":
    """Return the chain of transformers' logits processors that a sampling stands for."""
    from transformers import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    chain = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(penalty=float(sampling.repetition_penalty)))
    if sampling.temperature not in {0, 1}:
        chain.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        chain.append(TopKLogitsWarper(top_k=sampling.top_k))
    if sampling.top_p < 1:
        chain.append(TopPLogitsWarper(top_p=float(sampling.top_p)))
    return chain


def draw(log_probs: Float[Tensor, " vocab"], row: _Row, sampling: Sampling, chain: "LogitsProcessorList") -> int:
    """Return the next token of one text."""
    seen = torch.tensor([row.prompt + row.tokens])
    scores = chain(seen, log_probs[None].float().cpu())[0]  # pyright: ignore[reportArgumentType]
    if sampling.temperature == 0:
        return int(scores.argmax())
    return int(torch.multinomial(scores.softmax(-1), 1, generator=row.random))


def generate(
    model: LanguageModel,
    prompts: str | Sequence[str] | Sequence[Sequence[int]],
    *,
    sampling: Sampling | None = None,
    seed: int | Sequence[int] = 0,
    stream: Stream | None = None,
) -> list[Generation]:
    """Return the prompts' continuations, in order.

    prompts: one text, several, or token ids. All are continued together; a finished one leaves the batch, as does
             one that is as long as the model reads.
    seed:    each prompt draws from a stream of its own; with a seed for each prompt, as it would alone with that seed.
    Raises DataError for an empty prompt, for token ids that the model does not have, or for text given to a base
    without tokenizer.

    >>> from collegium.testing.pico import pico_base
    >>> len(generate(pico_base(), "To be", sampling=Sampling(tokens=4, temperature=0.0))[0].tokens)
    4
    """
    sampling = sampling or Sampling()
    given: Sequence[str] | Sequence[Sequence[int]] = [prompts] if isinstance(prompts, str) else prompts
    ids = [encode_prompt(prompt, model.tokenizer) for prompt in given]
    _check_ids(ids, model.vocab_size)
    limit = context_limit(model)
    rows = [
        _Row(prompt, random, most=room(prompt, sampling.tokens, limit))
        for prompt, random in zip(ids, _streams(seed, len(ids)), strict=True)
    ]
    decoding = model.open(ids)
    chain = processors(sampling)
    live = list(range(len(rows)))
    ends = end_tokens(model.tokenizer)
    while live:
        log_probs = decoding.next_logprobs()
        chosen = [draw(log_probs[place], rows[number], sampling, chain) for place, number in enumerate(live)]
        _note(decoding, rows, live, chosen, log_probs)
        for number in live:
            _grow(rows[number], model.tokenizer, sampling, ends, stream, number, _names(decoding))
        stay = [place for place, number in enumerate(live) if not rows[number].ended]
        live, tokens = [live[place] for place in stay], [chosen[place] for place in stay]
        if live:
            if len(stay) < len(chosen):
                decoding.keep(torch.tensor(stay))
            decoding.step(torch.tensor(tokens))
    return [_finish(row, _names(decoding)) for row in rows]


def _streams(seed: int | Sequence[int], prompts: int) -> list[torch.Generator]:
    """Return what each prompt draws from; raises ConfigError for another number of seeds than of prompts."""
    if isinstance(seed, int):
        return [generator(seed, "generate", str(number)) for number in range(prompts)]
    if len(seed) != prompts:
        raise ConfigError(f"seed is one number, or one for each prompt; got {len(seed)} for {prompts} prompts.")
    return [generator(each, "generate", "0") for each in seed]


def room(prompt: Sequence[int], tokens: int, limit: int | None) -> int:
    """Return how many of `tokens` new tokens a model that reads at most `limit` has room for behind a prompt.

    >>> room([1, 2, 3], 100, 8)
    5
    """
    return tokens if limit is None else min(tokens, limit - len(prompt))


def encode_prompt(prompt: str | Sequence[int], tokenizer: Tokenizer | None) -> list[int]:
    """Return a prompt's token ids; raises DataError when it is empty or there is no tokenizer for its text."""
    if isinstance(prompt, str) and tokenizer is None:
        raise DataError("this base has no tokenizer files: give token ids, or a base folder with a tokenizer.")
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) and tokenizer is not None else [int(i) for i in prompt]
    if not ids:
        raise DataError("the prompt is empty: give at least one word to go on from.")
    return list(ids)


def _check_ids(prompts: Sequence[Sequence[int]], vocab_size: int) -> None:
    for prompt in prompts:
        strange = [token for token in prompt if not 0 <= token < vocab_size]
        if strange:
            raise DataError(
                f"token ids of this model lie between 0 and {vocab_size - 1}, got {strange[0]}; encode the prompt with "
                "the model's own tokenizer."
            )


def chat_prompt(messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer | None) -> list[int]:
    """Return messages as the token ids of an answer's prompt: what the tokenizer's chat template writes, no more.

    Raises DataError when the base has no template.
    """
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise DataError("this base has no chat template: leave --chat away and write the prompt as plain text.")
    text = tokenizer.apply_chat_template(  # pyright: ignore[reportAttributeAccessIssue]
        [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer.encode(text, add_special_tokens=False))


def end_tokens(tokenizer: Tokenizer | None) -> frozenset[int]:
    """Return the token ids that end a text."""
    end = getattr(tokenizer, "eos_token_id", None)
    return frozenset(end if isinstance(end, list) else () if end is None else (end,))


def _names(decoding: Decoding) -> tuple[str, ...]:
    return () if decoding.routing is None else decoding.routing.experts


def _note(
    decoding: Decoding, rows: list[_Row], live: list[int], chosen: list[int], log_probs: Float[Tensor, "batch vocab"]
) -> None:
    shares = decoding.shares(torch.tensor(chosen))
    for place, number in enumerate(live):
        row, token = rows[number], chosen[place]
        row.tokens.append(token)
        row.log_prob += float(log_probs[place, token])
        if shares is not None:
            row.shares.append(tuple(shares[place].tolist()))


def _grow(
    row: _Row,
    tokenizer: Tokenizer | None,
    sampling: Sampling,
    ends: frozenset[int],
    stream: Stream | None,
    number: int,
    experts: tuple[str, ...],
) -> None:
    if row.tokens[-1] in ends:
        row.ended = "end"
    elif tokenizer is not None:
        row.text = tokenizer.decode(row.tokens)
        cut = [place for place in (row.text.find(stop) for stop in sampling.stop) if place >= 0]
        if cut:
            row.text, row.ended = row.text[: min(cut)], "stop"
    if not row.ended and len(row.tokens) >= row.most:
        row.ended = "length"
    settled = row.text if row.ended else settled_text(row.text, sampling.stop)
    if stream is not None and len(settled) > row.shown:
        share = dict(zip(experts, row.shares[-1], strict=True)) if row.shares else {}
        stream(number, settled[row.shown :], share)
        row.shown = len(settled)


def settled_text(text: str, stops: Sequence[str]) -> str:
    """Return the part of a growing text that later tokens cannot take back.

    Held back are the bytes of an unfinished character, and an ending that may become a stop string.

    >>> settled_text("so END", ["END OF"])
    'so '
    """
    text = text.rstrip("\ufffd")
    held = [size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])]
    return text[: len(text) - max(held, default=0)]


def _finish(row: _Row, experts: tuple[str, ...]) -> Generation:
    return Generation(row.text, tuple(row.tokens), row.log_prob, row.ended, experts, tuple(row.shares))
