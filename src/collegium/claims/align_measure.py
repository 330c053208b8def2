"""What the toy experiment on alignment measures: the numbers of D3 to D5, D7 to D9, D11, D14 to D16, and its table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from collegium.claims.align_setup import BATCHES, HALF, PLANS, REPEATS, SAMPLES, THREE
from collegium.claims.experiment import PieceResult

Done = Mapping[str, PieceResult]
Found = dict[str, float]
NEAR = 0.25
"""The share of its distance at the beginning to which a policy is to come."""
FULL = 0.9
"""How often a constraint is kept where policies are compared at equal alignment."""


def measured(done: Done) -> Found:
    """Return the numbers of all claims that the experiment was made for, of one seed."""
    return {
        **variance(done),
        **speed(done),
        **pointwise(done),
        **half(done),
        **divergences(done),
        "off_minus_on_policy": last(done, "gdc++ she 64", "kl_p_pi") - last(done, "dpg++ she", "kl_p_pi"),
        **prompts(done),
        **forgetting(done),
        **spread(done),
    }


def curve(done: Done, name: str, value: str) -> list[float]:
    """Return a number along a policy's way."""
    return [look[value] for look in done[name]["curve"]]


def last(done: Done, name: str, value: str) -> float:
    """Return a number at the end of a policy's way, the mean of its last three looks."""
    own = curve(done, name, value)[-3:]
    return sum(own) / len(own)


def variance(done: Done) -> Found:
    """Return D3: the variance with the baseline over that without, at the start and on the geometric mean after it."""
    based, bare = (curve(done, "gdc++ she 64", f"variance {name}") for name in ("dpg++", "dpg"))
    ratios = [one / other for one, other in zip(based, bare, strict=True)]
    start = 1 - math.exp(done["gdc++ she 64"]["log_z"])
    later = [math.log(ratio) for ratio in ratios[1:]]
    return {
        "variance_ratio_later": math.exp(sum(later) / len(later)),
        "variance_ratio_at_start_gap": abs(ratios[0] - start),
        "variance_ratio_largest": max(ratios[1:]),
    }


def texts_needed(done: Done, name: str) -> float:
    """Return after how many texts KL(p, pi) is a quarter of what it was, between looks by a line; all where never."""
    texts, far = curve(done, name, "texts"), curve(done, name, "kl_p_pi")
    wanted = NEAR * far[0]
    for place in range(1, len(far)):
        if far[place] <= wanted:
            step = (far[place - 1] - wanted) / (far[place - 1] - far[place])
            return texts[place - 1] + step * (texts[place] - texts[place - 1])
    return float(SAMPLES)


def speed(done: Done) -> Found:
    """Return D4 and its part of D16: texts needed with the baseline over those without."""
    found = {
        f"texts_ratio_{batch}": texts_needed(done, f"gdc++ she {batch}") / texts_needed(done, f"gdc she {batch}")
        for batch in BATCHES
    }
    found["small_minus_large_batch"] = found[f"texts_ratio_{BATCHES[0]}"] - found[f"texts_ratio_{BATCHES[-1]}"]
    for aim in THREE:
        one, other = (
            sum(texts_needed(done, f"{name} {aim} {repeat}") for repeat in range(REPEATS)) for name in ("gdc++", "gdc")
        )
        found[f"texts_ratio_{aim}"] = one / other
    return found


def pointwise(done: Done) -> Found:
    """Return D5: what a constraint costs distribution matching and reward maximisation."""
    nats = done["gdc she 64"]["nats"]
    return {
        "gdc_reached": last(done, "gdc she 64", "reached"),
        "gdc_distance_beyond_bound": last(done, "gdc she 64", "kl_pi_a") - nats,
        "reinforce_reached": last(done, "reinforce she", "reached"),
        "reinforce_distance_beyond_gdc": last(done, "reinforce she", "kl_pi_a") - last(done, "gdc she 64", "kl_pi_a"),
        "reinforce_entropy_below_gdc": last(done, "gdc she 64", "entropy") - last(done, "reinforce she", "entropy"),
    }


def half(done: Done) -> Found:
    """Return D7: how far from a half the two ways end."""
    return {
        "gdc_half_gap": abs(last(done, "gdc++ gender 0", "reached") - HALF),
        "reinforce_half": last(done, "reinforce gender", "reached"),
    }


def divergences(done: Done) -> Found:
    """Return D8: diversity and alignment by divergence."""
    forward, middle, reverse = (f"{name} tilt" for name in ("forward_kl", "jensen_shannon", "reverse_kl"))
    found = {}
    for label, one, other in (("forward_minus_js", forward, middle), ("js_minus_reverse", middle, reverse)):
        found[f"{label}_distinct"] = done[one]["distinct_2"] - done[other]["distinct_2"]
        found[f"{label}_self_bleu"] = done[one]["self_bleu_5"] - done[other]["self_bleu_5"]
        found[f"{label}_reached"] = last(done, one, "reached") - last(done, other, "reached")
    return found


def prompts(done: Done) -> Found:
    """Return D11: what a partition for each prompt gains, on the prompt that gains least and on average."""
    own, one = done["cdpg topic"]["by_prompt"], done["dpg++ topic"]["by_prompt"]
    return {
        "cdpg_minus_dpg_worst": min(own) - min(one),
        "cdpg_minus_dpg_mean": sum(own) / len(own) - sum(one) / len(one),
    }


def forgetting(done: Done) -> Found:
    """Return D14: nats of general text by which the maximiser is worse, where the constraint is kept as often."""
    worst = general_at(done, "reinforce she")
    return {f"reinforce_minus_{name}_general": worst - general_at(done, f"{name} she 64") for name in ("gdc", "gdc++")}


def general_at(done: Done, name: str) -> float:
    """Return the nats of general text when nine of ten texts first keep the constraint; at the end where never."""
    for reached, general in zip(curve(done, name, "reached"), curve(done, name, "general"), strict=True):
        if reached >= FULL:
            return general
    return curve(done, name, "general")[-1]


def spread(done: Done) -> Found:
    """Return D15 and its part of D16: by how much less the end scatters with the baseline."""
    found: Found = {}
    for value in ("kl_p_pi", "reached"):
        by_aim = {}
        for aim in THREE:
            one, other = (
                _deviation([last(done, f"{name} {aim} {repeat}", value) for repeat in range(REPEATS)])
                for name in ("gdc", "gdc++")
            )
            by_aim[aim] = one - other
        found |= {f"scatter_{value}_{aim}": each for aim, each in by_aim.items()}
        found[f"scatter_{value}"] = sum(by_aim.values()) / len(by_aim)
    return found


def _deviation(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).std())


def rows(done: Done) -> list[dict[str, Any]]:
    """Return a row a policy: where it ended."""
    return [
        {
            "policy": name,
            "reached": last(done, name, "reached"),
            "KL(p, pi)": last(done, name, "kl_p_pi"),
            "KL(pi, a)": last(done, name, "kl_pi_a"),
            "bound": done[name]["nats"],
            "entropy": last(done, name, "entropy"),
            "general": last(done, name, "general"),
            "distinct-2": done[name]["distinct_2"],
            "self-BLEU-5": done[name]["self_bleu_5"],
            "texts": texts_needed(done, name),
        }
        for name in PLANS
    ]
