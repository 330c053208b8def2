"""Routers grow and shrink with the library, to the last bit, in the order in which a user does it."""

import dataclasses
import random
import shutil
from pathlib import Path

import pytest
import torch

from collegium.compose import ensemble
from collegium.core.cards import ExpertCard
from collegium.core.errors import StaleRouter
from collegium.data import Corpus, Document, Domain
from collegium.experts import AdapterPayload, Expert, FitConfig
from collegium.library import Library
from collegium.models import Base, load_base
from collegium.recipes import train
from collegium.recipes.common import Common
from collegium.recipes.fit_routers import CACHED_SEQUENCES, draw_sequences
from collegium.recipes.keep import remove_expert, route_all
from collegium.recipes.watch import Silent
from collegium.routers import cached_prior, classifier, cluster, default, posterior
from collegium.testing import pico_base, random_adapter
from collegium.testing.library import snapshot

FOUR = ("kitchen", "law", "sea", "town")
WORDS = {
    "kitchen": "butter onion skillet simmer flour garlic",
    "law": "court statute plaintiff appeal verdict jury",
    "sea": "harbour anchor schooner tide rudder mast",
    "town": "tram kerb mayor alley plaza bench",
    "farm": "plough barn wheat ewe orchard flour",
}
ROUTERS = (cached_prior(), classifier(), cluster(), default(), posterior(cached_prior()))


def written(domain: str, number: int) -> str:
    """A text of one of five domains; the last shares a word with the first."""
    draw = random.Random(f"{domain} {number}")
    return " ".join(draw.choices(WORDS[domain].split(), k=60))


def domain(name: str) -> Domain:
    return Domain(name, tuple(Document(text=written(name, number)) for number in range(16)))


def expert(base: Base, name: str, seed: int) -> Expert:
    return Expert(ExpertCard(name=name, kind="lora", base=base.fingerprint), AdapterPayload(random_adapter(base, seed)))


@pytest.fixture(scope="module")
def base() -> Base:
    return pico_base(0)


@pytest.fixture(scope="module")
def fitted(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library whose routers were fitted for four domains."""
    made = Library(tmp_path_factory.mktemp("fitted") / "library", base=base)
    for seed, name in enumerate(FOUR):
        made.add(expert(base, name, seed))
    route(base, made, FOUR)
    return made.path


@pytest.fixture
def library(base: Base, fitted: Path, tmp_path: Path) -> Library:
    return Library(shutil.copytree(fitted, tmp_path / "library"), base=base)


def route(base: Base, library: Library, names: tuple[str, ...]) -> None:
    route_all(base, library, Corpus(tuple(domain(name) for name in names)), seed=0, watch=Silent())


def bound(base: Base, library: Library) -> None:
    for recipe in ROUTERS:
        recipe.bind(library.names(), shelf=library, tokenizer=base.tokenizer)


@pytest.mark.parametrize("given", [(*FOUR, "farm"), ("farm",)])
def test_a_newcomer_gets_a_row_in_every_router_and_takes_it_along(base: Base, library: Library, given):
    before = snapshot(library.path)
    library.add(expert(base, "farm", 9))
    route(base, library, given)
    bound(base, library)
    assert remove_expert(library, "farm") == []
    assert snapshot(library.path) == before


def test_a_newcomer_without_texts_is_scored_on_those_of_the_cached_prior(base: Base, library: Library):
    library.add(expert(base, "farm", 9))
    route(base, library, ("law",))
    cached_prior().bind(library.names(), shelf=library)
    with pytest.raises(StaleRouter, match="collegium train"):
        classifier().bind(library.names(), shelf=library)


def test_another_expert_of_a_removed_ones_name_gets_rows_of_its_own(base: Base, library: Library):
    before = library.load_router("cached_prior")[0]
    library.remove("law")
    library.add(expert(base, "law", 77))
    for recipe in (cached_prior(), classifier(), cluster()):
        with pytest.raises(StaleRouter, match="law"):
            recipe.bind(library.names(), shelf=library, tokenizer=base.tokenizer)
    route(base, library, FOUR)
    bound(base, library)
    after = library.load_router("cached_prior")[0]
    assert {key for key in before if not torch.equal(before[key], after[key])} == {"row.law"}


def test_one_router_that_is_missing_is_fitted_and_the_others_are_left(base: Base, library: Library):
    before = snapshot(library.path)
    library.remove("cluster")
    route(base, library, FOUR)
    assert snapshot(library.path) == before


def test_removing_one_of_the_first_tells_where_its_texts_remain(base: Base, library: Library):
    traces = remove_expert(library, "law")
    assert [line.split(":")[0] for line in traces] == ["router classifier", "router cluster", "router cached_prior"]
    assert all("library remove" in line for line in traces)


def test_the_domains_take_equal_turns_behind_the_cached_prior(base: Base):
    """Many short texts of one domain do not outnumber the long ones of another."""
    long, short = ([Document(text=f"{number} {text}") for number in range(30)] for text in ("court " * 40, "tide"))
    found = draw_sequences({"law": tuple(long), "sea": tuple(short)}, base.tokenizer, window=64)
    assert found.domains == ("law", "sea") * (CACHED_SEQUENCES // 2)
    assert found.tokens.shape == (CACHED_SEQUENCES, 64)
    assert int(found.lengths[1::2].max()) < 10 < int(found.lengths[::2].min())


@pytest.mark.recipe
def test_training_a_fifth_domain_beside_four_and_removing_it_restores_every_answer(pico_folder, tmp_path):
    base = load_base(str(pico_folder))
    texts = tmp_path / "texts"
    for name in FOUR:
        lay_out(texts, name)
    config = train.TrainConfig(
        data=texts,
        library=tmp_path / "library",
        base=str(pico_folder),
        out=tmp_path / "out",
        fit=FitConfig(rank=2, window=32, batch=4, steps=4),
        common=Common(device="cpu", dtype="float32", threads=1),
    )
    train.run(config, watch=Silent())
    library = Library(config.library, base=base)
    before, answers = snapshot(library.path), answer(base, library)
    lay_out(texts, "farm")
    train.run(dataclasses.replace(config, out=tmp_path / "later"), watch=Silent())
    bound(base, library)
    assert not torch.equal(answer(base, library), answers)
    assert remove_expert(library, "farm") == []
    assert snapshot(library.path) == before
    assert torch.equal(answer(base, library), answers)


def lay_out(texts: Path, name: str) -> None:
    (texts / name).mkdir(parents=True)
    for number in range(16):
        (texts / name / f"{number:02}.txt").write_text(written(name, number))


def answer(base: Base, library: Library) -> torch.Tensor:
    """What ensembles by each router say to one text."""
    prompt = torch.tensor([list(written("law", 99)[:80].encode())])
    found = [ensemble(base, library, router=recipe).logprobs(prompt, context=32) for recipe in ROUTERS]
    return torch.stack(found)
