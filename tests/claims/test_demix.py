"""The claims on DEMix measure what they say, and what breaks the laws is seen."""

import dataclasses

import pytest
import torch

from collegium.claims import demix, demix_laws, demix_world, splits
from collegium.claims.demix_world import WAYS, languages, start, told, trained
from collegium.claims.experiment import Place
from collegium.experts import JointTraining, fit_documents
from collegium.experts.joint_blocks import Blocks
from collegium.experts.joint_fit import JointObjective

QUICK = dataclasses.replace(demix.DEMIX, steps=2, further=2, rates=(3e-3,))


@pytest.fixture
def place(tmp_path):
    return Place(3, tmp_path, tmp_path, {}, lambda line: None)


def test_the_laws_hold(place):
    assert set(demix_laws.separation(place).values()) == {0.0}
    assert set(demix_laws.further(place).values()) == {0.0}


def test_one_block_for_all_breaks_the_first_law(place, monkeypatch):
    def average(blocks: Blocks, domain: str) -> None:
        for key, (holder, leaf) in blocks._holders.items():
            mean = torch.stack([blocks._of[each][key] for each in blocks.domains]).mean(0)
            holder._parameters.pop(leaf, None)
            setattr(holder, leaf, mean)

    monkeypatch.setattr(Blocks, "wear", average)
    assert demix_laws.separation(place)["gradient_in_other_blocks"] > 0


def test_an_update_of_all_blocks_breaks_the_first_law(place, monkeypatch):
    idle = JointObjective.idle
    asked = iter((idle, lambda *rest: frozenset()))  # what is idle, and then the one update
    monkeypatch.setattr(JointObjective, "idle", lambda self, step: next(asked, idle)(self, step))
    assert demix_laws.separation(place)["change_of_idle_blocks"] > 0


def test_training_the_base_along_breaks_the_second_law(place, monkeypatch):
    def careless(base, *arguments, **named):
        made = fit_documents(base, *arguments, **named)
        with torch.no_grad():
            next(base.model.parameters()).add_(1e-3)
        return made

    monkeypatch.setattr(demix_laws, "fit_documents", careless)
    found = demix_laws.further(place)
    assert found["changed_answers"] > 0
    assert found["changed_base_weights"] > 0


def test_all_ways_read_the_same_letters_and_one_alone_is_told_the_domain():
    corpus, config = languages(3, QUICK), QUICK.config(3e-3)
    training = JointTraining(start(3), corpus, config=config, separate=False)
    for number, part in enumerate(training.objective.parts.values()):
        changed = told(part.train, number)
        assert bool((changed.tokens[:, 0] == ord("A") + number).all())
        assert torch.equal(changed.tokens[:, 1:], part.train.tokens[:, 1:])
        assert torch.equal(changed.scored, part.train.scored)
    seen = {way: trained(start(3), corpus, way, config).cards["language-0"].tokens_seen for way in WAYS}
    assert len(set(seen.values())) == 1


@pytest.mark.recipe
def test_the_experiment_gives_all_that_its_claims_ask_for(place, monkeypatch):
    monkeypatch.setattr(demix, "DEMIX", QUICK)
    done = {way: demix._run(way, place) for way in WAYS}
    found = demix._measure(done)
    assert found["changed_answers"] == 0
    assert {"dense_minus_demix", "token_minus_demix", "dense_minus_posterior", "dense_forgets"} <= set(found)
    assert {row["model"] for row in demix._rows(done)} == set(WAYS)


def test_a_domain_is_found_among_splits(place):
    found = splits._measure({"splits": splits._run("splits", place)})
    assert found["random_minus_source"] > 0.05
    assert found["random_minus_cluster"] > 0


def test_marks_are_no_letters_of_any_language():
    assert demix_world.MARK not in "".join(chr(ord("a") + each) for each in range(20))
