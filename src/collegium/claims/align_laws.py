"""Exact claims on alignment: estimates, gradients and samplers against sums over all texts. D1 D2 D6 D10 D12 D13."""

import itertools
import math
from collections.abc import Callable, Mapping

import torch

from collegium.align.draws import Drawing, Prompt, draw
from collegium.align.methods import METHODS, advantages
from collegium.align.moments import solve_tilts
from collegium.claims.experiment import Place, one_piece
from collegium.core.randomness import generator
from collegium.ops.rejection import acceptance_rate, distance
from collegium.testing.text_world import TextWorld
from collegium.testing.tiny import tiny_lm

RATES = (0.01, 0.07, 0.3, 0.6)
WANTED = (0.1, 0.5, 0.9)
BETAS = (0.2, 0.5, 1.0, 2.0, 5.0)
TEXTS, LENGTH = 2000, 3


def closed_form(place: Place) -> dict[str, float]:
    """Return D1: how far lambda is from logit(mu) - logit(a), and the means of several features from what is wanted."""
    gaps = []
    for rate, wanted in itertools.product(RATES, WANTED):
        found = solve_tilts([torch.tensor([0.0, 1.0])], [wanted], torch.tensor([1 - rate, rate]).log(), names=["f"])
        gaps.append(abs(found[0] - _logit(wanted) + _logit(rate)))
    random = generator(place.number, "moments")
    values = torch.rand(3, 40, generator=random, dtype=torch.float64)
    log_weights = torch.randn(40, generator=random, dtype=torch.float64)
    wanted = (values @ torch.rand(40, generator=random, dtype=torch.float64).softmax(0)).tolist()
    tilts = solve_tilts(list(values), wanted, log_weights, names=["f", "g", "h"])
    means = values @ (log_weights + torch.tensor(tilts, dtype=torch.float64) @ values).softmax(0)
    return {"lambda_gap": max(gaps), "moment_gap": float((means - torch.tensor(wanted)).abs().max())}


def baseline(place: Place) -> dict[str, float]:
    """Return D2: how far the mean gradient with the baseline is from that without, and whether single texts differ."""
    world, gaps, same = TextWorld(place.number, forbids=True), [], []
    for on_policy in (True, False):
        bare, based = (world.mean_gradient(METHODS[name], on_policy=on_policy) for name in ("dpg", "dpg++"))
        gaps.append(float((bare - based).abs().max()))
        signals = world.signals(on_policy=on_policy)
        same.append(torch.equal(advantages(METHODS["dpg"], signals), advantages(METHODS["dpg++"], signals)))
    return {"gradient_gap": max(gaps), "advantages_equal": float(any(same))}


def control(place: Place) -> dict[str, float]:
    """Return D13: KL-control is reverse KL to its implied target, and DPG a policy gradient with the reward P / pi."""
    world = TextWorld(place.number)
    direct = world.gradient_of(world.controlled())
    implied = -world.beta * world.gradient_of(world.divergence("reverse_kl"))
    ratio = (world.log_p - world.log_pi).exp().detach()
    paid = world.gradient_of((world.log_pi.exp().detach() * ratio * world.log_pi).sum())
    matching = world.mean_gradient(METHODS["dpg"], on_policy=True)
    return {
        "control_gap": float((direct - implied).abs().max()),
        "matching_gap": float((paid - matching).abs().max()),
        "gradient_vanishes": float(float(direct.abs().max()) < 1e-6),
    }


def optimum(place: Place) -> dict[str, float]:
    """Return D6: the slope of E[r] - beta KL at a exp(r / beta) / Z, and whether beta trades one against the other."""
    slopes, rewards, moved = [], [], []
    for beta in BETAS:
        world = TextWorld(place.number, beta=beta)
        with torch.no_grad():
            world.logits.copy_(world.log_p)
        slopes.append(float(world.gradient_of(world.controlled()).abs().max()))
        p = world.log_p.exp()
        rewards.append(float((p * world.reward).sum()))
        moved.append(float((p * (world.log_p - world.log_a)).sum()))
    falling = (all(later < earlier for earlier, later in itertools.pairwise(each)) for each in (rewards, moved))
    return {"slope_at_optimum": max(slopes), "not_falling": float(not all(falling))}


def rejection(place: Place) -> dict[str, float]:
    """Return D10: how far estimates from texts in exact proportions are from sums, and where curves rise."""
    random = generator(place.number, "rejection")
    counts = torch.randint(1, 7, (8,), generator=random)
    target = torch.randn(8, generator=random, dtype=torch.float64).exp()
    target[0] = 0.0
    q = counts.double() / counts.sum()
    log_ratios = (target.log() - q.log()).repeat_interleave(counts)
    p, gaps, curves = target / target.sum(), [], ([], [])
    for log_beta in torch.linspace(-3, 4, 30).tolist():
        capped = torch.minimum(target, math.exp(log_beta) * q)
        exact = float(capped.sum()) / math.exp(log_beta), float(0.5 * (p - capped / capped.sum()).abs().sum())
        found = acceptance_rate(log_ratios, log_beta), distance(log_ratios, log_beta)
        gaps += [abs(one - other) for one, other in zip(exact, found, strict=True)]
        for curve, value in zip(curves, found, strict=True):
            curve.append(value)
    rises = [max(later - earlier for earlier, later in itertools.pairwise(curve)) for curve in curves]
    return {"estimate_gap": max(gaps), "largest_rise": max(rises)}


def bookkeeping(place: Place) -> dict[str, float]:
    """Return D12: how far probabilities of all texts, as they were drawn, are from one, with their ends and without."""
    model = tiny_lm(place.number)
    drawing = Drawing(tokens=LENGTH, batch=TEXTS, ends=frozenset({0}))
    draws = draw(model, [Prompt("", (0,))] * TEXTS, drawing=drawing, random=generator(place.number, "book"))
    seen: dict[tuple[int, ...], tuple[float, float]] = {}
    for row in range(len(draws)):
        text = tuple(draws.tokens[row, : draws.lengths[row]].tolist())
        if text not in seen:
            bare = text[:-1] if text[-1] == 0 else text
            seen[text] = float(draws.log_proposal[row]), model.log_prob(bare) if len(bare) > 1 else 0.0
    every = set(model.enumerate_texts(LENGTH))
    missing = sum(math.exp(model.log_prob(text)) for text in every - set(seen))
    total, without = (math.fsum(math.exp(each[side]) for each in seen.values()) for side in (0, 1))
    return {"sum_gap": abs(total + missing - 1.0), "sum_right_without_ends": float(abs(without - 1.0) < 0.01)}


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


_LAWS: Mapping[str, Callable[[Place], dict[str, float]]] = {
    "align_closed_form": closed_form,
    "align_baseline": baseline,
    "align_control": control,
    "align_optimum": optimum,
    "align_rejection": rejection,
    "align_bookkeeping": bookkeeping,
}

ALIGN_LAWS = {name: one_piece(name, law) for name, law in _LAWS.items()}
