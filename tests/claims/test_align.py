"""The experiments on alignment: every plan can be moved, and the numbers say what they are said to."""

import functools
import math

import pytest

from collegium.align.draws import as_prompt
from collegium.align.features import regex
from collegium.align.target import Constraint, Moment
from collegium.claims.align_measure import forgetting, half, measured, pointwise, variance
from collegium.claims.align_setup import AlignSettings, Plan
from collegium.claims.align_small import PLANS, SMALL
from collegium.claims.align_toy import TOY
from collegium.claims.align_work import AlignWorld, align_experiment
from collegium.claims.align_world import notes
from collegium.claims.experiment import Experiment, Place
from collegium.claims.pictures import pictures
from collegium.experts import FitConfig
from collegium.experts.recipe import resolve
from collegium.testing.pico import pico_base

TINY = AlignSettings(
    PLANS,
    samples=32,
    pool=128,
    fresh=16,
    looks=2,
    tokens=6,
    batch=8,
    rate=1e-2,
    adapter=resolve(FitConfig(rank=2, layers="top:1", threads=1)),
    spread=8,
    parts=4,
)
WORLD = AlignWorld(
    {"she": Constraint(regex("[a-m]")), "gender": Moment(regex("[a-m]"), 0.5)},
    base=pico_base,
    prompts=lambda base, several: [as_prompt("Once", base)],
    general=lambda base, seed: notes(seed),
)


def tiny() -> Experiment:
    return align_experiment(TINY, WORLD, measure=functools.partial(measured, settings=TINY))


def test_every_policy_of_a_seed_is_moved_and_measured(tmp_path) -> None:
    experiment = tiny()
    place = Place(3, tmp_path, tmp_path, {}, lambda line: None)
    done = {piece: experiment.run(piece, place) for piece in experiment.pieces}
    found = experiment.measure(done)
    assert all(math.isfinite(value) for value in found.values())
    rows = experiment.rows(done)
    assert [row["policy"] for row in rows] == list(PLANS)
    drawn = pictures("small_align-0123abcd", [{"seed": 3, **row} for row in rows])
    assert {"claims-small_align-drift.svg", "claims-small_align-variance.svg"} <= drawn.keys()
    assert "REINFORCE" in drawn["claims-small_align-forgetting.svg"]
    looks = done["gdc++ she 64"]["curve"]
    assert [look["texts"] for look in looks] == [0, 16, 32]
    assert looks[0]["kl_pi_a"] == pytest.approx(0, abs=1e-5)
    assert {"variance dpg", "variance dpg++"} <= looks[0].keys()
    assert "variance dpg" not in done["gdc she 64"]["curve"][0]
    assert experiment.run("gdc she 64", place) == done["gdc she 64"]


def way(**values: list[float]) -> dict:
    looks = [dict(zip(values, each, strict=True)) for each in zip(*values.values(), strict=True)]
    return {"curve": looks, "nats": 2.0, "base": 0.1, "log_z": math.log(0.1)}


def test_the_numbers_are_those_of_the_claims() -> None:
    gdc = way(
        reached=[0.1, 0.5, 0.6, 0.7],
        kl_pi_a=[0.0, 1.0, 1.0, 1.0],
        entropy=[9.0, 8.0, 8.0, 8.0],
        general=[1.0, 1.1, 1.2, 1.3],
    )
    best = way(
        reached=[0.1, 1.0, 1.0, 1.0],
        kl_pi_a=[0.0, 5.0, 6.0, 7.0],
        entropy=[9.0, 3.0, 2.0, 1.0],
        general=[1.0, 2.0, 4.0, 8.0],
    )
    based = way(**{"variance dpg++": [0.9, 0.5, 0.2], "variance dpg": [1.0, 1.0, 1.0]})
    done = {"gdc she 64": gdc, "gdc++ she 64": gdc, "reinforce she": best}
    found = pointwise(done)
    assert found["gdc_gap_closed"] == pytest.approx(0.5 / 0.9)
    assert found["gdc_distance_beyond_bound"] == pytest.approx(-1.0)
    assert found["reinforce_distance_beyond_gdc"] == pytest.approx(5.0)
    assert found["reinforce_entropy_below_gdc"] == pytest.approx(6.0)
    assert forgetting(done, level=0.5)["reinforce_minus_gdc_general"] == pytest.approx(0.9)
    assert forgetting(done, level=0.8)["reinforce_minus_gdc_general"] == pytest.approx(0.7)
    ratios = variance({"gdc++ she 64": based})
    assert ratios["variance_ratio_later"] == pytest.approx(math.sqrt(0.1))
    assert ratios["variance_ratio_at_start_gap"] == pytest.approx(0.0)
    assert half({"gdc++ gender 0": gdc, "reinforce gender": best})["gdc_half_gap"] == pytest.approx(0.1)


def test_settings_are_what_the_ledger_says_of_them() -> None:
    assert (TOY.samples, TOY.rate, len(TOY.plans)) == (3200, 3e-3, 32)
    assert TOY.config(Plan("cdpg", "topic", prompts=True), 2).batch == 63
    assert SMALL.config(PLANS["gdc she 64"], 1).updates == SMALL.samples // SMALL.batch
