import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.core.protocols import LanguageModel
from collegium.testing.tiny import LetterTokenizer, TinyLM, bigram_lm, gathered_scores, tiny_lm


@given(seed=st.integers(0, 2**31), symbols=st.integers(2, 4), order=st.integers(1, 3), length=st.integers(1, 4))
def test_probabilities_of_all_texts_sum_to_one(seed: int, symbols: int, order: int, length: int):
    model = tiny_lm(seed, symbols=symbols, order=order)
    total = math.fsum(math.exp(model.log_prob(text)) for text in model.enumerate_texts(length))
    assert total == pytest.approx(1.0, abs=1e-12)


def test_a_text_whose_end_is_forgotten_counts_too_much():
    model = tiny_lm(0)
    texts = model.enumerate_texts(3)
    without_end = [text[:-1] if text[-1] == model.eos else text for text in texts]
    assert math.fsum(math.exp(model.log_prob(text)) for text in without_end) > 1.01


def test_three_symbols_and_three_tokens_are_27_texts_and_all_differ():
    texts = tiny_lm(0, eos=None).enumerate_texts(3)
    assert len(set(texts)) == len(texts) == 27


def test_texts_end_with_their_first_eos_or_are_cut():
    for _, *body in tiny_lm(0).enumerate_texts(3):
        assert 0 not in body[:-1]
        assert body[-1] == 0 or len(body) == 3


def test_a_history_reads_its_own_row():
    logits = torch.zeros(9, 3)
    logits[1 * 3 + 2] = torch.tensor([5.0, 1.0, -2.0])
    model = TinyLM(logits, order=2)
    expected = logits[5].log_softmax(-1)
    assert torch.equal(model.logprobs(torch.tensor([[0, 1, 2, 2]]))[0, 2], expected)
    assert torch.equal(model.logprobs(torch.tensor([[2]]))[0, 0], logits[0 * 3 + 2].log_softmax(-1))


def test_log_prob_is_the_product_of_conditionals():
    model = tiny_lm(3)
    by_hand, histories = 0.0, torch.tensor([0, 0, 0])
    for token in (1, 2, 0):
        by_hand += float(model.next_logprobs(histories)[token])
        histories = torch.tensor([*histories[1:].tolist(), token])
    assert model.log_prob([0, 1, 2, 0]) == pytest.approx(by_hand)


def test_gradients_reach_the_table():
    logits = torch.zeros(3, 3, requires_grad=True)
    TinyLM(logits).score(torch.tensor([[0, 1, 2]])).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[0], torch.tensor([-1.0, 2.0, -1.0]) / 3)


def test_samples_follow_the_model_and_the_generator():
    model = bigram_lm(0, symbols=4)
    drawn = model.sample(4000, length=1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, model.sample(4000, length=1, generator=torch.Generator().manual_seed(0)))
    assert drawn.shape == (4000, 2)
    assert not drawn[:, 0].any()
    shares = drawn[:, 1].bincount(minlength=4) / 4000
    torch.testing.assert_close(shares.double(), model.next_logprobs(torch.tensor([0])).exp(), atol=0.03, rtol=0)


def test_bigram_models_differ_by_seed_and_never_end():
    first, second = bigram_lm(0), bigram_lm(1)
    assert first.vocab_size == 20
    assert first.eos is None
    assert not torch.equal(first.logits, second.logits)


def test_gathered_scores_shift_by_one_and_are_silent_outside():
    logprobs = -torch.arange(24.0).reshape(2, 4, 3)
    tokens = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 1]])
    scores = gathered_scores(logprobs, tokens, lengths=torch.tensor([4, 2]), context=torch.tensor([2, 1]))
    assert scores.tolist() == [[0.0, 0.0, -5.0, -6.0], [0.0, -14.0, 0.0, 0.0]]


def test_tiny_lm_is_a_language_model():
    assert isinstance(tiny_lm(0), LanguageModel)


def test_letters_round_trip():
    tokenizer = LetterTokenizer()
    assert tokenizer.decode(tokenizer.encode("to be or not.\n")) == "to be or not.\n"
