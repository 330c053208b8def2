"""Laws of streams: isolation, no forgetting, the oracle, what each method leaves alone, and resuming."""

from dataclasses import replace

import pytest
import torch
from small_streams import QUICK

from collegium.core.errors import ConfigError, DataError
from collegium.data.synthetic_tasks import synthetic_tasks
from collegium.tasks.continual import (
    METHODS,
    Knowledge,
    Scene,
    accuracies,
    chosen_methods,
    learn_next,
    make_pool,
    stream_metrics,
)
from collegium.tasks.continual.alone import alone
from collegium.tasks.continual.attending import attention, kept_apart
from collegium.tasks.continual.composing import Composition, outputs
from collegium.tasks.continual.growing import cosine_weights, overlap
from collegium.tasks.continual.knowledge import adapter_tensors
from collegium.tasks.continual.nearest import nearest_task
from collegium.tasks.continual.routing import gate_noise, gate_weights, spread
from collegium.tasks.continual.scene import remembered

GROWING = [name for name, method in METHODS.items() if method.isolated or name in ("olora", "mocl", "progprompt")]


def through(scene, name, order, *, stage=None):
    for task in order:
        stage = learn_next(scene, METHODS[name], task, stage)
    assert stage is not None
    return stage


def weights_on(stage, rows):
    weights = stage.composition.weigh(rows)
    assert weights is not None
    return weights


def equal(one, other):
    mine, others = adapter_tensors(one), adapter_tensors(other)
    return mine.keys() == others.keys() and all(torch.equal(mine[name], others[name]) for name in mine)


def fresh(scene, **changed):
    return replace(scene, once={}, config=replace(scene.config, **changed))


def test_an_adapter_trained_alone_does_not_depend_on_the_order_of_tasks(scene):
    """Claim L1, to the last bit."""
    one, other = fresh(scene), fresh(scene)
    for task in (0, 1, 2):
        alone(one, task)
    for task in (2, 0, 1):
        alone(other, task)
    for task in range(3):
        assert equal(*(next(iter(alone(each, task).adapters.values())) for each in (one, other)))
    assert not equal(alone(one, 0).adapters["task1"], alone(one, 1).adapters["task2"])


def test_an_adapter_that_went_on_is_told_from_one_trained_alone(words):
    """The law of isolation rejects a learner that begins where the task before ended."""
    first = through(words, "sequential", (0, 1)).knowledge.adapters["shared"]
    assert not equal(first, through(words, "sequential", (1,)).knowledge.adapters["shared"])


@pytest.mark.parametrize("name", ["sequential", "replay", "ewc", "lwf", "joint", "olora", "l2r-active"])
def test_the_first_task_is_learnt_as_alone(scene, name):
    """It is fitted once for all methods: nothing is there yet to hold on to."""
    own, first = alone(scene, 1), through(scene, name, (1,)).knowledge
    assert equal(own.adapters["task2"], next(iter(first.adapters.values())))
    assert torch.equal(own.heads["task2"].weight, first.heads["task2"].weight)


@pytest.mark.parametrize("name", [*GROWING, "sapt-real", "sapt-none", "l2r-active"])
def test_earlier_adapters_stay_as_they_were(scene, name):
    """Claim L2, to the last bit, of every method that has an adapter a task."""
    if name == "l2r-active":
        scene = fresh(scene)
    before = through(scene, name, (0, 1))
    after = through(scene, name, (2,), stage=before)
    for adapter in before.knowledge.adapters:
        assert equal(before.knowledge.adapters[adapter], after.knowledge.adapters[adapter])
        assert torch.equal(before.knowledge.heads[adapter].weight, after.knowledge.heads[adapter].weight)
    assert set(after.knowledge.adapters) == {"task1", "task2", "task3"}


@pytest.mark.parametrize("name", ["sequential", "replay", "ewc", "lwf"])
def test_one_adapter_for_all_tasks_moves(words, name):
    before = through(words, name, (0,))
    moved = through(words, name, (1, 2), stage=before)
    assert not equal(before.knowledge.adapters["shared"], moved.knowledge.adapters["shared"])


def test_the_oracle_says_what_each_adapter_says_alone(scene):
    last = through(scene, "oracle", (0, 1, 2))
    for task, lesson in enumerate(scene.lessons):
        own = alone(scene, task)
        one = outputs(scene, (task,), own, composition=Composition((lesson.name,)), rows=lesson.test)
        every = outputs(
            scene, (0, 1, 2), last.knowledge, composition=METHODS["oracle"].compose(scene, (0, 1, 2), last.knowledge),
            rows=lesson.test,
        )  # fmt: skip
        mine = scene.columns((0, 1, 2)).owners == task
        torch.testing.assert_close(every[:, mine], one, atol=1e-5, rtol=1e-5)


def test_routers_are_fitted_and_nothing_else_moves(scene):
    stage = through(scene, "l2r", (0, 1))
    extra = stage.knowledge.extra
    assert extra["router weight"].abs().sum() > 0
    for task in (0, 1):
        assert equal(stage.knowledge.adapters[f"task{task + 1}"], alone(scene, task).adapters[f"task{task + 1}"])
    weights = weights_on(stage, scene.lessons[0].test)
    blocks = extra["router blocks"].tolist()
    assert weights.shape == (len(scene.base.blocks), len(scene.lessons[0].test), 1, 2)
    assert ((weights[blocks] > 0) & (weights[blocks] < 1)).all()
    assert not weights[[each for each in range(len(scene.base.blocks)) if each not in blocks]].any()


def test_merged_and_weighted_compositions_differ_and_agree_where_one_adapter_speaks(words):
    both = through(words, "oracle", (0, 1))
    rows, names = words.lessons[0].test, ("task1", "task2")

    def said(weights, merged):
        plan = Composition(names, lambda part: torch.tensor(weights).expand(len(part), 1, 2), merged=merged)
        return outputs(words, (0, 1), both.knowledge, composition=plan, rows=rows)

    torch.testing.assert_close(said([1.0, 0.0], merged=True), said([1.0, 0.0], merged=False), atol=1e-5, rtol=1e-5)
    assert (said([0.5, 0.5], merged=True) - said([0.5, 0.5], merged=False)).abs().max() > 1e-4


def test_gates():
    router = {
        "router weight": torch.zeros(2, 3, 5), "router bias": torch.zeros(2, 3),
        "router shift": torch.zeros(5), "router scale": torch.ones(5),
    }  # fmt: skip
    queries = torch.randn(4, 5)
    assert torch.equal(gate_weights(router, queries, 1.0), torch.full((2, 4, 3), 0.5))
    assert torch.allclose(gate_weights(router, queries, 1.0, softmax=True), torch.full((2, 4, 3), 1 / 3))
    router["router bias"] = torch.tensor([[9.0, -9.0, 0.0]] * 2)
    cold = gate_weights(router, queries, 1e-3)
    assert torch.equal(cold[..., 0], torch.ones(2, 4))
    assert torch.equal(cold[..., 1], torch.zeros(2, 4))
    assert spread(cold, 4, [1, 3]).shape == (4, 4, 1, 3)
    draw = gate_noise((20_000,), torch.Generator().manual_seed(0), softmax=False)
    assert abs(float(draw.mean())) < 0.05  # logistic: mean 0, variance pi^2 / 3
    assert abs(float(draw.var()) - 3.29) < 0.1


def test_attention_is_a_distribution_and_reflection_costs_nothing_where_nothing_moved():
    embedded, down, up, keys = torch.randn(3, 8), torch.randn(4, 8), torch.randn(8, 4), torch.randn(5, 8)
    alpha = attention(embedded, down, up, keys)
    torch.testing.assert_close(alpha.sum(-1), torch.ones(3))
    assert float(kept_apart(alpha, alpha)) == pytest.approx(0, abs=1e-6)
    assert float(kept_apart(alpha, alpha.roll(1, dims=-1))) > 0


def test_keys_weigh_by_angle_alone():
    queries, keys = torch.randn(3, 8), torch.randn(4, 8)
    torch.testing.assert_close(cosine_weights(queries, keys), cosine_weights(3 * queries, keys * 0.1))


def test_right_angles_cost_nothing(words):
    adapter = words.fresh()
    other = {path: replace(part, a=torch.zeros_like(part.a)) for path, part in adapter.items()}
    assert overlap([other], adapter).item() == 0
    assert overlap([adapter], adapter).item() > 0


def test_the_nearest_mean_is_that_of_the_tasks_own_metric():
    """Mahalanobis and Euclidean distances disagree where one direction varies much."""
    means = [torch.tensor([[0.0, 0.0]]), torch.tensor([[4.0, 0.0]])]
    query = torch.tensor([[3.0, 0.0]])
    assert nearest_task(query, means, torch.eye(2)).item() == 1
    tilted = torch.tensor([[3.0, 9.0]])
    assert nearest_task(tilted, means, torch.linalg.inv(torch.tensor([[1.0, 2.9], [2.9, 9.0]]))).item() == 0


def test_the_memory_is_balanced_and_of_rows_learnt_from(scene):
    rows = remembered(scene, (0, 2))
    labels = [scene.pool.labels[row] for row in rows.tolist()]
    assert {label: labels.count(label) for label in labels} == {"bad": 4, "good": 4, "next": 4, "past": 4}
    assert set(rows.tolist()) <= {*scene.lessons[0].train.tolist(), *scene.lessons[2].train.tolist()}


def test_what_is_known_comes_back_from_tensors(scene):
    known = through(scene, "l2r", (0, 1)).knowledge
    back = Knowledge.from_tensors(known.to_tensors(), like=scene.fresh(), adapters=["task1", "task2"],
                                  heads=["task1", "task2"])  # fmt: skip
    assert {name: each.tolist() for name, each in back.to_tensors().items()} == {
        name: each.tolist() for name, each in known.to_tensors().items()
    }


def test_joint_is_one_for_all_orders(words):
    one, other = (through(fresh(words), "joint", order).knowledge for order in ((0, 1), (1, 0)))
    assert equal(one.adapters["shared"], other.adapters["shared"])


def test_labels_of_one_name_are_one_answer(words):
    """In setup `class` a text of task 1 may be answered by task 2's head: the name is what counts."""
    columns = words.columns((0, 1))
    assert columns.right(["good"]).tolist() == [[False, True, False, True]]
    assert words.allowed(words.lessons[0].test[:1], columns, alone=False).all()
    told = fresh(words, setup="task")
    assert told.allowed(words.lessons[0].test[:1], columns, alone=False).tolist() == [[True, True, False, False]]


def test_metrics_of_known_matrices():
    kept = stream_metrics(((0.8,), (0.8, 0.6), (0.8, 0.6, 0.7)))
    assert (kept.average_accuracy, kept.forgetting, kept.backward_transfer) == (0.7, 0.0, 0.0)
    lost = stream_metrics(((0.8,), (0.4, 0.6), (0.2, 0.5, 0.7)))
    assert (round(lost.forgetting, 6), round(lost.backward_transfer, 6)) == (0.35, -0.35)
    assert stream_metrics(((0.8,),)).forgetting == 0


def test_prefixes_stand_behind_each_other(words):
    """ProgPrompt judges a task with the prefixes up to its own alone."""
    told = fresh(words, setup="task")
    stage = through(told, "progprompt", (0, 1))
    weights = weights_on(stage, torch.cat([told.lessons[0].test[:1], told.lessons[1].test[:1]]))
    assert weights[:, 0].tolist() == [[1.0, 0.0], [1.0, 1.0]]


def test_arrow_and_uniform_and_sapt_speak(words):
    for name in ("arrow", "uniform", "sapt"):
        stage = through(words, name, (0, 1))
        assert all(0 <= each <= 1 for each in accuracies(words, stage))


def test_mistakes_are_told(bases, scene, tasks):
    with pytest.raises(ConfigError, match="needs each text's task"):
        chosen_methods(("progprompt",), "class")
    with pytest.raises(ConfigError, match="no method 'l2'"):
        chosen_methods(("l2",), "class")
    with pytest.raises(ConfigError, match="each once"):
        chosen_methods(("l2r", "l2r"), "class")
    empty = fresh(scene, memory=0)
    with pytest.raises(ConfigError, match="memory, which is empty"):
        through(empty, "l2r", (0,))
    with pytest.raises(DataError, match="each once"):
        make_pool(scene.base, [tasks[0], tasks[0]], scene.config)
    odd = replace(tasks[0], test=(*tasks[0].test, replace(tasks[0].test[0], label="other")))
    with pytest.raises(DataError, match="label 'other', which none"):
        make_pool(scene.base, [odd], replace(scene.config, test_rows=0))


def test_an_encoder_writes_no_texts(bases, pools):
    pool, lessons = pools["heads"]
    scene = Scene(bases["heads"], QUICK, pool, lessons, 1e-3)
    with pytest.raises(ConfigError, match="does not write"):
        through(scene, "sapt", (0,))


def test_synthetic_tasks_share_what_they_say_they_share():
    one, two, three = synthetic_tasks((0, 0, 1), rows=60)
    assert one.labels == two.labels != three.labels
    vocabulary = [{word for row in task.train for word in row.text.split()} for task in (one, two, three)]
    assert "superb" in vocabulary[0] & vocabulary[1] - vocabulary[2]
    with pytest.raises(DataError, match="families"):
        synthetic_tasks((7,))
