"""Laws of merged rows: they are what one expert of the weighted sum of parameters says; mixing is told from it."""

from dataclasses import replace

import pytest
import torch
from stepwise import LENGTHS, TOLERANCE, full_at, next_tokens, prompts_of
from test_kinds_of_parts import drawn, make

from collegium.core.errors import RoutingError
from collegium.models import NOBODY, BottleneckWeights, Group, LoraWeights, PrefixWeights, RowPlan
from collegium.models.rows import dressed
from collegium.testing.pico import pico_base, random_adapter, random_base

KINDS = ("lora", "ia3", "bottleneck", "prefix")
CURVED = ("lora", "bottleneck", "prefix")
"""Kinds for which merged and mixed differ."""
CLOSE = 5e-5


def averaged(adapters, weights):
    """The slow reference: an adapter of the weighted sums, built by hand, scales folded into the second half."""
    made = {}
    for path, first in adapters[0].items():
        parts = [adapter[path] for adapter in adapters]
        if isinstance(first, LoraWeights):
            folded = [{"a": part.a, "b": part.scale * part.b} for part in parts]
        elif isinstance(first, BottleneckWeights):
            folded = [dict(part.tensors, up=part.scale * part.up, up_bias=part.scale * part.up_bias) for part in parts]
        else:
            folded = [dict(part.tensors) for part in parts]
        own = weights if weights.ndim == 1 else weights[int(path.split("layers.")[1].split(".")[0])]
        total = {name: sum(w * part[name] for w, part in zip(own, folded, strict=True)) for name in folded[0]}
        if set(total) == {"factors"}:  # 1 is what changes nothing
            total["factors"] = total["factors"] + 1 - own.sum()
        made[path] = replace(first, **total, **({"scale": 1.0} if hasattr(first, "scale") else {}))
    return made


def alone(base, adapter, tokens):
    base.attach("by hand", adapter)
    said = base.logprobs_rows(tokens, plan=RowPlan.one("by hand"))[0]
    base.detach("by hand")
    return said


def group(kind, weights, *, merged=True):
    return RowPlan((Group((kind, f"{kind}-2", f"{kind}-3"), weights, merged=merged),))


@pytest.fixture(scope="module")
def crowd():
    base = pico_base()
    for seed, kind in enumerate(KINDS):
        for number in range(3):
            adapter = make(base, kind, seed=seed + 10 * number)
            if kind in {"lora", "bottleneck"}:  # scales differ from expert to expert
                adapter = {path: replace(part, scale=part.scale + number / 4) for path, part in adapter.items()}
            base.attach(kind if not number else f"{kind}-{number + 1}", adapter)
    base.attach("worn", random_adapter(base, 3, rank=7, layers="top:1"))
    return base


@pytest.fixture
def tokens():
    return torch.randint(0, 250, (3, 20), generator=torch.Generator().manual_seed(1))


def own_adapters(base, kind):
    return [base.adapter(name) for name in (kind, f"{kind}-2", f"{kind}-3")]


def gap_to_reference(base, kind, tokens, *, merged=True):
    """How far rows, each with its own weights, are from the experts built by hand."""
    weights = drawn(3, 1, 3, seed=5)
    got = base.logprobs_rows(tokens, plan=group(kind, weights, merged=merged))[0]
    want = [
        alone(base, averaged(own_adapters(base, kind), own), text)[0]
        for own, text in zip(weights[:, 0], tokens[:, None], strict=True)
    ]
    return float((got - torch.stack(want)).abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_is_the_expert_of_its_own_weighted_sum(crowd, tokens, kind):
    assert gap_to_reference(crowd, kind, tokens) < CLOSE


@pytest.mark.parametrize("kind", CURVED)
def test_the_law_rejects_mixing_what_experts_say(crowd, tokens, kind):
    assert gap_to_reference(crowd, kind, tokens, merged=False) > 1e-2


def test_a_rescaling_is_merged_as_it_is_mixed(crowd, tokens):
    weights = drawn(3, 1, 3, seed=5)
    merged, mixed = (crowd.logprobs_rows(tokens, plan=group("ia3", weights, merged=each)) for each in (True, False))
    assert torch.equal(merged, mixed)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_may_differ_from_block_to_block(crowd, tokens, kind):
    weights = drawn(2, 1, 1, 3, seed=6)
    got = crowd.logprobs_rows(tokens, plan=group(kind, weights))[0]
    want = alone(crowd, averaged(own_adapters(crowd, kind), weights[:, 0, 0]), tokens)
    torch.testing.assert_close(got, want, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("kind", ["lora", "bottleneck"])
def test_weights_by_position_give_each_token_its_own_expert(crowd, tokens, kind):
    weights = torch.rand(1, 20, 3, generator=torch.Generator().manual_seed(7)).expand(3, -1, -1).clone()
    weights[:, 8:] = weights[:, 7:8]
    held = group(kind, weights[:, 7:8])
    got = crowd.logprobs_rows(tokens[:, :8], plan=group(kind, weights[:, :8]))[0, :, :1]
    want = crowd.logprobs_rows(tokens[:, :8], plan=group(kind, weights[:, :1]))[0, :, :1]
    torch.testing.assert_close(got, want, atol=CLOSE, rtol=0)
    assert float((got - crowd.logprobs_rows(tokens[:, :8], plan=held)[0, :, :1]).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hot", range(3))
def test_one_hot_weights_are_that_expert_alone(crowd, tokens, kind, hot):
    weights = torch.nn.functional.one_hot(torch.tensor([[hot]]), 3).float()
    want = crowd.logprobs_rows(tokens, plan=RowPlan.one(kind if not hot else f"{kind}-{hot + 1}"))
    torch.testing.assert_close(crowd.logprobs_rows(tokens, plan=group(kind, weights)), want, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_identical_experts_merge_into_themselves(architecture, tokens, kind):
    base, tokens = random_base(architecture), tokens[:, :7]
    for name in ("a", "b"):
        base.attach(name, make(base, kind, seed=4))
    plan = RowPlan((Group(("a", "b"), torch.tensor([[[0.3, 0.7]]]), merged=True),))
    got, want = (base.logprobs_rows(tokens, plan=each) for each in (plan, RowPlan.one("a")))
    torch.testing.assert_close(got, want, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_weights_are_finite_differences(tokens, kind):
    base = pico_base()
    base.model.double()
    for number, name in enumerate((kind, f"{kind}-2", f"{kind}-3")):
        base.attach(name, make(base, kind, seed=10 * number))
    start = drawn(2, 3, 1, 3, seed=8).double() / 2

    def nats(weights):
        return base.token_nats(tokens, plan=group(kind, weights)).double().sum()

    weights = start.clone().requires_grad_()
    (slope,) = torch.autograd.grad(nats(weights), weights)
    for block, row, expert in ((0, 0, 0), (1, 2, 1), (0, 1, 2)):
        step = torch.zeros_like(start)
        step[block, row, 0, expert] = 1e-3
        with torch.no_grad():
            measured = (nats(start + step) - nats(start - step)) / 2e-3
        assert float(measured) == pytest.approx(float(slope[block, row, 0, expert]), rel=2e-3, abs=2e-2)


@pytest.mark.parametrize("kind", CURVED)
def test_experts_in_training_are_merged_alike_and_get_gradients(tokens, kind):
    base = pico_base()
    adapters = [make(base, kind, seed=10 * number) for number in range(3)]
    for number, adapter in enumerate(adapters):
        base.attach(kind if not number else f"{kind}-{number + 1}", adapter)
    plan = group(kind, drawn(3, 1, 3, seed=5))
    want = base.token_nats(tokens, plan=plan)
    leaves = [tensor.requires_grad_() for part in adapters[1].values() for tensor in part.tensors.values()]
    base.detach(f"{kind}-2")
    base.attach(f"{kind}-2", adapters[1])
    got = base.token_nats(tokens, plan=plan)
    torch.testing.assert_close(got, want, atol=CLOSE, rtol=0)
    assert all(float(slope.abs().max()) > 0 for slope in torch.autograd.grad(got.sum(), leaves))


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_is_scoring_also_of_texts_that_leave(crowd, tokens, kind):
    plan = group(kind, drawn(3, 1, 3, seed=5) / 2)
    full, opened = crowd.logprobs_rows(tokens, plan=plan), crowd.open_rows(prompts_of(tokens), plan)
    for step in range(3):
        torch.testing.assert_close(opened.logprobs, full_at(full, step), atol=TOLERANCE, rtol=0)
        opened.step(next_tokens(tokens, step))
    opened.keep(torch.tensor([2, 0]))
    for step in range(3, 6):
        torch.testing.assert_close(opened.logprobs, full_at(full, step, (2, 0)), atol=TOLERANCE, rtol=0)
        opened.step(next_tokens(tokens, step, (2, 0)))


def test_steps_with_changing_weights_are_one_forward(crowd, tokens):
    """Low-rank experts: weights of earlier positions stay with their keys and values."""
    weights = torch.rand(3, 20, 3, generator=torch.Generator().manual_seed(3))
    full = crowd.logprobs_rows(tokens, plan=group("lora", weights))
    opened = crowd.open_rows(prompts_of(tokens), group("lora", weights[:, :12]))
    for step in range(4):
        torch.testing.assert_close(opened.logprobs, full_at(full, step), atol=TOLERANCE, rtol=0)
        now = torch.stack([weights[row, length + step] for row, length in enumerate(LENGTHS)])[:, None]
        opened.step(next_tokens(tokens, step), group("lora", now))


@pytest.mark.parametrize("kind", CURVED)
def test_rows_that_join_and_leave_change_no_other(crowd, tokens, kind):
    weights = drawn(2, 1, 3, seed=5) / 2
    texts = tokens[:, :9]
    plans = [group(kind, weights[:1]).rows(1), RowPlan((Group(),)).rows(1), group(kind, weights[1:]).rows(1)]
    every = plans[0].joined(plans[1]).joined(plans[2])
    want = [crowd.hidden(texts[row : row + 1], plan=rows)[0] for row, rows in enumerate(plans)]
    torch.testing.assert_close(crowd.hidden(texts, plan=every), torch.stack(want), atol=CLOSE, rtol=0)
    kept = every.take_texts(torch.tensor([2, 0]))
    torch.testing.assert_close(
        crowd.hidden(texts[[2, 0]], plan=kept), torch.stack([want[2], want[0]]), atol=CLOSE, rtol=0
    )
    last = every.take(torch.tensor([2]))
    torch.testing.assert_close(crowd.hidden(texts[2:], plan=last)[0], want[2], atol=CLOSE, rtol=0)
    opened = crowd.open_rows(texts[:2].tolist(), plans[0].joined(plans[1]))
    opened.join(crowd.open_rows(texts[2:].tolist(), plans[2]))
    assert opened.rows.merged == 3
    torch.testing.assert_close(opened.states[:, -1], torch.stack(want)[:, -1], atol=CLOSE, rtol=0)


@pytest.mark.parametrize("kind", CURVED)
def test_what_rows_wear_stays_beside_what_is_merged(crowd, tokens, kind):
    """Worn experts are no part of the sum: they do what they would do on the expert that is built by hand."""
    weights = drawn(3, seed=5)
    plan = group(kind, weights[None, None])
    crowd.attach("by hand", averaged(own_adapters(crowd, kind), weights))
    for worn in ("worn", "bottleneck-2", "prefix-3", "lora-3"):
        if worn in plan.groups[0].adapters:
            continue
        want = crowd.hidden(tokens, plan=dressed(RowPlan.one("by hand").rows(3), (worn,)))
        got = crowd.hidden(tokens, plan=dressed(plan.rows(3), (worn,)))
        torch.testing.assert_close(got, want, atol=CLOSE, rtol=0)
    for name, adapter in (("long", longer(crowd)), ("wide", random_adapter(crowd, 5, rank=9))):
        crowd.attach(name, adapter)
        want = crowd.hidden(tokens, plan=dressed(RowPlan.one("by hand").rows(3), (name,)))
        torch.testing.assert_close(crowd.hidden(tokens, plan=dressed(plan.rows(3), (name,))), want, atol=CLOSE, rtol=0)
        crowd.detach(name)
    crowd.detach("by hand")


def longer(base):
    """Prefixes of seven columns."""
    return {
        path: PrefixWeights(*(drawn(site.shape[0], 7, site.shape[1], seed=seed) for seed in (number, number + 50)))
        for number, (path, site) in enumerate(base.sites.items())
        if site.what == "attention"
    }


@pytest.mark.parametrize("kind", CURVED)
def test_rows_that_merge_different_experts_are_each_alone(crowd, tokens, kind):
    names = (kind, f"{kind}-2", f"{kind}-3", "ia3")
    index = torch.tensor([[0, 1], [2, 0], [NOBODY, 1]])
    weights = drawn(3, 1, 2, seed=9)
    got = crowd.logprobs_rows(tokens, plan=RowPlan((Group(names, weights, index, merged=True),)))[0]
    for row, places in enumerate(index.tolist()):
        live = [(names[place], weights[row, :, at]) for at, place in enumerate(places) if place != NOBODY]
        own = Group(tuple(name for name, _ in live), torch.stack([w for _, w in live], -1)[None], merged=True)
        want = crowd.logprobs_rows(tokens[row : row + 1], plan=RowPlan((own,)))[0, 0]
        torch.testing.assert_close(got[row], want, atol=CLOSE, rtol=0)


def test_an_expert_that_leaves_a_place_alone_counts_as_zeros_there(crowd, tokens):
    crowd.attach("top", {path: part for path, part in crowd.adapter("lora").items() if ".1." in path})
    weights = torch.tensor([[[0.4, 0.8]]])
    got = crowd.logprobs_rows(tokens, plan=RowPlan((Group(("lora-2", "top"), weights, merged=True),)))[0]
    zeros = {
        path: part if ".1." in path else replace(part, a=torch.zeros_like(part.a), b=torch.zeros_like(part.b))
        for path, part in crowd.adapter("lora").items()
    }
    crowd.detach("top")
    want = alone(crowd, averaged([crowd.adapter("lora-2"), zeros], weights[0, 0]), tokens)
    torch.testing.assert_close(got, want, atol=CLOSE, rtol=0)


def test_merged_and_mixed_rows_of_the_same_experts_keep_plans_of_their_own(crowd, tokens):
    weights = torch.tensor([[[0.4, 0.8, -0.3]]])
    merged, mixed = group("lora", weights), group("lora", weights, merged=False)
    first = crowd.logprobs_rows(tokens, plan=merged)
    assert float((crowd.logprobs_rows(tokens, plan=mixed) - first).abs().max()) > 1e-2
    assert torch.equal(crowd.logprobs_rows(tokens, plan=merged), first)


def test_no_row_has_matrices_of_its_own(crowd, tokens):
    one = group("lora", torch.rand(1, 1, 3)).rows(1)
    many = group("lora", torch.rand(3, 1, 3)).rows(3)
    with crowd.running(one) as run:
        path, place = next((path, place) for path, place in run.places.items() if place.low_rank)
        held = place.low_rank[0].a.data_ptr()
    with crowd.running(many) as run:
        assert run.places[path].low_rank[0].a.shape[0] == 1
        assert run.places[path].low_rank[0].a.data_ptr() == held or path in run.shared


def test_what_cannot_be_one_expert_is_refused(crowd, tokens):
    gate = {"somewhere": torch.nn.Identity()}
    with pytest.raises(RoutingError, match="leave the gates"):
        Group(("lora",), gates=gate, merged=True)  # pyright: ignore[reportArgumentType]
    with pytest.raises(RoutingError, match=r"equal rank; at .*'lora' has 3, 'worn' has 7"):
        crowd.hidden(tokens, plan=RowPlan((Group(("lora", "worn"), merged=True),)))
    crowd.attach("long", longer(crowd))
    with pytest.raises(RoutingError, match="equal prefix length"):
        crowd.hidden(tokens, plan=RowPlan((Group(("prefix", "long"), merged=True),)))
    crowd.detach("long")
    with pytest.raises(RoutingError, match=r"equal prefix length.*'lora' has 0"):
        crowd.hidden(tokens, plan=RowPlan((Group(("prefix", "lora"), merged=True),)))
    with pytest.raises(RoutingError, match="one for all positions"):
        crowd.hidden(tokens, plan=group("prefix", torch.rand(1, 20, 3)))
    crowd.attach("ffn", make(crowd, "ffn"))
    with pytest.raises(RoutingError, match="a copy of the block each"):
        crowd.hidden(tokens, plan=RowPlan((Group(("lora", "ffn"), merged=True),)))
    crowd.detach("ffn")


def test_merged_rows_and_mixed_ones_are_run_apart(crowd):
    merged, mixed = group("lora", None).rows(1), group("lora", None, merged=False).rows(1)
    with pytest.raises(RoutingError, match="of which 3 and 0 experts are merged are run apart"):
        merged.joined(mixed)
    with pytest.raises(RoutingError, match="run apart"):
        dressed(merged, ("worn",)).joined(RowPlan((Group(("lora",), merged=True),)).rows(1))
    with pytest.raises(RoutingError, match="all merged or all mixed"):
        RowPlan((Group(("lora",), merged=True), Group(("ia3",)))).rows(1)
    assert RowPlan((Group(("lora",), merged=True), Group())).rows(2).merged == 1
