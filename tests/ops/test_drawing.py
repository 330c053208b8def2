"""Tokens are drawn by their probabilities, and impossible ones never."""

import pytest
import torch

from collegium.core.randomness import generator
from collegium.ops.drawing import draw_tokens


def test_tokens_come_as_often_as_their_probabilities_say():
    probabilities = torch.tensor([0.05, 0.0, 0.6, 0.25, 0.1, 0.0])
    many = 40_000
    drawn = draw_tokens(probabilities.log().expand(many, -1), random=generator(0, "often"))
    counts = drawn.bincount(minlength=6).double()
    assert counts[[1, 5]].tolist() == [0, 0]
    expected = many * probabilities.double()
    seen = expected > 0
    assert float(((counts - expected)[seen] ** 2 / expected[seen]).sum()) < 16.3  # chi2 of 3 degrees, 0.1 %


def test_the_largest_number_there_is_stays_within_the_vocabulary(monkeypatch):
    highest = torch.nextafter(torch.ones(3, 1, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64))
    monkeypatch.setattr(torch, "rand", lambda *size, **options: highest)
    log_probs = torch.tensor([[0.3, 0.7, 0.0], [1.0, 0.0, 0.0], [0.1, 0.2, 0.7]]).log()
    assert draw_tokens(log_probs, random=torch.Generator()).tolist() == [1, 0, 2]


@pytest.mark.parametrize("vocab", [3, 50_000])
def test_rows_are_drawn_apart_and_by_the_generator_alone(vocab):
    log_probs = torch.randn(16, vocab, generator=generator(1, "rows")).log_softmax(-1)
    first, again = (draw_tokens(log_probs, random=generator(2, "draw")) for _ in range(2))
    assert torch.equal(first, again)
    assert len(set(first.tolist())) > 1
    other = log_probs.clone()
    other[0] = other[0].flip(0)
    assert torch.equal(draw_tokens(other, random=generator(2, "draw"))[1:], first[1:])
