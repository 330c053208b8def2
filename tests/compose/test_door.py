"""Composing a library: what takes part, and with which weight."""

from pathlib import Path

import pytest
import torch

import collegium as cg
from collegium.compose.door import attach_expert
from collegium.core.cards import ExpertCard
from collegium.core.errors import NameTaken, RoutingError
from collegium.experts import Expert, WholePayload, average_whole
from collegium.experts.recipe import AdapterKind
from collegium.models import KINDS, RowPlan
from collegium.testing.pico import pico_base, random_expert

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


@pytest.mark.parametrize("kind", KINDS)
def test_a_library_of_every_kind_is_mixed_and_ensembled(kind: AdapterKind, tmp_path: Path):
    base = pico_base(0)
    library = cg.Library(tmp_path / "library", base=base)
    adapters = {name: random_expert(base, seed, kind=kind, name=name) for seed, name in enumerate(("law", "code"))}
    for expert in adapters.values():
        library.add(expert)
    for name in adapters:
        one = cg.routers.fixed({name: 1.0})
        mixed, ensembled = cg.mix(base, library, router=one), cg.ensemble(base, library, router=one)
        torch.testing.assert_close(mixed.logprobs(TOKENS), ensembled.logprobs(TOKENS), rtol=0, atol=1e-4)
        assert (mixed.logprobs(TOKENS) - base.logprobs(TOKENS)).abs().max() > 1e-3
        alone = base.logprobs_rows(TOKENS, plan=RowPlan.one(attach_expert(base, library[name])))[0]
        torch.testing.assert_close(alone, mixed.logprobs(TOKENS), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["bottleneck", "ffn", "prefix"])
def test_kinds_that_are_no_change_of_a_matrix_are_not_merged(kind: AdapterKind, tmp_path: Path):
    base = pico_base(0)
    library = cg.Library(tmp_path / "library", base=base)
    library.add(random_expert(base, 1, kind=kind, name="law"))
    library.add(random_expert(base, 2, name="code"))
    with pytest.raises(RoutingError, match=rf"law is of kind {kind}\. Use mix or ensemble"):
        cg.merge(base, library, weights={"law": 0.5, "code": 0.5})
    merged = cg.merge(base, library, weights={"code": 1.0, "law": 0.0})
    assert (merged.logprobs(TOKENS) - base.logprobs(TOKENS)).abs().max() > 1e-3, "without weight it is no hindrance"


def test_an_equal_expert_of_another_library_is_read_when_the_first_ones_is_gone(tmp_path):
    base = pico_base()
    first, second = (cg.Library(tmp_path / name, base=base) for name in ("first", "second"))
    for library in (first, second):
        for seed, name in enumerate(("law", "sea")):
            library.add(random_expert(base, seed, name=name))
    cg.ensemble(base, first, router=cg.routers.uniform())
    first.remove("law")
    model = cg.ensemble(base, second, router=cg.routers.uniform())
    assert model.score(TOKENS).isfinite().all()
    with pytest.raises(NameTaken, match="another expert is attached"):
        base.offer(next(iter(base.attached)), dict)
