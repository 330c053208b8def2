"""What is derived from experts: exact under growth, found again, safe to delete, computed anew when damaged."""

import shutil

import pytest
import torch

from collegium.core.cards import ExpertCard
from collegium.core.errors import IncompatibleExpert, LibraryError
from collegium.data import Document, Domain
from collegium.experts import AdapterPayload, Expert, FitConfig, adapter_payload, fit_expert
from collegium.library import (
    ClusterSettings,
    Library,
    adapter_prototypes,
    forget_prototypes,
    parameter_clusters,
    prototypes,
    subtract_general,
)
from collegium.library import derived as module
from collegium.library.parameter_clusters import cluster_vectors
from collegium.models import Ia3Weights, LoraWeights
from collegium.testing.pico import pico_base, random_adapter

NAMES = ("law", "code", "chat")


@pytest.fixture(scope="module")
def base():
    return pico_base()


def expert(base, name, seed, **how):
    card = ExpertCard(name=name, kind="lora", base=base.fingerprint, domain=name)
    return Expert(card, adapter_payload(base, random_adapter(base, seed, **how)))


@pytest.fixture
def library(base, tmp_path):
    made = Library(tmp_path / "library", base=base)
    for place, name in enumerate(NAMES):
        made.add(expert(base, name, place))
    return made


def kept(library):
    return {path.name: path.read_bytes() for path in (library.path / "derived").glob("*.safetensors")}


@pytest.fixture
def counted(monkeypatch):
    """A list that grows by one with every expert whose prototypes are computed."""
    seen, plain = [], module.adapter_prototypes
    monkeypatch.setattr(module, "adapter_prototypes", lambda adapter: (seen.append(1), plain(adapter))[1])
    return seen


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[path], other[path]) for path in one)


def test_a_prototype_is_the_top_right_singular_vector_of_the_change(base):
    adapter = random_adapter(base, 3, rank=3)
    for path, vector in adapter_prototypes(adapter).items():
        wanted = torch.linalg.svd(adapter[path].delta().double()).Vh[0].float()
        assert float((vector @ wanted).abs()) == pytest.approx(1, abs=1e-5)


def test_growth_is_exact_one_comes_and_no_other_is_touched(base, library, counted):
    before, files = prototypes(library), kept(library)
    assert len(counted) == 3
    library.add(expert(base, "sea", 9, rank=2, targets=["q_proj", "up_proj"]))
    during = prototypes(library)
    assert len(counted) == 4
    assert all(kept(library)[name] == content for name, content in files.items())
    library.remove("sea")
    after = prototypes(library)
    assert len(counted) == 4
    for name in NAMES:
        assert same(before[name], during[name])
        assert same(before[name], after[name])


def test_the_cache_may_be_deleted_and_damaged(library, counted):
    before = prototypes(library)
    shutil.rmtree(library.path / "derived")
    assert same(prototypes(library)["law"], before["law"])
    for path in (library.path / "derived").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-9])
    assert same(prototypes(library)["law"], before["law"])
    assert len(counted) == 9


@pytest.mark.parametrize("change", [lambda each: each[:-1], lambda each: each * float("nan")])
def test_a_cache_of_other_shapes_or_of_no_numbers_is_computed_again(library, change):
    before = prototypes(library)
    key = {**module.prototype_key(library.expert_digest("law")), "version": module.VERSION}
    library.keep_derived(key, {path: change(each) for path, each in before["law"].items()})
    assert same(prototypes(library)["law"], before["law"])


def test_an_expert_of_the_same_name_has_prototypes_of_its_own(base, library):
    before = prototypes(library)["law"]
    library.remove("law")
    library.add(expert(base, "law", 77))
    assert not same(prototypes(library)["law"], before)


def test_a_library_that_is_only_read_computes_and_keeps_nothing(library):
    read = Library(library.path, read_only=True)
    before = kept(library)
    assert prototypes(read).keys() == set(NAMES)
    assert kept(library) == before


def test_prototypes_of_who_was_removed_can_be_forgotten(library):
    prototypes(library)
    files = kept(library)
    forget_prototypes(library, library.expert_digest("law"))
    assert len(kept(library)) == len(files) - 1
    forget_prototypes(library, library.expert_digest("law"))


def near(base, seed, *, of, share=0.2):
    """A random expert near another one."""
    own = random_adapter(base, seed)
    return {
        path: LoraWeights(part.a + share * own[path].a, part.b + share * own[path].b, part.scale)
        for path, part in of.items()
    }


def families(base, library):
    """Two families of three: the members of each are near to each other."""
    for family in range(2):
        centre = random_adapter(base, 100 + family)
        for number in range(3):
            name = f"{'xy'[family]}{number}"
            card = ExpertCard(name=name, kind="lora", base=base.fingerprint)
            library.add(Expert(card, AdapterPayload(near(base, 10 * family + number, of=centre))))
    return tuple(f"{family}{number}" for family in "xy" for number in range(3))


def test_clusters_find_families(base, library):
    names = families(base, library)
    found = parameter_clusters(library, names[::-1], settings=ClusterSettings(clusters=2))
    assert found.members == (("x0", "x1", "x2"), ("y0", "y1", "y2"))
    assert torch.allclose(found.similarity.diagonal(), torch.ones(6), atol=1e-5)
    again = parameter_clusters(library, names, settings=ClusterSettings(clusters=2))
    assert torch.equal(again.similarity, found.similarity)


def test_experts_that_began_elsewhere_are_named(base, library):
    names = families(base, library)
    assert parameter_clusters(library, names).strangers == ()
    library.add(expert(base, "elsewhere", 77))
    assert parameter_clusters(library, (*names, "elsewhere")).strangers == ("elsewhere",)
    assert parameter_clusters(library, ("elsewhere",), settings=ClusterSettings(clusters=1)).strangers == ()


def test_clusters_of_trained_experts_are_those_of_their_texts(base, library):
    words = {"law": "the court finds for the tenant and the rent is due", "code": "def f(x): return [y for y in x]"}
    config = FitConfig(rank=4, steps=12, batch=2, window=32, learning_rate=1e-2, dev_tokens=64)
    names = []
    for family, sentence in words.items():
        for part in range(3):
            documents = tuple(Document(text=f"{part * 100 + n} {sentence}; " * 4) for n in range(9))
            names.append(f"{family}-{part}")
            library.add(fit_expert(base, Domain(names[-1], documents), config=config))
    found = parameter_clusters(library, names)
    assert {frozenset(each) for each in found.members} == {frozenset(names[:3]), frozenset(names[3:])}
    assert found.strangers == ()


def test_clusters_are_kept_under_everything_they_follow_from(base, library):
    names = families(base, library)
    before = kept(library)
    for settings in (ClusterSettings(), ClusterSettings(seed=1), ClusterSettings(quantile=0.5), ClusterSettings()):
        parameter_clusters(library, names, settings=settings)
    assert len(kept(library)) == len(before) + 3
    for path in (library.path / "derived").glob("*.safetensors"):
        path.write_bytes(b"")
    assert parameter_clusters(library, names).members == (("x0", "x1", "x2"), ("y0", "y1", "y2"))


def test_entries_at_the_quantile_are_zeroed():
    rows = torch.tensor([[4.0, 1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 4.0, 0.0]])
    _, similarity = cluster_vectors(rows, ClusterSettings(clusters=1, quantile=0.75))
    assert float(similarity[0, 1]) == pytest.approx(0.0, abs=1e-6)
    _, whole = cluster_vectors(rows, ClusterSettings(clusters=1, quantile=0.0))
    assert float(whole[0, 1]) == pytest.approx(2 / 18, abs=1e-6)


def test_few_dimensions_are_those_of_the_truncated_svd():
    rows = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    _, similarity = cluster_vectors(rows, ClusterSettings(clusters=2, quantile=0.0, dimensions=2))
    rows[torch.arange(6), rows.abs().argmin(1)] = 0.0  # at or below the quantile 0 is the least entry
    left, values, _ = torch.linalg.svd(rows, full_matrices=False)
    wanted = torch.nn.functional.normalize(left[:, :2] * values[:2], dim=1)
    assert torch.allclose(similarity, wanted @ wanted.T, atol=1e-4)


def test_what_cannot_be_clustered_is_refused(base, library):
    with pytest.raises(LibraryError, match="5 clusters need at least as many"):
        parameter_clusters(library, settings=ClusterSettings(clusters=5))
    with pytest.raises(LibraryError, match=r"quantile lies in \[0, 1\)"):
        ClusterSettings(quantile=1.0)
    with pytest.raises(LibraryError, match="at least 1"):
        ClusterSettings(clusters=0)
    library.add(expert(base, "thin", 5, rank=2))
    with pytest.raises(IncompatibleExpert, match="same rank and layers; thin"):
        parameter_clusters(library, ("law", "code", "thin"))


def test_subtraction_is_of_the_mean_change(base):
    adapters = {name: random_adapter(base, place, rank=place + 2) for place, name in enumerate(NAMES)}
    adapters["chat"] = random_adapter(base, 8, targets=["q_proj"])
    found = subtract_general(adapters, general=["law", "chat"])
    for path in adapters["law"]:
        changes = {name: adapters[name][path].delta() if path in adapters[name] else 0.0 for name in NAMES}
        mean = (changes["law"] + changes["chat"]) / 2
        for name in NAMES:
            assert torch.allclose(found[name][path].delta(), changes[name] - mean, atol=1e-5)


def test_the_peers_subtraction_of_mean_factors_is_told_apart(base):
    adapters = {name: random_adapter(base, place) for place, name in enumerate(NAMES)}
    found = subtract_general(adapters)
    path = next(iter(found["law"]))
    own = adapters["law"][path]
    mean_a = torch.stack([each[path].a for each in adapters.values()]).mean(0)
    mean_b = torch.stack([each[path].b for each in adapters.values()]).mean(0)
    peers = own.scale * (own.b - mean_b) @ (own.a - mean_a)
    assert float((found["law"][path].delta() - peers).norm()) > 0.1 * float(peers.norm())
    assert float(sum(found[name][path].delta() for name in NAMES).abs().max()) < 1e-4


def test_who_is_unknown_cannot_be_subtracted(base):
    adapters = {"law": random_adapter(base)}
    with pytest.raises(LibraryError, match="Did you mean 'law'"):
        subtract_general(adapters, general=["lawn"])
    with pytest.raises(LibraryError, match="at least one general expert"):
        subtract_general(adapters, general=[])
    with pytest.raises(LibraryError, match="nothing is left"):
        subtract_general(adapters)


def test_other_kinds_have_no_prototypes(base):
    assert adapter_prototypes({"model.layers.0.self_attn.q_proj": Ia3Weights(torch.ones(64))}) == {}
