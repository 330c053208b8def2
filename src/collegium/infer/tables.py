"""One table of every voice's log-probability of every held-out token; most of an evaluation is arithmetic on it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collegium.compose import Choice, PrunedTable, Voices, combine, prune_table, route
from collegium.core.errors import DataError
from collegium.core.protocols import LanguageModel, PrefixRouter, Tokenizer
from collegium.core.routing import Routing
from collegium.data import Windows, join_windows

Progress = Callable[[int, int], None]
"""Told (tokens done, tokens in all)."""


@dataclass(frozen=True)
class HeldOut:
    """Windows of held-out text and which of their tokens count.

    counted: tokens that are scored: not context, not padding, not prompts.
    domains: each window's domain. bytes: utf-8 bytes of each token.
    context: each window's number of context tokens.
    """

    tokens: Int[Tensor, "window seq"]
    lengths: Int[Tensor, " window"]
    counted: Bool[Tensor, "window seq"]
    bytes: Int[Tensor, "window seq"]
    context: Int[Tensor, " window"]
    domains: tuple[str, ...]

    def of(self, domain: str) -> Bool[Tensor, " window"]:
        """Return which windows belong to a domain."""
        return torch.tensor([each == domain for each in self.domains])

    @property
    def domain_names(self) -> tuple[str, ...]:
        """The domains, in order of appearance."""
        return tuple(dict.fromkeys(self.domains))


def held_out(windows: Mapping[str, Windows], *, context: int = 32) -> HeldOut:
    """Return the domains' windows as one set; the first `context` tokens of each are read and not scored.

    Prompt/completion windows keep their own context, the prompt. A window of at most `context` tokens scores none.
    Raises DataError when a domain has no scored token at all.
    """
    text = join_windows(list(windows.values()))
    read = torch.where(text.context > 0, text.context, max(context, 1))
    place = torch.arange(text.tokens.shape[1])
    counted = text.scored & (place >= read[:, None]) & (place < text.lengths[:, None])
    names = tuple(name for name, each in windows.items() for _ in range(len(each)))
    result = HeldOut(text.tokens, text.lengths, counted, text.token_bytes, read, names)
    for name in windows:
        if not bool(counted[result.of(name)].any()):
            raise DataError(
                f"domain {name!r} has no held-out token after a context of {context}: "
                "give it longer documents, or lower --context."
            )
    return result


@dataclass(frozen=True)
class TokenTable:
    """What each voice made of each held-out token: `log_probs[w, i, v]`, 0 at position 0 and for padding."""

    text: HeldOut
    voices: tuple[str, ...]
    log_probs: Float[Tensor, "window seq voice"]
    seconds: float = 0.0

    def column(self, voice: str) -> Float[Tensor, "window seq"]:
        """Return one voice's log-probabilities."""
        return self.log_probs[..., self.voices.index(voice)]

    def columns(self, voices: Sequence[str]) -> Float[Tensor, "window seq voice"]:
        """Return some voices' log-probabilities, in this order."""
        return self.log_probs[..., [self.voices.index(voice) for voice in voices]]


def batches(lengths: Int[Tensor, " window"], *, batch: int) -> list[Int[Tensor, " some"]]:
    """Return window indices in batches of similar length, longest first, so that little padding is computed."""
    order = lengths.argsort(descending=True, stable=True)
    return list(order.split(batch))


def fill_table(
    voices: Voices,
    text: HeldOut,
    names: Sequence[str],
    *,
    batch: int = 8,
    progress: Progress | None = None,
) -> TokenTable:
    """Return the table of the named voices over held-out text: one pass, all voices as rows of each forward."""
    table = torch.zeros(*text.tokens.shape, len(names))
    choice = Choice(tuple(names))
    for rows, longest in _walk(text, batch, progress):
        scores = voices.score(text.tokens[rows, :longest], choice, lengths=text.lengths[rows])
        table[rows, :longest] = scores.float().cpu()
    return TokenTable(text, tuple(names), table)


def _walk(text: HeldOut, batch: int, progress: Progress | None):  # noqa: ANN202 - generator of (rows, longest)
    done, total = 0, int(text.lengths.sum())
    for rows in batches(text.lengths, batch=batch):
        yield rows, int(text.lengths[rows].max())
        done += int(text.lengths[rows].sum())
        if progress is not None:
            progress(done, total)


def score_text(
    model: LanguageModel, text: HeldOut, *, batch: int = 8, progress: Progress | None = None
) -> Float[Tensor, "window seq"]:
    """Return a language model's log-probability of each held-out token, context included in what it reads."""
    scores = torch.zeros(text.tokens.shape)
    for rows, longest in _walk(text, batch, progress):
        found = model.score(text.tokens[rows, :longest], lengths=text.lengths[rows], context=text.context[rows])
        scores[rows, :longest] = found.float().cpu()
    return scores


def pruned_scores(
    table: TokenTable, router: PrefixRouter, *, tokenizer: Tokenizer | None, top_k: int | None = None, prune: float
) -> PrunedTable:
    """Return a pruned ensemble's log-probabilities from the table, its routing, and how many experts read each window.

    prune: the posterior under which experts leave.
    """
    text = table.text
    return prune_table(
        router,
        text.tokens,
        table.columns(router.experts),
        lengths=text.lengths,
        context=text.context,
        epsilon=prune,
        top_k=top_k,
        tokenizer=tokenizer,
    )


def ensemble_scores(
    table: TokenTable, router: PrefixRouter, *, tokenizer: Tokenizer | None, top_k: int | None = None
) -> tuple[Float[Tensor, "window seq"], Routing]:
    """Return an ensemble's log-probabilities from the table, and the routing along each window."""
    columns = table.columns(router.experts)
    routing = route(
        router,
        table.text.tokens,
        lengths=table.text.lengths,
        context=table.text.context,
        tokenizer=tokenizer,
        log_likelihoods=columns if router.needs_likelihoods else None,
        domains=table.text.domains,
    )
    routing = routing.top_k(top_k)
    return combine(routing, columns), routing


def nats_per_token(scores: Float[Tensor, "window seq"], text: HeldOut, domain: str) -> float:
    """Return the mean negative log-probability of a domain's counted tokens, in nats."""
    rows = text.of(domain)
    return float(-scores[rows][text.counted[rows]].double().mean())


def perplexities(scores: Float[Tensor, "window seq"], text: HeldOut) -> dict[str, float]:
    """Return exp(nats / counted tokens) for each domain."""
    return {domain: math.exp(nats_per_token(scores, text, domain)) for domain in text.domain_names}


def bits_per_byte(scores: Float[Tensor, "window seq"], text: HeldOut) -> dict[str, float]:
    """Return nats / ln 2 / bytes of the counted tokens, for each domain."""
    result = {}
    for domain in text.domain_names:
        mask = text.counted & text.of(domain)[:, None]
        result[domain] = float(-scores[mask].double().sum()) / math.log(2) / max(int(text.bytes[mask].sum()), 1)
    return result


def window_nats(scores: Float[Tensor, "window seq"], text: HeldOut) -> Float[Tensor, "window two"]:
    """Return each window's nats and counted tokens: the units an interval is drawn over."""
    kept = scores.masked_fill(~text.counted, 0.0).double()
    return torch.stack([-kept.sum(-1), text.counted.sum(-1).double()], dim=-1)
