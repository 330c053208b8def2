"""Every way to compose that a reference may name is a language model, and all weight on one expert is that expert."""

import pytest
import torch

from collegium.compose import assemble
from collegium.library import Library
from collegium.recipes.columns import Way, build_way
from collegium.recipes.opening import alone
from collegium.recipes.reference import COMPOSITIONS
from collegium.routers import fixed, uniform
from collegium.testing.language_model import check_language_model
from collegium.testing.pico import pico_base, random_expert


@pytest.fixture
def library(tmp_path):
    made = Library(tmp_path / "college", base=pico_base())
    for seed, name in enumerate(("law", "code")):
        made.add(random_expert(made.base, seed, name=name))
    return made


@pytest.mark.parametrize("compose", COMPOSITIONS)
def test_every_composition_keeps_the_laws(library, compose):
    cast, tokens = assemble(library.base, library), torch.arange(14).view(2, 7)
    check_language_model(build_way(Way(compose, uniform()), cast, library), batch=2, seq=6, contexts=(1, 3))
    for name in ("base", *library):
        weights = {} if name == "base" else {name: 1.0}
        found = build_way(Way(compose, fixed(weights)), cast, library).score(tokens)
        torch.testing.assert_close(found, alone(cast, name).score(tokens), atol=1e-4, rtol=0)
