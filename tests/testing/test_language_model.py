"""The suite accepts what keeps the contract and refuses each way of breaking it, by name."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.protocols import Context, Decoding
from collegium.core.routing import Routing
from collegium.core.state import select_rows
from collegium.ops.posterior import mix_log_probs
from collegium.routers import posterior
from collegium.testing.language_model import check_language_model
from collegium.testing.tiny import TinyLM, gathered_scores, tiny_lm

Rule = Callable[..., Tensor]
SYMBOLS = 5


def tiny(seed: int = 0) -> TinyLM:
    return tiny_lm(seed, symbols=SYMBOLS, order=2)


@dataclass(frozen=True)
class Bent:
    """A TinyLM with one of its answers replaced."""

    inner: TinyLM
    bent_logprobs: Rule | None = None
    bent_score: Rule | None = None
    bent_open: Callable[[TinyLM, Sequence[Sequence[int]]], Decoding] | None = None
    tokenizer: None = None
    vocab_size: int = SYMBOLS

    def logprobs(self, tokens, *, lengths=None, context=1):
        if self.bent_logprobs is None:
            return self.inner.logprobs(tokens)
        return self.bent_logprobs(self.inner, tokens, lengths=lengths, context=context)

    def score(self, tokens, *, lengths=None, context=1):
        if self.bent_score is not None:
            return self.bent_score(self.inner, tokens, lengths=lengths, context=context)
        logprobs = self.logprobs(tokens, lengths=lengths, context=context)
        return gathered_scores(logprobs, tokens, lengths=lengths, context=context)

    def open(self, prompts):
        return self.inner.open(prompts) if self.bent_open is None else self.bent_open(self.inner, prompts)


@dataclass(frozen=True)
class Ensemble:
    """Two tiny experts mixed by their posterior: the smallest composed model there is."""

    experts: tuple[TinyLM, TinyLM]
    ahead: bool = False
    tokenizer: None = None
    vocab_size: int = SYMBOLS

    def _weights(self, tokens: Int[Tensor, "batch seq"]) -> tuple[Routing, object]:
        router = posterior().bind(("law", "code"))
        scores = torch.stack([expert.score(tokens) for expert in self.experts], dim=-1)
        empty = Context(tokens[:, :0], torch.zeros(len(tokens), dtype=torch.long))
        return router.step(router.start(empty), tokens, scores)

    def logprobs(self, tokens, *, lengths=None, context=1) -> Float[Tensor, "batch seq vocab"]:
        log_weights = self._weights(tokens)[0].log_weights()
        if self.ahead:  # the weights of the next token's posterior: the mistake nobody sees in a perplexity
            log_weights = torch.cat([log_weights[:, 1:], log_weights[:, -1:]], dim=1)
        each = torch.stack([expert.logprobs(tokens) for expert in self.experts], dim=-1)
        return mix_log_probs(log_weights[:, :, None], each)

    def score(self, tokens, *, lengths=None, context=1):
        return gathered_scores(self.logprobs(tokens), tokens, lengths=lengths, context=context)

    def open(self, prompts):
        return Rereading(self, prompts)


class Rereading:
    """A decoding that reads everything again at each step: slow and right. `state` gives shares."""

    def __init__(self, model: Ensemble, prompts: Sequence[Sequence[int]]) -> None:
        self.routing = None
        self.model = model
        self.texts = [list(prompt) for prompt in prompts]

    def next_logprobs(self):
        return torch.stack([self.model.logprobs(torch.tensor([text]))[0, -1] for text in self.texts])

    def shares(self, tokens):
        weights = torch.stack([self.model._weights(torch.tensor([text]))[0].weights[0, -1] for text in self.texts])
        return weights

    def step(self, tokens):
        self.texts = [[*text, token] for text, token in zip(self.texts, tokens.tolist(), strict=True)]

    def keep(self, rows):
        self.texts = select_rows(self.texts, rows)


@dataclass
class BentDecoding:
    """A tiny decoding that forgets to step, to drop texts, or that shares wrongly."""

    inner: Decoding
    deaf: bool = False
    clings: bool = False
    greedy: bool = False
    routing: None = None

    def next_logprobs(self):
        return self.inner.next_logprobs()

    def shares(self, tokens):
        return torch.ones(len(tokens), 2) if self.greedy else None

    def step(self, tokens):
        if not self.deaf:
            self.inner.step(tokens)

    def keep(self, rows):
        self.inner.keep(rows.sort().values if self.clings else rows)


def looks_ahead(model: TinyLM, tokens, **_):
    logprobs = model.logprobs(tokens)
    return torch.cat([logprobs[:, 1:], logprobs[:, -1:]], dim=1)


def unnormalised(model: TinyLM, tokens, **_):
    return model.logprobs(tokens) + 0.1


def forgets_eos(model: TinyLM, tokens, **_):
    """What is left when the end of a text is never counted: its log-probability is 0."""
    return model.logprobs(tokens).index_fill(-1, torch.tensor([0]), 0.0)


def forgets_eos_score(model: TinyLM, tokens, *, lengths=None, context=1):
    return model.score(tokens, lengths=lengths, context=context).masked_fill(tokens == 0, 0.0)


def counts_padding(model: TinyLM, tokens, *, lengths=None, context=1):
    return model.score(tokens, context=context)


def counts_context(model: TinyLM, tokens, *, lengths=None, context=1):
    return model.score(tokens, lengths=lengths)


def off_by_one(model: TinyLM, tokens, *, lengths=None, context=1):
    shifted = gathered_scores(looks_ahead(model, tokens), tokens, lengths=lengths, context=context)
    return shifted


def moved_by_padding(model: TinyLM, tokens, *, lengths=None, context=1):
    """Reads what stands in the padding into a temperature."""
    far = tokens.shape[1] if lengths is None else lengths[:, None]
    warmth = 1 + 0.1 * (tokens * (torch.arange(tokens.shape[1]) >= far)).sum(1)[:, None, None]
    return (model.logprobs(tokens) / warmth).log_softmax(-1)


def moved_by_width(model: TinyLM, tokens, **_):
    return (model.logprobs(tokens) / tokens.shape[1]).log_softmax(-1)


def moved_by_batch(model: TinyLM, tokens, **_):
    return (model.logprobs(tokens) / (1 + 0.1 * len(tokens))).log_softmax(-1)


def one_context_for_all(model: TinyLM, tokens, *, lengths=None, context=1):
    """A coarse model that decides from the longest context in the batch."""
    longest = context if isinstance(context, int) else int(context.max())
    warmth = 1 + tokens[:, :longest].double().mean(dim=1)[:, None, None]
    return (model.logprobs(tokens) / warmth).log_softmax(-1)


def left_padded(model: TinyLM, prompts):
    """Forgets that prompts differ in length."""
    longest = max(map(len, prompts))
    return model.open([[*prompt, *([0] * (longest - len(prompt)))] for prompt in prompts])


def test_tiny_models_keep_the_contract():
    check_language_model(tiny())
    end = tiny_lm(1)
    check_language_model(end, texts=end.enumerate_texts(4))


def test_a_posterior_ensemble_of_tiny_models_keeps_the_contract():
    ensemble = Ensemble((tiny(0), tiny(1)))
    check_language_model(ensemble)
    check_language_model(ensemble, texts=tiny().enumerate_texts(3))


def test_weights_one_token_ahead_are_refused():
    with pytest.raises(AssertionError, match=r"looks ahead|alone"):
        check_language_model(Ensemble((tiny(0), tiny(1)), ahead=True))


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (looks_ahead, "looks ahead"),
        (unnormalised, "normalised"),
        (forgets_eos, "normalised"),
        (moved_by_padding, "padding moves nothing"),
        (moved_by_width, "padding moves nothing"),
        (moved_by_batch, "alone"),
        (one_context_for_all, "context"),
    ],
)
def test_broken_logprobs_are_refused(rule: Rule, says: str):
    with pytest.raises(AssertionError, match=says):
        check_language_model(Bent(tiny(), bent_logprobs=rule))


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (forgets_eos_score, "logprobs says"),
        (counts_padding, "padding"),
        (counts_context, "before the context"),
        (off_by_one, "logprobs says"),
    ],
)
def test_broken_scores_are_refused(rule: Rule, says: str):
    with pytest.raises(AssertionError, match=says):
        check_language_model(Bent(tiny(), bent_score=rule))


@pytest.mark.parametrize("fault", ["deaf", "clings"])
def test_broken_decodings_are_refused(fault: str):
    def bent_open(model: TinyLM, prompts):
        return dataclasses.replace(BentDecoding(model.open(prompts)), **{fault: True})

    with pytest.raises(AssertionError, match="decoding"):
        check_language_model(Bent(tiny(), bent_open=bent_open))


def test_a_decoding_that_pads_prompts_is_refused():
    with pytest.raises(AssertionError, match="decoding"):
        check_language_model(Bent(tiny(), bent_open=left_padded))


def test_shares_that_do_not_sum_to_one_are_refused():
    def bent_open(model: TinyLM, prompts):
        return BentDecoding(model.open(prompts), greedy=True)

    with pytest.raises(AssertionError, match="shares"):
        check_language_model(Bent(tiny(), bent_open=bent_open))


def test_a_model_that_gives_its_texts_too_much_or_too_little_is_refused():
    model = tiny_lm(1)
    texts = model.enumerate_texts(4)
    with pytest.raises(AssertionError, match="sum to 1"):
        check_language_model(model, texts=texts[:-1])
    with pytest.raises(AssertionError, match="sum to 1"):
        check_language_model(model, texts=[text[:-1] if text[-1] == 0 else text for text in texts])
