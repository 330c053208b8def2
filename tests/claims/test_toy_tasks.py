"""The claims on tasks learnt together measure what they say."""

import dataclasses

import pytest

from collegium.claims.experiment import Place
from collegium.claims.ledger import read_ledger
from collegium.claims.multitask import TUNED, TaskWork, tasks_experiment
from collegium.claims.multitask_measure import gate_map, harm, scarce_gain
from collegium.claims.multitask_world import CONFIG, TaskSettings, world

QUICK = TaskSettings(
    domains=((0, 0, 1),),
    rows=(16, 8, 16),
    pool=(0, 1, 2),
    pool_rows=(16, 16, 16),
    new=(0, 1),
    kin=(0, 1),
    few=8,
    texts=40,
    steps=1,
    draws=1,
    rates=(1e-2,),
    whole_rates=(1e-3,),
    config=dataclasses.replace(CONFIG, passes=1.0),
)


def test_a_world_has_as_many_texts_of_each_task_as_asked_for():
    made = world(QUICK, 3)
    assert [len(task.train) for task in made.domains[0]] == [16, 8, 16]
    assert [len(task.train) for task in (*made.pool, *made.new)] == [16, 16, 16, 8, 8]
    kin, stranger = made.domains[0][1:]
    assert kin.choices == made.domains[0][0].choices
    assert stranger.choices != kin.choices
    names = [task.name for task in (*made.domains[0], *made.pool, *made.new)]
    assert len(set(names)) == len(names)


def test_gates_are_judged_by_their_largest_rival_and_by_kin():
    found = gate_map([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.2, 0.6]], (0, 0, 1))
    assert found["alpha_own_minus_largest_other"] == pytest.approx((0.3 - 0.1 + 0.4) / 3)
    assert found["alpha_kin_minus_strange"] == pytest.approx(0.4 - 0.6 / 4)


def test_gain_and_harm_are_counted_on_the_right_tasks():
    found = {"alter": {"accuracy": [0.8, 0.9, 0.7]}, "separate": {"accuracy": [0.7, 0.5, 0.7]}}
    assert scarce_gain(found, (9, 3, 9)) == pytest.approx(0.4 - 0.05)
    done = {"without.dense": {"accuracy": [0.9, 0.8]}, "pool.dense": {"accuracy": [0.7, 0.8, 0.1]}}
    assert harm(done, "dense") == pytest.approx(0.1)


@pytest.mark.recipe
def test_the_experiment_on_tasks_gives_all_that_its_claims_ask_for(tmp_path):
    experiment, done = tasks_experiment(QUICK), {}
    work = TaskWork(QUICK)
    for piece in (*experiment.once, *experiment.pieces):
        done[piece] = work.run(piece, Place(3, tmp_path, tmp_path, done, lambda line: None))
    found = experiment.measure(done)
    wanted = {part.metric for claim in read_ledger() if claim.experiment == "toy_tasks" for part in claim.parts}
    assert wanted <= set(found)
    assert {row["method"] for row in experiment.rows(done)} >= {*TUNED, "base", "separate"}
    sizes = {name: each["parameters"] for name, each in done["domain.0"].items()}
    assert sizes["alter"] == sizes["one-stage"]
    assert abs(sizes["shared"] - sizes["alter"]) / sizes["alter"] < 0.02
    assert done["pool.dense"]["parameters"] < done["pool.tamoe"]["parameters"]
