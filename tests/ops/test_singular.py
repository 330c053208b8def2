"""The top right singular vector of B A, found from the factors, is that of the matrix."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.ops.singular import top_right_singular


def factors(seed: int, *, rank: int, inputs: int = 12, outputs: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rank, inputs, generator=draw), torch.randn(outputs, rank, generator=draw)


def by_power(a: torch.Tensor, b: torch.Tensor, *, steps: int = 15) -> torch.Tensor:
    """The peers' way: a few power iterations on the matrix itself; near, and not it."""
    delta = b @ a
    vector = torch.ones(a.shape[1])
    for _ in range(steps):
        vector = delta.T @ (delta @ vector)
        vector = vector / vector.norm()
    return vector


@given(seed=st.integers(0, 2**31), rank=st.integers(1, 20))
def test_it_is_that_of_the_matrix(seed: int, rank: int):
    a, b = factors(seed, rank=rank)
    wanted = torch.linalg.svd(b.double() @ a.double()).Vh[0].float()
    assert float((top_right_singular(a, b) @ wanted).abs()) == pytest.approx(1, abs=1e-5)


def test_power_iterations_are_told_apart():
    gaps = []
    for seed in range(20):
        a, b = factors(seed, rank=4)
        gaps.append(1 - float((top_right_singular(a, b) @ by_power(a, b)).abs()))
    assert max(gaps) > 1e-3


@given(seed=st.integers(0, 2**31))
def test_the_factors_it_comes_from_play_no_part(seed: int):
    a, b = factors(seed, rank=3)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed))).Q * 3
    turned = top_right_singular(turn @ a, b @ torch.linalg.inv(turn))
    assert torch.allclose(turned, top_right_singular(a, b), atol=1e-4)


def test_many_at_once_are_as_one_by_one_and_have_a_sign():
    pairs = [factors(seed, rank=4) for seed in range(5)]
    together = top_right_singular(torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs]))
    for vector, (a, b) in zip(together, pairs, strict=True):
        assert torch.allclose(vector, top_right_singular(a, b), atol=1e-6)
        assert vector.norm() == pytest.approx(1, abs=1e-5)
        assert vector[vector.abs().argmax()] > 0


def test_what_changes_nothing_has_no_direction():
    a, b = factors(0, rank=2)
    assert top_right_singular(a, torch.zeros_like(b)).abs().max() == 0


def test_half_precision_comes_back_as_it_went_in():
    a, b = factors(0, rank=2)
    assert top_right_singular(a.bfloat16(), b.bfloat16()).dtype == torch.bfloat16
