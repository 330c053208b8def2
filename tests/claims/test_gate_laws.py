"""The exact claims on prototypes hold, and what breaks them is seen."""

import pytest
import torch

from collegium.claims import gate_laws
from collegium.claims.experiment import Place
from collegium.library import derived
from collegium.models import lora_parts


@pytest.fixture
def place(tmp_path):
    return Place(3, tmp_path, tmp_path, {}, lambda line: None)


def test_prototypes_do_not_depend_on_the_factors(place):
    found = gate_laws.invariance(place)
    assert found["prototype_gap"] <= 1e-6
    assert found["raw_weights_alike"] == 0.0


def test_growth_of_prototypes(place):
    assert set(gate_laws.growth(place).values()) == {0.0}


def test_a_prototype_from_raw_factors_breaks_the_first_law(place, monkeypatch):
    rows = lambda adapter: {path: torch.nn.functional.normalize(part.a[0], dim=0) for path, part in adapter.items()}  # noqa: E731
    monkeypatch.setattr(gate_laws, "adapter_prototypes", rows)
    assert gate_laws.invariance(place)["prototype_gap"] > 1e-3


def test_prototypes_that_are_computed_anew_each_time_break_the_second(place, monkeypatch):
    drawn = lambda adapter: {path: torch.rand(part.shape[0]) for path, part in lora_parts(adapter).items()}  # noqa: E731
    monkeypatch.setattr(derived, "adapter_prototypes", drawn)
    monkeypatch.setattr(derived, "derive", lambda kept, key, compute, fits: compute())
    found = gate_laws.growth(place)
    assert found["changed_prototypes"] > 0
    assert found["written_files_beyond_one"] == -1, "nothing was kept at all"
