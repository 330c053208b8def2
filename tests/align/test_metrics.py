"""What is measured of a policy, against sums over all texts."""

import dataclasses

import pytest
import torch
from test_align_fit import ENDS, LENGTH, START, exact, wanted
from test_target import every_text, says

from collegium.align.draws import Drawing, draw
from collegium.align.metrics import Pool, measure
from collegium.align.target import Constraint, Moment
from collegium.core.randomness import generator
from collegium.testing.tiny import TinyLM, tiny_lm

DRAWING = Drawing(tokens=LENGTH, batch=4000, ends=ENDS)


@pytest.mark.parametrize("part", [Constraint(says(2)), Moment(says(2), 0.5)])
def test_distances_of_an_exhaustive_pool_are_exact(part: Constraint | Moment) -> None:
    model, aim = wanted(part)
    policy = TinyLM(model.logits + 0.7 * tiny_lm(9).logits, model.order, eos=model.eos)
    texts = every_text(model)
    pool = Pool.of(aim, texts, aim.target.values(texts.samples))
    fresh = draw(policy, [START] * 4000, drawing=DRAWING, random=generator(0, "fresh"))
    found = measure(policy, aim.target, pool, fresh)
    kl_p_pi, kl_pi_a = exact(policy, aim)
    assert found.kl_p_pi.estimate == pytest.approx(kl_p_pi, abs=1e-6)
    p = (pool.log_target - aim.log_z).exp()
    assert found.tv.estimate == pytest.approx(float(0.5 * (p - texts.log_prob(policy).exp()).abs().sum()), abs=1e-6)
    assert found.kl_pi_a.low <= kl_pi_a <= found.kl_pi_a.high
    probabilities = texts.log_prob(policy).exp()
    rate = float((probabilities * pool.values["says(2)"]).sum())
    assert found.moments["says(2)"].low <= rate <= found.moments["says(2)"].high


def test_the_original_is_as_far_from_the_target_as_was_solved_and_not_from_itself() -> None:
    model, aim = wanted(Constraint(says(2)))
    drawn = draw(model, [START] * 4000, drawing=DRAWING, random=generator(1, "pool"))
    pool = Pool.of(aim, drawn, aim.target.values(drawn.samples))
    fresh = draw(model, [START] * 500, drawing=DRAWING, random=generator(2, "fresh"))
    found = measure(model, aim.target, pool, fresh)
    assert found.kl_p_pi.estimate == pytest.approx(aim.moved, abs=1e-9)
    assert found.kl_pi_a.estimate == 0.0
    plain = found.to_dict()
    assert set(plain) == {"moments", "kl_p_pi", "kl_pi_a", "tv", "distinct_2", "self_bleu_5", "intervals"}
    assert plain["intervals"]["moments"]["says(2)"][0] <= plain["moments"]["says(2)"]
    assert dataclasses.asdict(found)["general_perplexity"] is None


def test_texts_that_the_target_forbids_are_left_out_of_distances() -> None:
    model, aim = wanted(Constraint(says(2)))
    texts = every_text(model)
    pool = Pool.of(aim, texts, aim.target.values(texts.samples))
    assert bool((pool.kept.values["says(2)"] == 1).all())
    torch.testing.assert_close(pool.kept.log_weights.softmax(0).sum(), torch.tensor(1.0, dtype=torch.float64))
