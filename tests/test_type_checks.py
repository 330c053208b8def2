"""Types are checked at run time, on the first calls of every function in every test."""

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from collegium.ops.rejection import acceptance_rate
from type_checks import CALLS, SPARING, Sparing


def total(values: Float[Tensor, " sample"]) -> float:
    return float(values.sum())


def test_the_package_is_checked():
    with pytest.raises(TypeCheckError):
        acceptance_rate(torch.zeros(2, 2), 0.0)


def test_the_first_calls_of_each_test_are_checked_and_no_others():
    sparing = Sparing(SPARING.jaxtyped)
    checked = sparing(typechecker=beartype)(total)
    for _ in range(2):
        sparing.next_test()
        for _ in range(CALLS - 1):
            checked(torch.ones(2))
        with pytest.raises(TypeCheckError):
            checked(torch.ones(2, 2))
        assert checked(torch.ones(2, 2)) == 4.0
