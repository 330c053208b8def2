"""What experiments on alignment measure: the numbers of D3 to D5, D7 to D9, D11, D14 to D16, and their tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from collegium.claims.align_setup import AlignSettings
from collegium.claims.experiment import PieceResult
from collegium.claims.pictures import CURVE

Done = Mapping[str, PieceResult]
Found = dict[str, float]
HALF = 0.5
NEAR = 0.25
"""The share of its distance at the beginning to which a policy is to come."""


@dataclass(frozen=True)
class Sweep:
    """What only the toy experiment varies: batches of D4, targets of D16, and how often each is aimed at again."""

    batches: Sequence[int]
    aims: Sequence[str]
    repeats: int


def measured(done: Done, *, settings: AlignSettings) -> Found:
    """Return the numbers of D3, D5, D7 and D14, of one seed."""
    return {
        **variance(done),
        **pointwise(done),
        **half(done),
        **forgetting(done, level=settings.level),
    }


def measured_sweep(done: Done, *, settings: AlignSettings, sweep: Sweep) -> Found:
    """Return the numbers of all claims that the toy experiment was made for, of one seed."""
    return {
        **measured(done, settings=settings),
        **speed(done, settings=settings, sweep=sweep),
        **divergences(done),
        "off_minus_on_policy": last(done, "gdc++ she 64", "kl_p_pi") - last(done, "dpg++ she", "kl_p_pi"),
        **prompts(done),
        **spread(done, sweep=sweep),
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


def texts_needed(done: Done, name: str, *, settings: AlignSettings) -> float:
    """Return after how many texts KL(p, pi) is a quarter of what it was, between looks by a line; all where never."""
    texts, far = curve(done, name, "texts"), curve(done, name, "kl_p_pi")
    wanted = NEAR * far[0]
    for place in range(1, len(far)):
        if far[place] <= wanted:
            step = (far[place - 1] - wanted) / (far[place - 1] - far[place])
            return texts[place - 1] + step * (texts[place] - texts[place - 1])
    return float(settings.samples)


def speed(done: Done, *, settings: AlignSettings, sweep: Sweep) -> Found:
    """Return D4 and its part of D16: texts needed with the baseline over those without."""

    def needed(name: str) -> float:
        return texts_needed(done, name, settings=settings)

    found = {
        f"texts_ratio_{batch}": needed(f"gdc++ she {batch}") / needed(f"gdc she {batch}") for batch in sweep.batches
    }
    first, *_, last_batch = sweep.batches
    found["small_minus_large_batch"] = found[f"texts_ratio_{first}"] - found[f"texts_ratio_{last_batch}"]
    for aim in sweep.aims:
        one, other = (
            sum(needed(f"{name} {aim} {repeat}") for repeat in range(sweep.repeats)) for name in ("gdc++", "gdc")
        )
        found[f"texts_ratio_{aim}"] = one / other
    return found


def pointwise(done: Done) -> Found:
    """Return D5: what a constraint costs distribution matching and reward maximisation."""
    nats, base = done["gdc she 64"]["nats"], done["gdc she 64"]["base"]
    return {
        "gdc_gap_closed": (last(done, "gdc she 64", "reached") - base) / (1 - base),
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


def forgetting(done: Done, *, level: float) -> Found:
    """Return D14: nats of general text by which the maximiser is worse, where the constraint is kept as often."""
    worst = general_at(done, "reinforce she", level)
    kept = {name: general_at(done, f"{name} she 64", level) for name in ("gdc", "gdc++")}
    return {f"reinforce_minus_{name}_general": worst - each for name, each in kept.items()}


def general_at(done: Done, name: str, level: float) -> float:
    """Return the nats of general text when so many texts first keep the constraint; at the end where never."""
    for reached, general in zip(curve(done, name, "reached"), curve(done, name, "general"), strict=True):
        if reached >= level:
            return general
    return curve(done, name, "general")[-1]


def spread(done: Done, *, sweep: Sweep) -> Found:
    """Return D15 and its part of D16: by how much less the end scatters with the baseline."""
    found: Found = {}
    for value in ("kl_p_pi", "reached"):
        by_aim = {}
        for aim in sweep.aims:
            one, other = (
                _deviation([last(done, f"{name} {aim} {repeat}", value) for repeat in range(sweep.repeats)])
                for name in ("gdc", "gdc++")
            )
            by_aim[aim] = one - other
        found |= {f"scatter_{value}_{aim}": each for aim, each in by_aim.items()}
        found[f"scatter_{value}"] = sum(by_aim.values()) / len(by_aim)
    return found


def _deviation(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).std())


def rows(done: Done, *, settings: AlignSettings) -> list[dict[str, Any]]:
    """Return a row a policy: where it ended, and its way."""
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
            "texts": texts_needed(done, name, settings=settings),
            CURVE: done[name]["curve"],
        }
        for name in settings.plans
    ]
