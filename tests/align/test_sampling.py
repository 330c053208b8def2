"""Texts of a target without training, on an enumerable model."""

import math
from collections import Counter

import pytest
import torch
from test_align_fit import ENDS, LENGTH, START, wanted
from test_target import SIZE, every_text, says

from collegium.align.draws import Drawing, Draws
from collegium.align.sampling import best_of, best_of_bound, quasi_rejection, resampled
from collegium.align.target import Constraint, Target, Tilt
from collegium.core.errors import ConfigError, TargetError
from collegium.core.randomness import generator
from collegium.testing.tiny import tiny_lm

DRAWING = Drawing(tokens=LENGTH, batch=2000, ends=ENDS)


def shares(draws: Draws) -> Counter:
    texts = zip(draws.tokens.tolist(), draws.lengths.tolist(), strict=True)
    counts = Counter(tuple(row[:length]) for row, length in texts)
    return Counter({text: count / len(draws) for text, count in counts.items()})


def exact_target(seed: int, target: Target) -> dict[tuple[int, ...], float]:
    texts = every_text(tiny_lm(seed))
    log_p = target.log_score(texts)
    p = (log_p - torch.logsumexp(log_p, 0)).exp()
    return dict(zip(tiny_lm(seed).enumerate_texts(LENGTH), p.tolist(), strict=True))


def far(draws: Draws, wanted_shares: dict[tuple[int, ...], float]) -> float:
    found = shares(draws)
    return 0.5 * sum(abs(found[text] - share) for text, share in wanted_shares.items())


@pytest.mark.parametrize("parts", [(Constraint(says(2)),), (Tilt(SIZE, 1.0),)])
def test_all_ways_draw_from_the_target(parts: tuple) -> None:
    model = tiny_lm(0)
    target, random = Target(model, parts), generator(0, "sampling")
    p = exact_target(0, target)
    accepted = quasi_rejection(target, model, START, many=3000, rate=0.1, most=80_000, drawing=DRAWING, random=random)
    again = resampled(target, model, START, many=3000, drawn=20_000, drawing=DRAWING, random=random)
    assert len(accepted.draws) == len(again.draws) == 3000
    assert accepted.tv == pytest.approx(0.0, abs=1e-3)
    assert far(accepted.draws, p) < 0.05
    assert far(again.draws, p) < 0.05
    assert far(every_text(model), p) > 0.1


def test_a_higher_rate_is_further_from_the_target_and_says_so() -> None:
    model, aim = wanted(Tilt(SIZE, 3.0))
    options = {"many": 3000, "most": 80_000, "drawing": DRAWING}
    found = [
        quasi_rejection(aim.target, model, START, rate=rate, random=generator(1, "rates"), **options)
        for rate in (0.01, 0.5)
    ]
    assert found[0].tv is not None
    assert found[1].tv is not None
    assert found[0].tv < found[1].tv
    assert found[1].acceptance == pytest.approx(0.5, abs=0.05)
    p = exact_target(0, aim.target)
    assert far(found[1].draws, p) == pytest.approx(found[1].tv, abs=0.05)


def test_best_of_n_stays_within_its_bound_and_gains() -> None:
    model, texts = tiny_lm(0), every_text(tiny_lm(0))
    target = Target(model, (Tilt(SIZE, 1.0),))
    found = best_of(target, model, START, many=4000, of=4, drawing=DRAWING, random=generator(2, "best"))
    share = shares(found.draws)
    log_a = dict(zip(model.enumerate_texts(LENGTH), texts.log_prob(model).tolist(), strict=True))
    moved = sum(p * (math.log(p) - log_a[text]) for text, p in share.items())
    assert found.kl == best_of_bound(4)
    assert 0.1 < moved < found.kl + 0.02
    assert float(SIZE(found.draws.samples).mean()) > sum(
        math.exp(log_p) * (len(text) - 1 - (text[-1] == 0)) for text, log_p in log_a.items()
    )


def test_what_cannot_be_drawn_is_refused() -> None:
    model, random = tiny_lm(0), generator(3)
    never = Target(model, (Constraint(says(7)),))
    with pytest.raises(TargetError, match="none of 4000 texts has any probability"):
        quasi_rejection(never, model, START, many=5, most=4000, drawing=DRAWING, random=random)
    with pytest.raises(TargetError, match="take a nearer proposal"):
        resampled(never, model, START, many=5, drawn=2000, drawing=DRAWING, random=random)
    with pytest.raises(ConfigError, match="--rate lies in"):
        quasi_rejection(never, model, START, many=5, rate=0.0, drawing=DRAWING, random=random)
    with pytest.raises(ConfigError, match="--best-of"):
        best_of(never, model, START, many=5, of=0, drawing=DRAWING, random=random)
