"""The best factors of a rank are those of a dense SVD, whatever the shapes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.ops.low_rank import lost_share, split_matrix, split_product


@given(
    outputs=st.integers(1, 12),
    inputs=st.integers(1, 12),
    inner=st.integers(1, 14),
    rank=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_products_and_matrices_are_split_as_a_dense_svd_does(outputs, inputs, inner, rank, seed):
    draw = torch.Generator().manual_seed(seed)
    b = torch.randn(outputs, inner, generator=draw, dtype=torch.float64)
    a = torch.randn(inner, inputs, generator=draw, dtype=torch.float64)
    u, values, v = torch.linalg.svd(b @ a, full_matrices=False)
    best = (u[:, :rank] * values[:rank]) @ v[:rank]
    for split in (split_product(b, a, rank), split_matrix(b @ a, rank)):
        torch.testing.assert_close(split.b @ split.a, best)
        known = split.values[: len(values)]
        torch.testing.assert_close(known, values[: len(known)])
        assert float(values[len(known) :].abs().sum()) < 1e-9
        kept = split.b.shape[1]
        error = float((b @ a - split.b @ split.a).norm() / (b @ a).norm())
        assert lost_share(split.values, kept) == pytest.approx(error, abs=1e-7)
        torch.testing.assert_close(split.b.norm(dim=0), split.a.norm(dim=1))


def test_nothing_is_lost_of_nothing():
    assert lost_share(torch.zeros(3), 1) == 0.0
