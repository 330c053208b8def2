"""The three questions of lm-evaluation-harness, asked of any language model: score, score all of it, go on from here.

Nothing here needs lm_eval itself; the class that it talks to is `collegium.recipes.harness_model`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose.routed import right_padded
from collegium.core.errors import ConfigError, DataError
from collegium.core.protocols import Decoding, LanguageModel
from collegium.core.tables import nearest
from collegium.infer.generate import Sampling
from collegium.infer.tables import batches

Count = Callable[[int], None]
"""Told how many more requests are answered."""

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names for the number of new tokens; the first one given counts."""
_DRAWN = ("temperature", "top_k", "top_p", "repetition_penalty")
_NEUTRAL: Mapping[str, Any] = {"num_beams": 1, "num_return_sequences": 1, "use_cache": True, "early_stopping": False}
"""Keywords that tasks write although they change nothing."""


@dataclass(frozen=True)
class Scored:
    """A text of which the tokens behind the first `context` are scored; what precedes them is read."""

    tokens: tuple[int, ...]
    context: int

    @property
    def continuation(self) -> tuple[int, ...]:
        """The tokens that are scored."""
        return self.tokens[self.context :]


def fitted(context: Sequence[int], continuation: Sequence[int], *, most: int) -> Scored:
    """Return a request cut from its left to at most `most` tokens in all; the continuation is never cut.

    Raises DataError when the continuation leaves no room for a token to be predicted from.

    >>> fitted([1, 2, 3], [4, 5], most=4)
    Scored(tokens=(2, 3, 4, 5), context=2)
    """
    if len(continuation) >= most:
        raise DataError(
            f"a continuation is scored whole behind at least one token of context; this one has {len(continuation)} "
            f"tokens and the model reads {most}. Shorten it, or raise max_length."
        )
    kept = tuple(context)[-(most - len(continuation)) :]
    return Scored((*kept, *continuation), len(kept))


def rolling(tokens: Sequence[int], *, prefix: int, most: int) -> list[Scored]:
    """Return windows of at most `most` tokens that together score every token once, each with as much context as fits.

    The first window begins with the prefix token. Each later one ends where new tokens end and is full: those that
    were scored before are its context.

    >>> [(each.tokens, each.context) for each in rolling(range(6), prefix=9, most=4)]
    [((9, 0, 1, 2), 1), ((2, 3, 4, 5), 1)]
    >>> [(each.tokens, each.context) for each in rolling(range(5), prefix=9, most=4)]
    [((9, 0, 1, 2), 1), ((1, 2, 3, 4), 2)]
    """
    if most < 2:
        raise DataError(f"a window has at least 2 tokens, one to read and one to predict; got max_length={most}.")
    text = (prefix, *tokens)
    windows = []
    for begin in range(1, len(text), most - 1):
        end = min(begin + most - 1, len(text))
        start = max(0, end - most)
        windows.append(Scored(text[start:end], begin - start))
    return windows


def log_likelihoods(
    model: LanguageModel, requests: Sequence[Scored], *, batch: int = 8, read: int = 1, count: Count | None = None
) -> list[float]:
    """Return each request's sum of log p(token | those before it) over its continuation.

    read: how many leading tokens a coarse router may read although they are scored, too. It decides after them; what
          lies between the context and there is scored by a forward of its own, in which the router has read the
          context alone. So nothing looks ahead, and the sum is still one of conditional probabilities.

    >>> from collegium.testing.pico import pico_base
    >>> len(log_likelihoods(pico_base(), [Scored((1, 2, 3), 1), Scored((4, 5), 1)]))
    2
    """
    totals = [0.0] * len(requests)
    for places in _by_length([len(each.tokens) for each in requests], batch):
        chosen = [requests[place] for place in places]
        tokens, lengths = right_padded([each.tokens for each in chosen])
        context = torch.tensor([each.context for each in chosen])
        for place, value in zip(places, _sums(model, tokens, lengths, context, read).tolist(), strict=True):
            totals[place] = value
        if count is not None:
            count(len(places))
    return totals


def _sums(
    model: LanguageModel,
    tokens: Int[Tensor, "batch seq"],
    lengths: Int[Tensor, " batch"],
    context: Int[Tensor, " batch"],
    read: int,
) -> Float[Tensor, " batch"]:
    decided = torch.minimum(context.clamp(min=read), lengths)
    total = model.score(tokens, lengths=lengths, context=decided).double().sum(-1).cpu()
    early = (decided > context).nonzero().flatten()
    if len(early):
        ends = decided[early]
        head = model.score(tokens[early, : int(ends.max())], lengths=ends, context=context[early])
        total[early] += head.double().sum(-1).cpu()
    return total


def greedy(
    model: LanguageModel, requests: Sequence[Scored], *, batch: int = 8, count: Count | None = None
) -> list[bool]:
    """Return whether each continuation is what the model says when it takes the likeliest token every time.

    Each context is read once, whatever follows it, and continued along its likeliest tokens while one of its
    continuations still agrees. That costs one more forward of the contexts and as many single steps as tokens agree,
    but memory for one distribution a text alone; `logprobs` would hold one at every position.
    """
    answers = [True] * len(requests)
    families: dict[tuple[int, ...], list[int]] = {}
    for place, each in enumerate(requests):
        if each.continuation:
            families.setdefault(each.tokens[: each.context], []).append(place)
    contexts = list(families)
    for places in _by_length([len(context) for context in contexts], batch):
        chosen = [contexts[place] for place in places]
        _follow(model.open(chosen), [families[context] for context in chosen], requests, answers)
        if count is not None:
            count(sum(len(families[context]) for context in chosen))
    return answers


def _follow(
    decoding: Decoding, families: Sequence[Sequence[int]], requests: Sequence[Scored], answers: list[bool]
) -> None:
    """Note which requests leave the likeliest path, one row of the decoding for each family of requests."""
    live = [list(family) for family in families]
    position = 0
    while live:
        likeliest = decoding.next_logprobs().argmax(-1).tolist()
        going = []
        for family, token in zip(live, likeliest, strict=True):
            for place in family:
                answers[place] = requests[place].continuation[position] == token
            going.append([p for p in family if answers[p] and len(requests[p].continuation) > position + 1])
        stay = [row for row, family in enumerate(going) if family]
        if stay:
            if len(stay) < len(live):
                decoding.keep(torch.tensor(stay))
            decoding.step(torch.tensor([likeliest[row] for row in stay]))
        live = [going[row] for row in stay]
        position += 1


def _by_length(lengths: Sequence[int], batch: int) -> list[list[int]]:
    """Return places in batches of similar length, longest first."""
    return [part.tolist() for part in batches(torch.tensor(lengths), batch=batch)] if lengths else []


def sampling_of(keywords: Mapping[str, Any], *, tokens: int = 256) -> Sampling:
    """Return the sampling that a task's `generation_kwargs` ask for; `tokens` is the length where they give none.

    Without `do_sample` a temperature above 0 draws and anything else takes the likeliest token; `do_sample: true`
    alone draws at temperature 1. Top-k and top-p are what the task says, never a model's own defaults.

    Raises ConfigError for keywords that would change the text in a way that is not ours.

    >>> sampling_of({"until": ["END", ""], "max_gen_toks": 5})
    Sampling(tokens=5, temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0, stop=('END',))
    """
    known = ("until", "do_sample", *_LENGTHS, *_DRAWN)
    strange = [key for key, value in keywords.items() if key not in known and _NEUTRAL.get(key, ...) != value]
    if strange:
        told = " ".join(f"{key}={keywords[key]!r}: {nearest(key, known)}" for key in strange)
        raise ConfigError(f"generation_kwargs that Collegium does not know: {told}")
    until = keywords.get("until") or ()
    stop = (until,) if isinstance(until, str) else tuple(until)
    given = next((keywords[key] for key in _LENGTHS if keywords.get(key) is not None), tokens)
    return Sampling(
        tokens=int(given),
        temperature=_temperature(keywords.get("do_sample"), keywords.get("temperature")),
        top_k=int(keywords.get("top_k") or 0),
        top_p=float(keywords.get("top_p") or 1.0),
        repetition_penalty=float(keywords.get("repetition_penalty") or 1.0),
        stop=tuple(each for each in stop if each),
    )


def _temperature(draws: bool | None, temperature: float | None) -> float:
    if draws is False:
        return 0.0
    if temperature is None:
        return 1.0 if draws else 0.0
    return float(temperature)
