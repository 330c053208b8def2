"""`library grow`: who is near enough to be extended, what arrives and what is known, and what is refused early."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from collegium.core.cards import ExpertCard
from collegium.core.errors import ConfigError
from collegium.data import Corpus, Document, Domain
from collegium.experts import Expert, FitConfig, adapter_payload, fit_domain
from collegium.experts.algebra import delta_of_adapter
from collegium.experts.algebra.similarity import delta_similarity
from collegium.experts.fit import fit_further
from collegium.library import Library
from collegium.models import Ia3Weights
from collegium.recipes.growing import deciding
from collegium.recipes.growing.arrivals import sort_arrivals, together
from collegium.recipes.growing.deciding import Nearness, decide, settings_like, superseded
from collegium.recipes.growing.keeping import free_name, merge_most_alike, most_alike
from collegium.recipes.growing.run import GrowConfig, check_settings
from collegium.testing.pico import pico_base, random_adapter

FIT = FitConfig(rank=2, steps=3, window=32, batch=2, threads=1, evaluate_every=1)


def domain(name: str, *numbers: int) -> Domain:
    return Domain(name, tuple(Document(text=f"{name} article {n} says what {n} is. " * 3) for n in numbers or range(9)))


@pytest.fixture(scope="module")
def base():
    return pico_base()


def test_auto_extends_from_the_asked_share_of_the_gain_at_home_on():
    near = Nearness("law", {"law": 1.0}, gain=0.2, own_gain=0.4)
    assert decide("auto", near, least=0.5, extendable=("law",)).way == "extend"
    assert decide("auto", near, least=0.51, extendable=("law",)).way == "new"
    assert decide("new", near, least=0.5, extendable=("law",)).way == "new"
    assert decide("extend", near, least=0.9, extendable=("law",)).way == "extend"


@pytest.mark.parametrize(("gain", "own_gain"), [(0.4, None), (0.4, 0.0), (0.4, -0.1), (-0.1, 0.4), (-0.3, -0.1)])
def test_an_expert_that_gains_nothing_at_home_or_here_is_never_near(gain, own_gain):
    near = Nearness("law", {"law": 1.0}, gain=gain, own_gain=own_gain)
    assert decide("auto", near, least=0.5, extendable=("law",)).way == "new"


def test_without_texts_of_the_nearest_auto_makes_a_new_one_and_says_why():
    near = Nearness("law", {"law": 1.0}, gain=0.4, own_gain=0.4)
    found = decide("auto", near, least=0.5, extendable=())
    assert found.way == "new"
    assert "--texts" in found.reason
    with pytest.raises(ConfigError, match="--policy new"):
        decide("extend", near, least=0.5, extendable=())
    assert decide("extend", Nearness(), least=0.5, extendable=()).way == "new"


@pytest.mark.parametrize(
    "fields",
    [{}, {"name": "notes"}, {"docs": Path(), "near": 0.0}, {"docs": Path(), "steps": 3, "budget": "1k"}, {"most": -1}],
)
def test_what_makes_no_sense_is_told_before_anything_is_read(fields):
    with pytest.raises(ConfigError):
        check_settings(GrowConfig(library=Path("nowhere"), **fields))


def test_what_an_expert_has_learnt_does_not_arrive_again(base, tmp_path):
    library = Library(tmp_path / "library", base=base)
    law, code = domain("law"), domain("code")
    both = together("both", (law, code))
    library.add(fit_domain(base, law, config=FIT).expert)
    found = sort_arrivals(library, Corpus((law, code)), Corpus(()))
    assert ([each.name for each in found.new], found.known) == (["code"], {"law": "law"})
    library.add(fit_domain(base, both, config=FIT, name="both").expert)
    library.remove("law")
    assert not sort_arrivals(library, Corpus((both,)), Corpus(())).new
    found = sort_arrivals(library, Corpus((law,)), Corpus((code,)), without=("both",))
    assert [each.name for each in found.new] == ["law"]
    assert "code" not in found.own


def test_experts_that_go_on_begin_as_the_other_and_leave_it_alone(base):
    law, code = domain("law"), domain("code")
    old = fit_domain(base, law, config=replace(FIT, steps=6, learning_rate=0.02)).expert
    kept = {path: part.a.clone() for path, part in old.payload.lora.items()}  # pyright: ignore[reportAttributeAccessIssue]
    like = settings_like(old.card)
    assert like is not None
    assert replace(like, threads=1) == replace(FIT, steps=6, learning_rate=0.02, alpha=4.0)
    new = fit_further(base, old, Corpus((law, code)), config=FIT, name="law")
    again = fit_further(base, old, Corpus((law, code)), config=FIT, name="law")
    assert new.expert.digest == again.expert.digest != old.digest
    assert all(torch.equal(part.a, kept[path]) for path, part in old.payload.lora.items())  # pyright: ignore[reportAttributeAccessIssue]
    assert new.expert.card.parents == {"law": old.digest}
    assert new.expert.card.domain == "law"
    assert set(new.expert.card.documents["train"]) == {
        document.hash for each in (law, code) for document in each.split().train
    }
    fresh = fit_further(base, replace_weights(old), Corpus((law, code)), config=FIT, name="law")
    assert new.history.evaluations[0].loss < fresh.history.evaluations[0].loss - 0.05


def replace_weights(expert: Expert) -> Expert:
    """The broken start: the old expert's shapes, and nothing of what it has learnt."""
    adapter = {path: replace(part, b=torch.zeros_like(part.b)) for path, part in expert.payload.lora.items()}  # pyright: ignore[reportAttributeAccessIssue]
    return Expert(replace(expert.card, payload={}), adapter_payload(pico_base(), adapter))


def test_an_expert_that_was_continued_is_superseded_while_it_is_there(base, tmp_path):
    library = Library(tmp_path / "library", base=base)
    old = fit_domain(base, domain("law"), config=FIT).expert.renamed("law-before")
    library.add(old)
    library.add(fit_further(base, old, Corpus((domain("law"),)), config=FIT, name="law").expert)
    assert superseded(library) == {"law-before"}
    near = deciding.nearness(base, library, domain("code"), own={}, reading=deciding.Reading(512, 32, 4))
    assert (near.nearest, dict(near.shares or {})) == ("law", {"law": pytest.approx(1.0)})


def test_similarity_is_the_cosine_of_the_changes_multiplied_out(base):
    one, other = random_adapter(base, 1, rank=3), random_adapter(base, 2, rank=5)
    other = {path: replace(part, b=part.b + 0.1, scale=0.1 + n) for n, (path, part) in enumerate(other.items())}
    flat = [torch.cat([adapter[path].delta().flatten() for path in one]) for adapter in (one, other)]
    want = float(torch.nn.functional.cosine_similarity(flat[0].double(), flat[1].double(), dim=0))
    assert delta_similarity(delta_of_adapter(one), delta_of_adapter(other)) == pytest.approx(want, abs=1e-6)
    path = "model.layers.0.self_attn.k_proj"
    few = [{path: Ia3Weights(torch.tensor(factors))} for factors in ([2.0, 1.0], [1.0, 3.0])]
    assert delta_similarity(*map(delta_of_adapter, few)) == 0.0


def test_the_two_most_alike_are_merged_and_the_third_is_left(base, tmp_path):
    library = Library(tmp_path / "library", base=base)
    law = random_adapter(base, 1, rank=3)
    near_law = {path: replace(part, b=part.b * 0.5) for path, part in law.items()}
    for name, adapter in (("law", law), ("civil", near_law), ("sea", random_adapter(base, 9, rank=2))):
        card = ExpertCard(name=name, kind="lora", base=base.fingerprint, documents={"train": (name,)})
        library.add(Expert(card, adapter_payload(base, adapter)))
    assert most_alike(library, ("law", "civil", "sea"))[:2] == ("civil", "law")  # pyright: ignore[reportOptionalSubscript]
    sea = library.expert_digest("sea")
    merged = merge_most_alike(library)
    assert merged is not None
    assert (merged.name, merged.similarity, library.names()) == ("civil_law", pytest.approx(1.0), ("civil_law", "sea"))
    assert merged.relative_error < 1e-5, "both are multiples of one change, so that rank 3 holds their average"
    assert library.expert_digest("sea") == sea
    assert set(library.card("civil_law").documents["train"]) == {"law", "civil"}
    path = next(iter(law))
    got = library["civil_law"].payload.lora[path].delta()  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(got, 0.75 * law[path].delta(), atol=1e-5, rtol=1e-4)
    assert free_name(library, "sea") == "sea-2"
