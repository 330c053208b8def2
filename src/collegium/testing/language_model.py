"""What every language model must satisfy, whatever it is made of."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.protocols import Decoding, LanguageModel
from collegium.core.randomness import generator
from collegium.testing.tiny import gathered_scores


def check_language_model(
    model: LanguageModel,
    *,
    seed: int = 0,
    batch: int = 3,
    seq: int = 10,
    contexts: Sequence[int] = (1, 4),
    tolerance: float = 1e-4,
    texts: Sequence[Sequence[int]] | None = None,
) -> None:
    """Return nothing when the model keeps the contract of `LanguageModel`; raise AssertionError with what broke.

    The laws: log-probabilities are normalised; score is what logprobs says about the next token, 0 before the context
    and in the padding; padding moves nothing; changing token t >= context leaves `logprobs[:, :t]` unchanged; texts of
    different lengths in one batch are as each alone; decoding step by step says what reading at once says, also after
    some texts were dropped.

    contexts: how many leading tokens a coarse router may read; every law is tried with each, all below `seq`.
    texts:    every text there is (a `TinyLM` enumerates them); then their probabilities must sum to 1.
    """
    model = _OnHost(model)
    tokens = torch.randint(0, model.vocab_size, (batch, seq), generator=generator(seed, "language model"))
    for context in contexts:
        assert 1 <= context < seq - 2, f"contexts lie between 1 and {seq - 3}, got {context}"
        lengths = torch.tensor([max(context + 1, seq - 2 * row) for row in range(batch)])
        _check_scores(model, tokens, lengths, context=context, tolerance=tolerance)
        _check_looks_back(model, tokens, context=context, tolerance=tolerance)
        _check_padding(model, tokens, lengths, context=context, tolerance=tolerance)
        _check_rows_alone(model, tokens, lengths, context=context, tolerance=tolerance)
        _check_decoding(model, tokens, context=context, tolerance=tolerance)
    _check_context_per_row(model, tokens, contexts, tolerance=tolerance)
    if texts is not None:
        _check_texts_sum_to_one(model, texts, tolerance=tolerance)


class _OnHost:
    """A language model whose answers are brought to where the tokens of this suite lie."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.tokenizer, self.vocab_size = model.tokenizer, model.vocab_size

    def logprobs(self, tokens: Tensor, **rest: Any) -> Tensor:  # noqa: ANN401 - as the model takes them
        return self._model.logprobs(tokens, **rest).cpu()

    def score(self, tokens: Tensor, **rest: Any) -> Tensor:  # noqa: ANN401 - as the model takes them
        return self._model.score(tokens, **rest).cpu()

    def open(self, prompts: Sequence[Sequence[int]]) -> Decoding:
        return self._model.open(prompts)


def _close(actual: Tensor, expected: Tensor, *, tolerance: float, law: str) -> None:
    assert actual.shape == expected.shape, f"{law}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    gap = (actual.double() - expected.double()).abs()
    gap = torch.where(actual == expected, 0.0, gap)  # minus infinity equals minus infinity
    assert not gap.isnan().any(), f"{law}: not a number"
    worst = float(gap.max()) if gap.numel() else 0.0
    assert worst <= tolerance, f"{law}: off by {worst:.3g}, allowed {tolerance:.3g}"


def _check_scores(
    model: LanguageModel,
    tokens: Int[Tensor, "batch seq"],
    lengths: Int[Tensor, " batch"],
    *,
    context: int,
    tolerance: float,
) -> None:
    logprobs = model.logprobs(tokens, lengths=lengths, context=context)
    expected = (*tokens.shape, model.vocab_size)
    assert logprobs.shape == expected, f"logprobs has the shape {tuple(logprobs.shape)}, expected {expected}"
    valid = torch.arange(tokens.shape[1]) < lengths[:, None]
    totals = logprobs.double().logsumexp(dim=-1)[valid]
    _close(totals, torch.zeros_like(totals), tolerance=tolerance, law="log-probabilities are normalised")
    score = model.score(tokens, lengths=lengths, context=context)
    silent = ~valid | (torch.arange(tokens.shape[1]) < context)
    assert (score[silent] == 0).all(), f"score is 0 before the context ({context}) and in the padding"
    gathered = gathered_scores(logprobs, tokens, lengths=lengths, context=context)
    _close(score, gathered, tolerance=tolerance, law="score is what logprobs says about the next token")


def _check_padding(
    model: LanguageModel,
    tokens: Int[Tensor, "batch seq"],
    lengths: Int[Tensor, " batch"],
    *,
    context: int,
    tolerance: float,
) -> None:
    place = torch.arange(tokens.shape[1])
    valid = place < lengths[:, None]
    other = torch.where(valid, tokens, (tokens + 1) % model.vocab_size)
    wider = torch.cat([other, other[:, :2]], dim=1)
    for law, padded in (("what stands in the padding moves nothing", other), ("more padding moves nothing", wider)):
        seq = tokens.shape[1]
        before = model.logprobs(tokens, lengths=lengths, context=context)[valid]
        after = model.logprobs(padded, lengths=lengths, context=context)[:, :seq][valid]
        _close(after, before, tolerance=tolerance, law=law)
        scored = model.score(padded, lengths=lengths, context=context)[:, :seq]
        _close(scored, model.score(tokens, lengths=lengths, context=context), tolerance=tolerance, law=f"score: {law}")


def _check_looks_back(
    model: LanguageModel, tokens: Int[Tensor, "batch seq"], *, context: int, tolerance: float
) -> None:
    before = model.logprobs(tokens, context=context)
    scored = model.score(tokens, context=context)
    for place in range(context, tokens.shape[1]):
        changed = tokens.clone()
        changed[:, place:] = (changed[:, place:] + 1) % model.vocab_size
        law = f"nothing looks ahead: changing tokens from {place} on leaves logprobs[:, :{place}] (context {context})"
        after = model.logprobs(changed, context=context)
        _close(after[:, :place], before[:, :place], tolerance=tolerance, law=law)
        score = model.score(changed, context=context)
        _close(score[:, :place], scored[:, :place], tolerance=tolerance, law=f"score: {law}")


def _check_rows_alone(
    model: LanguageModel,
    tokens: Int[Tensor, "batch seq"],
    lengths: Int[Tensor, " batch"],
    *,
    context: int,
    tolerance: float,
) -> None:
    together = model.logprobs(tokens, lengths=lengths, context=context)
    for row, length in enumerate(lengths.tolist()):
        alone = model.logprobs(tokens[row : row + 1, :length], context=context)
        _close(together[row : row + 1, :length], alone, tolerance=tolerance, law="a text in a batch is as it is alone")


def _check_context_per_row(
    model: LanguageModel, tokens: Int[Tensor, "batch seq"], contexts: Sequence[int], *, tolerance: float
) -> None:
    each = torch.tensor([contexts[row % len(contexts)] for row in range(tokens.shape[0])])
    together = model.logprobs(tokens, context=each)
    scored = model.score(tokens, context=each)
    for row, context in enumerate(each.tolist()):
        here = slice(row, row + 1)
        law = "a context per text is as that context alone"
        _close(together[here], model.logprobs(tokens[here], context=context), tolerance=tolerance, law=law)
        _close(scored[here], model.score(tokens[here], context=context), tolerance=tolerance, law=f"score: {law}")


def _check_decoding(model: LanguageModel, tokens: Int[Tensor, "batch seq"], *, context: int, tolerance: float) -> None:
    """Prompts of different lengths; the second half of the steps without the texts that were dropped."""
    batch, seq = tokens.shape
    prompts = [tokens[row, : context + row % 2].tolist() for row in range(batch)]
    rows, decoding = list(range(batch)), model.open(prompts)
    full = [model.logprobs(tokens[row : row + 1], context=len(prompt))[0] for row, prompt in enumerate(prompts)]
    steps = seq - context - 1
    for step in range(steps):
        expected = torch.stack([full[row][len(prompts[row]) - 1 + step] for row in rows])
        law = f"decoding says what reading at once says (context {context}, step {step}, texts {rows})"
        _close(decoding.next_logprobs().cpu(), expected, tolerance=tolerance, law=law)
        following = torch.stack([tokens[row, len(prompts[row]) + step] for row in rows])
        _check_shares(decoding, following)
        decoding.step(following)
        if step == steps // 2 and batch > 1:
            rows = rows[:0:-1]  # the first text leaves, the others turn round
            decoding.keep(torch.tensor(rows))


def _check_shares(decoding: Decoding, following: Int[Tensor, " batch"]) -> None:
    shares: Float[Tensor, "batch expert"] | None = decoding.shares(following)
    if shares is None:
        return
    assert shares.shape[0] == len(following), f"shares has {shares.shape[0]} rows for {len(following)} texts"
    assert (shares >= 0).all(), "shares are non-negative"
    total = shares.double().sum(dim=-1).cpu()
    _close(total, torch.ones_like(total), tolerance=1e-4, law="shares sum to 1")


def _check_texts_sum_to_one(model: LanguageModel, texts: Sequence[Sequence[int]], *, tolerance: float) -> None:
    lengths = torch.tensor([len(text) for text in texts])
    tokens = torch.zeros(len(texts), int(lengths.max()), dtype=torch.long)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor(list(text))
    total = model.score(tokens, lengths=lengths).double().sum(dim=1).exp().sum()
    _close(total, torch.ones_like(total), tolerance=tolerance, law="the probabilities of all texts sum to 1")
