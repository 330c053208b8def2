"""Trimming keeps the largest entries, dropping keeps the mean."""

import pytest
import torch

from collegium.ops.entrywise import dropped, ties, trimmed


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.99, 1.0])
def test_trimming_keeps_the_largest(density):
    tensor = torch.randn(13, 7, generator=torch.Generator().manual_seed(0))
    kept = trimmed(tensor, density)
    alive = kept != 0
    assert int(alive.sum()) == max(1, round(density * 91))
    assert torch.equal(kept[alive], tensor[alive])
    if bool((~alive).any()):
        assert float(tensor[~alive].abs().max()) <= float(tensor[alive].abs().min())


def test_entries_without_a_majority_are_zero():
    one = torch.tensor([1.0, -2.0, 0.0])
    assert torch.equal(ties([one, -one], 1.0), torch.zeros(3))
    assert torch.equal(ties([one, torch.zeros(3)], 1.0), one)


def test_all_is_kept_at_density_one():
    tensor = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dropped(tensor, 1.0, generator=torch.Generator().manual_seed(1)), tensor)
