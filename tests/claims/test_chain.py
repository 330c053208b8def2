"""The chain over the whole system: the rule is the rule, and a small chain goes through all its pieces."""

import math
from dataclasses import replace

import pytest

from collegium.claims import chain, chain_world
from collegium.claims.chain_world import obeys, preferences, questions
from collegium.claims.experiment import Place
from collegium.core.samples import Sample, plain_text


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("it was salt so", 1.0),
        ("salt it was so", 1.0),
        ("it was gold so", 0.0),
        ("it was salt gold", 0.0),
        ("salt it was salt", 0.0),
        ("it was so on", 0.0),
        ("it was salt", 0.0),
        ("it was salt so on", 0.0),
        ("", 0.0),
    ],
)
def test_an_answer_keeps_the_rule_with_its_domains_word_alone_among_four(answer: str, kept: float) -> None:
    asked = plain_text(preferences(0)["salt"].pairs[0].prompt)
    assert obeys([Sample(asked, answer)], 0).tolist() == [kept]


def test_every_chosen_answer_keeps_the_rule_and_no_rejected_one_does() -> None:
    for domain in preferences(1):
        chosen, rejected = zip(*(pair.samples for pair in domain.pairs), strict=True)
        assert obeys(chosen, 1).all()
        assert not obeys(rejected, 1).any()


def test_policies_are_judged_on_questions_that_they_have_not_learnt_from() -> None:
    learnt, asked = questions(2, learnt=True), questions(2, learnt=False)
    assert (len(learnt), len(asked)) == (24, 16)
    assert not {each.text for each in learnt} & {each.text for each in asked}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of a few seconds."""
    for name, value in {"PAIRS": 100, "STEPS": 20, "EXPERT": replace(chain_world.EXPERT, steps=4)}.items():
        monkeypatch.setattr(chain_world, name, value)
    for name, value in {
        "SAMPLES": 48,
        "EACH": 2,
        "POOL": 24,
        "TOKENS": 4,
        "LOOKS": 1,
        "FRESH": 4,
        "OF": (2, 4),
    }.items():
        monkeypatch.setattr(chain, name, value)
    chain.base_of.cache_clear()


@pytest.mark.recipe
@pytest.mark.usefixtures("small")
def test_a_small_chain_goes_through_all_its_pieces(tmp_path) -> None:
    place = Place(7, tmp_path, tmp_path, {}, lambda line: None)
    made = {"judge arliss", "judge joint", "policy arliss 0.3", "policy joint 0.1", "best-of all", "removal of one"}
    done = {piece: chain.run(piece, place) for piece in chain.PIECES if piece in made}
    done |= {piece: done["policy joint 0.1"] for piece in chain.PIECES if piece not in done}
    found = chain.measured(done)
    assert all(math.isfinite(value) for value in found.values())
    assert found["changed_texts"] == found["changed_rewards"] == 0.0
    assert found["arliss_gain"] == pytest.approx(
        done["policy arliss 0.3"]["curve"][-1]["rule"] - done["policy arliss 0.3"]["curve"][0]["rule"]
    )
    assert {row["policy"] for row in chain.rows(done)} >= {"arliss, beta 0.3", "average, best of 4"}
    chain.base_of.cache_clear()
