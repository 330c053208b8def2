"""Composing a library: what takes part, and with which weight."""

from pathlib import Path

import pytest
import torch

import collegium as cg
from collegium.core.cards import ExpertCard
from collegium.experts import Expert, WholePayload, average_whole
from collegium.testing.pico import pico_base

TOKENS = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> tuple[cg.Base, cg.Library]:
    base = pico_base(0)
    library = cg.Library(Path(tmp_path_factory.mktemp("compose")) / "forest", base=base)
    for seed, name in enumerate(("law", "code"), start=1):
        card = ExpertCard(name=name, kind="whole", base=base.fingerprint)
        library.add(Expert(card, WholePayload(pico_base(seed).model)))
    return base, library


def test_a_merge_of_whole_models_gives_the_base_its_weight(forest: tuple[cg.Base, cg.Library]):
    base, library = forest
    half = average_whole([base, pico_base(1)], [0.5, 0.5], name="half").score(TOKENS)
    assert torch.equal(cg.merge(base, library, weights={"law": 0.5, "base": 0.5}).score(TOKENS), half)
    assert torch.equal(cg.merge(base, library, router=cg.routers.fixed({"law": 0.5})).score(TOKENS), half)
    alone = cg.merge(base, library, weights={"law": 1.0}).score(TOKENS)
    assert torch.equal(alone, pico_base(1).score(TOKENS))
    for weights in ({}, {"base": 2.0}):
        assert torch.equal(cg.merge(base, library, weights=weights).score(TOKENS), base.score(TOKENS))
