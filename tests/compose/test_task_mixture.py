"""A mixture of task adapters: a language model whose gates know the task, kept on disk to the last bit."""

from dataclasses import replace

import pytest
import torch

from collegium.compose import open_task_mixture
from collegium.core.errors import IncompatibleExpert, RoutingError, UnknownName
from collegium.experts import Expert, MtaPayload, check_expert, load_expert, save_expert
from collegium.infer import Engine, Sampling, generate
from collegium.models import BottleneckWeights, Group, HeadWeights, RowPlan, TaskGate
from collegium.testing.expert_format import check_expert_format
from collegium.testing.language_model import check_language_model
from collegium.testing.pico import pico_base, random_base, random_expert, random_task_expert

TASKS = ("law", "code", "film")
TOKENS = torch.randint(0, 250, (3, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def base():
    return pico_base()


@pytest.fixture
def expert(base):
    return random_task_expert(base)


def with_gates(expert, change):
    payload = expert.payload
    return Expert(expert.card, replace(payload, gates={path: change(gate) for path, gate in payload.gates.items()}))


def one_hot(payload, place):
    """Return gates that give one adapter all weight, whatever they read: its key answers to the told vector alone."""
    count, size = payload.vectors.shape[0], payload.vectors.shape[1]

    def gate(old):
        query = torch.zeros(1, old.query.shape[1])
        query[0, -size:] = 1.0
        return TaskGate(query, torch.eye(count)[:, place : place + 1] * 1e6 - 5e5)

    vectors = torch.ones(count, size)
    return replace(payload, gates={path: gate(old) for path, old in payload.gates.items()}, vectors=vectors)


@pytest.mark.parametrize("task", [None, "code"])
def test_it_is_a_language_model(base, expert, task):
    check_language_model(open_task_mixture(base, expert).given(task))


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "gemma3"])
def test_it_is_one_on_other_architectures(architecture):
    base = random_base(architecture)
    check_language_model(open_task_mixture(base, random_task_expert(base, layers="top:1")), batch=2, contexts=(4,))


class LooksAhead:
    """A mixture that tells the task from the whole text."""

    def __init__(self, model):
        self._model = model
        self.tokenizer, self.vocab_size, self.open = model.tokenizer, model.vocab_size, model.open

    def logprobs(self, tokens, *, lengths=None, context=1):
        del context
        return self._model.logprobs(tokens, lengths=lengths, context=tokens.shape[1])

    def score(self, tokens, *, lengths=None, context=1):
        return self._model.score(tokens, lengths=lengths, context=context)


def test_a_mixture_that_looks_ahead_is_rejected(base, expert):
    with pytest.raises(AssertionError, match=r"looks ahead|score is what logprobs says"):
        check_language_model(LooksAhead(open_task_mixture(base, expert)))


def test_weights_sum_to_one_and_depend_on_the_task(base, expert):
    model = open_task_mixture(base, expert)
    said = {task: model.given(task).routing(TOKENS).weights for task in (None, *TASKS)}
    for weights in said.values():
        assert torch.allclose(weights.sum(-1), torch.ones(TOKENS.shape), atol=1e-5)
    assert (said["law"] - said["code"]).abs().max() > 0.05


def test_a_gate_of_no_queries_is_uniform(base, expert):
    silent = with_gates(expert, lambda gate: replace(gate, query=torch.zeros_like(gate.query)))
    for task in (None, "law"):
        weights = open_task_mixture(base, silent).given(task).routing(TOKENS).weights
        assert torch.allclose(weights, torch.full_like(weights, 1 / 3))
    loud = open_task_mixture(base, expert.renamed("loud")).routing(TOKENS).weights
    assert (loud - 1 / 3).abs().max() > 0.05  # the law rejects gates that have something to say


@pytest.mark.parametrize("place", [0, 2])
def test_one_hot_weights_are_the_adapter_alone(base, expert, place):
    sure = Expert(expert.card, one_hot(expert.payload, place))
    base.attach("alone", sure.payload.adapters[TASKS[place]])
    alone = base.logprobs_rows(TOKENS, plan=RowPlan.one("alone"))[0]
    model = open_task_mixture(base, sure)
    assert torch.allclose(model.logprobs(TOKENS), alone, atol=1e-5)
    other = open_task_mixture(base, Expert(replace(expert.card, name="other"), one_hot(expert.payload, 1)))
    assert (other.logprobs(TOKENS) - alone).abs().max() > 1e-2  # and rejects another's


def test_each_row_is_told_its_own(base, expert):
    model = open_task_mixture(base, expert)
    told = torch.stack([model.vectors[place] for place in (2, 0, 1)])
    plan = RowPlan((Group(model.keys, gates=model.gates, told=told),))
    together = base.logprobs_rows(TOKENS, plan=plan)[0]
    for row, task in enumerate(("film", "law", "code")):
        here = TOKENS[row : row + 1]
        assert torch.allclose(together[row], model.given(task).logprobs(here)[0], atol=1e-5)
        assert not torch.allclose(
            together[row], model.given("law" if row != 1 else "code").logprobs(here)[0], atol=1e-3
        )


def test_a_task_not_given_is_told_from_the_context(base, expert):
    payload = replace(expert.payload, router=HeadWeights(torch.zeros(3, 128), torch.tensor([-50.0, 50.0, -50.0])))
    model = open_task_mixture(base, Expert(expert.card, payload))
    assert model.task_log_probs(TOKENS).argmax(-1).tolist() == [1, 1, 1]
    assert torch.allclose(model.logprobs(TOKENS, context=3), model.given("code").logprobs(TOKENS), atol=1e-5)
    with pytest.raises(UnknownName, match=r"has not learnt the task 'cod'.*code"):
        model.given("cod")


def test_in_an_engine_each_text_keeps_its_own_task(base, expert):
    model, engine = open_task_mixture(base, expert), Engine(base)
    sampling = Sampling(tokens=6, temperature=0.0)
    asked = [(model.given(task), TOKENS[row, : 4 + row].tolist()) for row, task in enumerate(("law", None, "film"))]
    numbers = [engine.add_request(prompt, model=each, sampling=sampling) for each, prompt in asked]
    found = engine.run()
    for number, (each, prompt) in zip(numbers, asked, strict=True):
        alone = generate(each, [prompt], sampling=sampling)[0]
        assert found[number].tokens == alone.tokens
        assert found[number].log_prob == pytest.approx(alone.log_prob, abs=1e-3)
    shared = RowPlan((Group(model.keys, gates=model.gates, told=model.vectors[:1]),)).rows(1)
    other = RowPlan((Group(model.keys, gates=model.gates, told=model.vectors[1:2]),)).rows(1)
    joined = shared.joined(other)
    assert torch.equal(joined.told, model.vectors[:2])
    assert torch.equal(joined.take(torch.tensor([1])).told, model.vectors[1:2])


def mixture_tensors(expert):
    return {**expert.payload.tensors, **{f"{path} k": torch.tensor(g.top_k or 0) for path, g in gates_of(expert)}}


def gates_of(expert):
    return expert.payload.gates.items()


class Form:
    save = staticmethod(save_expert)
    load = staticmethod(load_expert)


@pytest.mark.parametrize("top_k", [None, 2])
def test_what_is_loaded_is_what_was_saved_to_the_bit(base, expert, top_k):
    made = with_gates(expert, lambda gate: replace(gate, top_k=top_k))
    check_expert_format(Form(), made, sites=base.sites, tensors=mixture_tensors)


def test_a_careless_format_is_rejected(base, expert):
    class Careless(Form):
        @staticmethod
        def load(folder, **rest):
            found = load_expert(folder, **rest)
            return with_gates(found, lambda gate: replace(gate, keys=gate.keys * (1 + 1e-6)))

    with pytest.raises(AssertionError, match="same bits"):
        check_expert_format(Careless(), expert, sites=base.sites, tensors=mixture_tensors)


def test_parts_that_do_not_go_together_are_refused(base, expert):
    payload = expert.payload
    path = next(iter(payload.gates))
    with pytest.raises(IncompatibleExpert, match="vectors"):
        replace(payload, vectors=payload.vectors[:2])
    with pytest.raises(IncompatibleExpert, match="different places"):
        replace(payload, gates={path: payload.gates[path]})
    with pytest.raises(IncompatibleExpert, match="other shapes"):
        with_gates(expert, lambda gate: replace(gate, query=gate.query[:, :-1]))
    with pytest.raises(IncompatibleExpert, match="1 adapters"):
        replace(payload, adapters={"law": payload.adapters["law"]})
    lora = random_expert(base).payload.adapter
    gates = dict.fromkeys(lora, payload.gates[path])
    with pytest.raises(IncompatibleExpert, match="no bottlenecks"):
        MtaPayload(dict.fromkeys(TASKS, lora), gates, payload.vectors, payload.router)


def test_another_base_or_kind_is_refused(base, expert):
    other = pico_base(1)
    with pytest.raises(IncompatibleExpert, match="made for base"):
        open_task_mixture(other, expert)
    with pytest.raises(IncompatibleExpert, match="no mixture"):
        open_task_mixture(base, random_expert(base))
    with pytest.raises(IncompatibleExpert, match="task law"):
        check_expert(expert, sites=random_base("gpt2").sites)
    assert isinstance(next(iter(expert.payload.adapters["law"].values())), BottleneckWeights)


def test_gates_of_tasks_are_told_something_and_others_nothing(expert):
    gates = expert.payload.gates
    with pytest.raises(RoutingError, match="told"):
        Group(TASKS, gates=gates)
    with pytest.raises(RoutingError, match="told"):
        Group(TASKS, told=torch.zeros(1, 4))
    with pytest.raises(RoutingError, match="2 texts, 3 are run"):
        RowPlan((Group(TASKS, gates=gates, told=torch.zeros(2, 4)),)).rows(3)
    with pytest.raises(RoutingError, match="at least one"):
        TaskGate(torch.zeros(2, 5), torch.zeros(3, 2), top_k=0)
