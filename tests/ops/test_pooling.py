"""Pooling finds the token that transformers reads, and never reads padding."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.ops.pooling import last_tokens, mean_of, real_tokens, taken_at


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=4), st.integers(0, 3))
def test_the_last_token_is_the_rightmost_that_is_not_the_pad_token(rows, pad):
    width = max(map(len, rows))
    tokens = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    found = last_tokens(tokens, torch.tensor([len(row) for row in rows]), pad)
    for row, place in zip(rows, found.tolist(), strict=True):
        wanted = [at for at, token in enumerate(row) if token != pad]
        assert place == (wanted[-1] if wanted else 0)


def test_what_stands_at_padding_plays_no_part():
    tokens = torch.tensor([[5, 6, 9, 9]])
    assert last_tokens(tokens, torch.tensor([2]), 7).tolist() == [1]
    assert last_tokens(tokens, torch.tensor([2]), None).tolist() == [1]


def test_the_mean_is_that_of_the_tokens_read():
    hidden = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    read = real_tokens(torch.zeros(2, 5, dtype=torch.long), torch.tensor([2, 5]))
    found = mean_of(hidden, read)
    assert torch.allclose(found[0], hidden[0, :2].mean(0), atol=1e-6)
    assert torch.allclose(found[1], hidden[1].mean(0), atol=1e-6)
    spoilt = hidden.masked_fill(~read[..., None], torch.nan)
    assert torch.equal(mean_of(spoilt, read), found)


def test_a_state_is_taken_at_its_place():
    hidden = torch.arange(12.0).view(2, 3, 2)
    assert torch.equal(taken_at(hidden, torch.tensor([2, 0])), torch.stack([hidden[0, 2], hidden[1, 0]]))
