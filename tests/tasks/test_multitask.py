"""Many tasks together: what two stages leave alone, what is learnt, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch

from collegium.compose import open_task_mixture
from collegium.core.errors import BaseModelError, ConfigError, DataError, TrainingError
from collegium.data import LabelledText, TaskRow, text_task
from collegium.data.text_tasks import asked_for_labels
from collegium.library import Library
from collegium.models import Group, RowPlan
from collegium.rewards.fit import adapter_weights
from collegium.rewards.more import attached_as
from collegium.tasks.multitask import (
    METHODS,
    MultitaskConfig,
    Workshop,
    alpha_matrix,
    base_quality,
    drawn_routes,
    judged,
    learn_by_route,
    learn_dense,
    lessons_of,
    quality_of,
    stage_shares,
    task_accuracy,
    task_expert,
)
from collegium.tasks.multitask import workshop as workshop_module
from collegium.tasks.multitask.encoding import RowEncoder, encode_answers, scored_tokens
from collegium.tasks.multitask.lessons import floor_of
from collegium.tasks.multitask.objective import row_nats
from collegium.tasks.multitask.parts import adapter_size, task_adapter
from collegium.testing.pico import random_base

CONFIG = MultitaskConfig(
    text_tokens=24,
    train_rows=24,
    dev_rows=4,
    test_rows=8,
    passes=1.0,
    layers="top:1",
    rank=4,
    gate_size=3,
    task_size=3,
    learning_rate=1e-2,
)


def letters(name, good, many=60):
    """A task of prompts that all tasks share, and answers of its own."""
    return text_task(name, [TaskRow(f"say {n}:", f" {good}{n % 2}") for n in range(many)])


def moods(many=60):
    rows = [LabelledText(f"day {n}{'x' if n % 2 else 'y'}", "glad" if n % 2 else "sad") for n in range(many)]
    return asked_for_labels("mood", rows)


TASKS = {"a": letters("a", "aaaa"), "b": letters("b", "bbbb"), "c": letters("c", "cc"), "mood": moods()}


def shop_of(base, *names, **changes):
    config = replace(CONFIG, **changes)
    return Workshop(lessons_of(base, [TASKS[name] for name in names], config))


def bits(adapter):
    return {name: each.clone() for name, each in adapter_weights(adapter).items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# -- stage 1 ------------------------------------------------------------------------------------------------------


def isolated(base):
    """Return task a's adapter, trained in several companies."""
    return [bits(shop_of(base, *names).alone()["a"]) for names in (("a", "b"), ("b", "a"), ("mood", "c", "a"))]


def test_an_adapter_is_the_same_in_any_company_and_order(pico):
    first, *others = isolated(pico)
    assert all(equal(first, each) for each in others)
    fresh = bits(shop_of(pico, "a", "b", passes=0.01, learning_rate=1e-9).alone()["a"])
    assert not equal(first, fresh)  # something was learnt


def test_adapters_whose_order_depends_on_their_place_are_rejected(pico, monkeypatch):
    count = iter(range(100))
    monkeypatch.setattr(workshop_module, "derive_seed", lambda seed, *names: next(count))
    first, *others = isolated(pico)
    assert not all(equal(first, each) for each in others)


def test_kept_states_change_nothing(pico):
    kept, read = (shop_of(pico, "a", "mood", states_mb=limit) for limit in (64, 0))
    assert all(each is not None for each in kept.lessons.train.states)
    assert all(each is None for each in read.lessons.train.states)
    for name in ("a", "mood"):
        assert equal(bits(kept.alone()[name]), bits(read.alone()[name]))
    assert torch.allclose(
        kept.lessons.train.prompt_states(pico, 1), read.lessons.train.prompt_states(pico, 1), atol=1e-5
    )


def test_an_adapters_own_rows_are_asked_as_it_was_trained(pico):
    shop = shop_of(pico, "a", "b")
    pool, rows = shop.lessons.test, torch.arange(3)
    learnt = METHODS["separate"].learn(shop)
    with attached_as(pico, learnt.adapters):
        plan = learnt.plan(pool.tasks[rows], lambda: None)
        together, _ = row_nats(pico, pool, rows, plan)
        alone, _ = row_nats(pico, pool, rows, RowPlan.one(shop.keys[0]))
        other, _ = row_nats(pico, pool, rows, RowPlan.one(shop.keys[1]))
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(together, other, atol=1e-3)


# -- stage 2 ------------------------------------------------------------------------------------------------------


def test_the_second_stage_leaves_base_and_adapters_as_they_were(pico):
    shop = shop_of(pico, "a", "b", inter_share=1.0)
    before = {name: bits(adapter) for name, adapter in shop.alone().items()}
    base = {name: each.clone() for name, each in pico.model.state_dict().items()}
    gates = shop.gates()
    assert all(gate.query.abs().sum() > 0 for gate in gates.gates.values())
    assert all(equal(before[name], bits(adapter)) for name, adapter in shop.alone().items())
    assert equal(base, dict(pico.model.state_dict()))
    assert not pico.attached or all(not name.startswith(".task") for name in pico.attached)


def test_a_second_stage_that_trains_adapters_is_rejected(pico, monkeypatch):
    shop = shop_of(pico, "a", "b", inter_share=1.0)
    before = {name: bits(adapter) for name, adapter in shop.alone().items()}
    for adapter in shop.alone().values():
        for each in adapter_weights(adapter).values():
            each.requires_grad_(True)
    fit = workshop_module.Workshop.fit

    def careless(self, label, plan, weights, **rest):
        more = {f"{n} {k}": each for n, a in self.alone().items() for k, each in adapter_weights(a).items()}
        return fit(self, label, plan, {**weights, **more}, **rest)

    monkeypatch.setattr(workshop_module.Workshop, "fit", careless)
    shop.gates()
    assert not all(equal(before[name], bits(adapter)) for name, adapter in shop.alone().items())


def test_gates_begin_even_and_their_weights_sum_to_one(pico):
    for share, even in ((0.0, True), (1.0, False)):
        shop = shop_of(pico, "a", "b", "c", inter_share=share, passes=2.0)
        learnt = METHODS["alter"].learn(shop)
        with attached_as(pico, learnt.adapters):
            alpha = alpha_matrix(shop.lessons, learnt.plan)
        assert torch.allclose(alpha.sum(1), torch.ones(3), atol=1e-5)
        assert torch.allclose(alpha, torch.full((3, 3), 1 / 3), atol=1e-5) is even


def test_a_task_given_is_told_from_others_that_ask_alike(pico):
    """Prompts of a and b are the same: what is answered depends on the task that gates are told alone."""
    shop = shop_of(pico, "a", "b", inter_share=1.0, passes=6.0, layers="all", learning_rate=3e-2)
    told, plain = judged(shop, METHODS["alter"].learn(shop)), base_quality(shop)
    assert all(told.perplexity[name] < 0.7 * plain.perplexity[name] for name in ("a", "b"))
    learnt = METHODS["alter"].learn(shop)
    with attached_as(pico, learnt.adapters):
        alpha = alpha_matrix(shop.lessons, learnt.plan)
    assert alpha[0, 0] > alpha[1, 0]
    swapped = replace(learnt, plan=lambda tasks, states: learnt.plan(1 - tasks, states))
    wrong = judged(shop, swapped)
    assert all(wrong.perplexity[name] > told.perplexity[name] for name in ("a", "b"))


def test_the_router_tells_prompts_apart(pico):
    shop = shop_of(pico, "a", "mood")
    assert min(task_accuracy(shop.lessons, shop.router()).values()) > 0.9
    same = shop_of(pico, "a", "b")
    found = task_accuracy(same.lessons, same.router())
    assert sum(found.values()) <= 1.0 + 1e-6  # of equal prompts no more than a guess can be right


# -- methods ------------------------------------------------------------------------------------------------------


def test_every_method_learns_the_same_rows_with_as_many_numbers(pico):
    shop = shop_of(pico, "a", "mood", inter_share=0.5)
    plain, sizes = base_quality(shop), {}
    for name, method in METHODS.items():
        learnt = method.learn(shop)
        found = judged(shop, learnt)
        sizes[name] = learnt.parameters
        assert set(found.accuracy) == {"a", "mood"}
        assert found.accuracy["a"] is None
        assert 0 <= found.accuracy["mood"] <= 1
        assert sum(map(math.log, found.perplexity.values())) < sum(map(math.log, plain.perplexity.values())), name
    step = sizes["shared"] / 15  # a rank's numbers, more than enough
    assert abs(sizes["shared"] - sizes["alter"]) <= step
    assert sizes["one-stage"] == sizes["alter"] == sizes["tamoe"]
    assert sizes["moe"] == sizes["tamoe"] - 2 * CONFIG.task_size
    assert len(shop.stages["shared"].history.steps) == len(shop.stages["one-stage"].history.steps)
    assert len(shop.stages["shared"].history.steps) == shop.lessons.joint_steps
    shares = stage_shares(shop)
    assert shares["inter_parameters"] + shares["intra_parameters"] == sizes["alter-routed"]


def test_a_dense_adapter_is_as_wide_as_a_sparse_gate_keeps(pico):
    shop = shop_of(pico, "a", "b", "c", passes=0.1)
    narrow, wide = (adapter_size(task_adapter(pico, CONFIG, rank=each)) for each in (CONFIG.rank, 2 * CONFIG.rank))
    assert narrow < learn_dense(shop).parameters == wide
    assert len(shop.stages["dense"].history.steps) == shop.lessons.joint_steps


def test_a_new_task_takes_a_route_that_is_there_and_leaves_the_mixture_as_it_was(pico):
    learnt = METHODS["tamoe"].learn(shop_of(pico, "a", "b", "c"))
    before = {key: bits(adapter) for key, adapter in learnt.adapters.items()}
    vectors = learnt.gates.vectors.detach().clone()
    shop = shop_of(pico, "mood", "a", passes=2.0)
    own = learn_by_route(shop, learnt, vectors[[2, 0]], label="related")
    assert all(equal(before[key], bits(adapter)) for key, adapter in learnt.adapters.items())
    assert torch.equal(vectors, learnt.gates.vectors)
    assert any(not equal(before[key], bits(adapter)) for key, adapter in own.adapters.items())
    other = learn_by_route(shop, learnt, drawn_routes(2, vectors, torch.Generator().manual_seed(1)), label="random")
    assert judged(shop, own).perplexity != judged(shop, other).perplexity
    assert judged(shop, own).perplexity["mood"] < base_quality(shop).perplexity["mood"]


def test_a_gate_that_is_told_nothing_of_tasks_is_alike_for_all(pico):
    shop = shop_of(pico, "a", "b")
    learnt = METHODS["moe"].learn(shop)
    pool, rows = shop.lessons.test, torch.arange(2)
    with attached_as(pico, learnt.adapters):
        one, two = (row_nats(pico, pool, rows, learnt.plan(torch.full((2,), task), lambda: None))[0] for task in (0, 1))
    assert torch.equal(one, two)


# -- what is counted ----------------------------------------------------------------------------------------------


def test_answers_alone_count(pico):
    shop = shop_of(pico, "a", "mood")
    pool, rows = shop.lessons.test, torch.arange(4)
    batch = pool.texts.take(rows)
    said = pico.logprobs(batch.tokens)
    for number in range(4):
        places = range(int(batch.prompts[number]), int(batch.lengths[number]))
        wanted = -sum(float(said[number, place - 1, batch.tokens[number, place]]) for place in places)
        nats, count = row_nats(pico, pool, rows[number : number + 1], RowPlan((Group(),)))
        assert (float(nats), int(count)) == (pytest.approx(wanted, abs=1e-3), len(places))


def test_the_answer_of_least_nats_is_chosen_of_those_that_compete(pico):
    rows = [TaskRow("p1", " x", (" x", " y")), TaskRow("p2", " y", (" x", " y")), TaskRow("p3", " z", (" x", " y"))]
    answers = encode_answers(rows, RowEncoder(pico, 16))
    assert answers.rows == 3
    assert answers.right.tolist() == [True, False, True, False, True, False, False]
    assert answers.competes.tolist() == [True, True, True, True, False, True, True]
    counts = scored_tokens(answers.texts).sum(1)
    nats = torch.tensor([1.0, 2.0, 3.0, 1.0, 0.1, 5.0, 6.0])
    found = quality_of(("t",), [answers], [nats], [counts])
    assert found.accuracy["t"] == pytest.approx(1 / 3)  # the first alone: of the third no answer that competes is right
    assert found.perplexity["t"] == pytest.approx(math.exp((1.0 + 3.0 + 0.1) / int(counts[answers.right].sum())))


def test_prompts_keep_their_last_tokens_and_are_counted(pico):
    encoder = RowEncoder(pico, 16)
    row = TaskRow("a long prompt of many letters", " yes", (" yes", " no, by no means at all"))
    both = encoder(row, row.choices)
    assert both[0].prompt == both[1].prompt
    assert pico.tokenizer.decode(both[0].prompt) == " letters"
    assert all(each.cut and len(each.tokens) <= 16 for each in both)
    assert both[0].completion[-1] == pico.tokenizer.eos_token_id
    lessons = lessons_of(pico, [TASKS["a"], TASKS["mood"]], replace(CONFIG, text_tokens=8))
    assert lessons.cut["mood"] == sum(lessons.rows[1:]) + 4 + 8
    assert shop_of(pico, "a", "mood").lessons.cut == {"a": 0, "mood": 0}


def test_the_floor_is_the_commonest_answer_or_a_coin():
    assert floor_of(TASKS["a"]) is None
    assert 0.3 < floor_of(TASKS["mood"]) < 0.7
    rows = tuple(TaskRow(f"{n}", " a", (" a", f" {n}", f" {n}{n}")) for n in range(4))
    assert floor_of(replace(TASKS["a"], train=rows, test=rows)) == pytest.approx(1 / 3)


# -- the expert ---------------------------------------------------------------------------------------------------


def test_the_expert_says_in_a_library_what_was_learnt(pico, tmp_path):
    shop = shop_of(pico, "a", "mood", inter_share=0.5)
    expert = task_expert(shop, "many")
    library = Library(tmp_path / "college", base=pico)
    library.add(expert)
    assert library.verify() == {}
    card = library.card("many")
    assert (card.kind, card.task, card.recipe["tasks"]) == ("mta", "language", ["a", "mood"])
    every = {row.document for name in ("a", "mood") for row in TASKS[name].train}
    assert {each for hashes in card.documents.values() for each in hashes} == every
    assert card.trained_parameters == expert.payload.parameters
    model = open_task_mixture(pico, library["many"])
    learnt = METHODS["alter"].learn(shop)
    pool = shop.lessons.test
    for place, name in enumerate(("a", "mood")):
        rows = (pool.tasks == place).nonzero().flatten()[:4]
        batch = pool.texts.take(rows)
        with attached_as(pico, learnt.adapters):
            wanted, _ = row_nats(pico, pool, rows, learnt.plan(pool.tasks[rows], lambda: None))
        said = model.given(name).score(batch.tokens, lengths=batch.lengths, context=batch.prompts).sum(1)
        assert torch.allclose(-said, wanted, atol=1e-4)


def test_an_interrupted_fit_goes_on_to_the_same_bits(pico, tmp_path):
    whole = shop_of(pico, "a", "b", inter_share=1.0)
    lessons = whole.lessons

    class Stop:
        def __init__(self):
            self.steps = 0

        def log(self, step, values):
            self.steps += "loss" in values
            if self.steps > 2:
                raise KeyboardInterrupt

        def close(self):
            pass

    broken = Workshop(lessons, tmp_path, lambda label, steps: Stop())
    with pytest.raises(KeyboardInterrupt):
        broken.gates()
    spent = float((tmp_path / "task-a.seconds").read_text())
    again = Workshop(lessons, tmp_path)
    assert equal(again.gates().weights or _all(again.gates()), whole.gates().weights or _all(whole.gates()))
    for name in ("a", "b"):
        assert equal(bits(again.alone()[name]), bits(whole.alone()[name]))
    assert again.stages["task-a"].seconds > spent > 0


def _all(gates):
    found = {"vectors": gates.vectors}
    return found | {f"{path} {name}": getattr(g, name) for path, g in gates.gates.items() for name in ("query", "keys")}


# -- mistakes -----------------------------------------------------------------------------------------------------


def test_one_task_and_two_of_one_name_are_refused(pico):
    with pytest.raises(ConfigError, match="from two on, got a"):
        lessons_of(pico, [TASKS["a"]], CONFIG)
    with pytest.raises(ConfigError, match="'a' comes twice"):
        lessons_of(pico, [TASKS["a"], TASKS["b"], TASKS["a"]], CONFIG)
    few = replace(TASKS["a"], train=TASKS["a"].train[:1])
    with pytest.raises(DataError, match="1 row to learn from"):
        lessons_of(pico, [few, TASKS["b"]], CONFIG)


def test_a_base_that_cannot_be_asked_is_refused(pico):
    with pytest.raises(BaseModelError, match="no tokenizer"):
        RowEncoder(random_base("llama"), 16)
    with pytest.raises(BaseModelError, match="no output layer"):
        RowEncoder(random_base("bert"), 16)
    with pytest.raises(BaseModelError, match="at most 512"):
        RowEncoder(pico, 4096)


def test_a_loss_that_is_not_finite_stops_the_fit(pico):
    with pytest.raises(TrainingError, match="Lower the learning rate"):
        shop_of(pico, "a", "b", learning_rate=1e30, passes=4.0).alone()


def test_settings_out_of_bounds_are_told_all_at_once():
    with pytest.raises(ConfigError, match=r"text_tokens .* got 4.*batch .* got 0.*passes .* got 0"):
        MultitaskConfig(text_tokens=4, batch=0, passes=0.0)
    with pytest.raises(ConfigError, match="top:K"):
        MultitaskConfig(layers="top:x").layers_of(4)
    assert MultitaskConfig(layers="top:9").layers_of(2) == "all"
