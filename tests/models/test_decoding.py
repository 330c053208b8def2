"""Laws of stepwise decoding: what the caches say is what one full forward says."""

import pytest
import torch
from stepwise import LENGTHS, PLANS, TOLERANCE, full_at, next_tokens, prompts_of

from collegium.core.errors import BaseModelError, DataError, RoutingError
from collegium.core.protocols import Decoding
from collegium.models import RowPlan
from collegium.models.decoding import RowDecoding


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_stepwise_is_the_full_forward(base, tokens, plan):
    full, opened = base.logprobs_rows(tokens, plan=plan), base.open_rows(prompts_of(tokens), plan)
    for step in range(8):
        torch.testing.assert_close(opened.logprobs, full_at(full, step), atol=TOLERANCE, rtol=0)
        opened.step(next_tokens(tokens, step))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_prompts_of_equal_length_need_no_padding(base, tokens, plan):
    full, opened = base.logprobs_rows(tokens, plan=plan), base.open_rows(tokens[:, :9].tolist(), plan)
    for step in range(11):
        torch.testing.assert_close(opened.logprobs, full[:, :, 8 + step].flatten(0, 1), atol=TOLERANCE, rtol=0)
        opened.step(tokens[:, 9 + step])


def test_prompt_scores_are_scores(base, tokens):
    plan, lengths = PLANS["ensemble"], torch.tensor(LENGTHS)
    opened = base.open_rows(prompts_of(tokens), plan)
    want = base.score_rows(tokens[:, :12], lengths=lengths, plan=plan)
    opened.step(next_tokens(tokens, 0))
    torch.testing.assert_close(opened.prompt_scores, want.flatten(0, 1), atol=TOLERANCE, rtol=0)
    opened.keep(torch.tensor([2, 0]))
    torch.testing.assert_close(opened.prompt_scores, want[:, [2, 0]].flatten(0, 1), atol=TOLERANCE, rtol=0)


def test_prompt_scores_read_after_texts_left(base, tokens):
    plan, lengths = PLANS["ensemble"], torch.tensor(LENGTHS)
    opened = base.open_rows(prompts_of(tokens), plan)
    opened.keep(torch.tensor([2, 0]))
    want = base.score_rows(tokens[:, :12], lengths=lengths, plan=plan)[:, [2, 0]].flatten(0, 1)
    torch.testing.assert_close(opened.prompt_scores, want, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_texts_that_leave_change_no_other(base, tokens, plan):
    full, opened = base.logprobs_rows(tokens, plan=plan), base.open_rows(prompts_of(tokens), plan)
    opened.step(next_tokens(tokens, 0))
    opened.keep(torch.tensor([2, 0]))
    assert opened.texts == 2
    for step in range(1, 5):
        torch.testing.assert_close(opened.logprobs, full_at(full, step, (2, 0)), atol=TOLERANCE, rtol=0)
        opened.step(next_tokens(tokens, step, (2, 0)))


def test_weights_stay_with_the_positions_they_were_written_with(base, tokens):
    """Steps with changing weights are the full forward whose weights change along the sequence."""
    names, weights = ("deep", "top"), torch.rand(3, 20, 2, generator=torch.Generator().manual_seed(3))
    full = base.logprobs_rows(tokens, plan=RowPlan.blend(names, weights))
    opened = base.open_rows(prompts_of(tokens), RowPlan.blend(names, weights[:, :12]))
    for step in range(6):
        torch.testing.assert_close(opened.logprobs, full_at(full, step), atol=TOLERANCE, rtol=0)
        now = torch.stack([weights[row, length + step] for row, length in enumerate(LENGTHS)])[:, None]
        opened.step(next_tokens(tokens, step), RowPlan.blend(names, now))


def test_held_weights_go_on_and_leave_with_their_texts(base, tokens):
    names, held = ("deep", "top"), torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[0.5, 0.5]]])
    plan = RowPlan.blend(names, held)
    full, opened = base.logprobs_rows(tokens, plan=plan), base.open_rows(prompts_of(tokens), plan)
    opened.keep(torch.tensor([1, 2]))
    for step in range(3):
        torch.testing.assert_close(opened.logprobs, full_at(full, step, (1, 2)), atol=TOLERANCE, rtol=0)
        opened.step(next_tokens(tokens, step, (1, 2)))


def test_prompt_weights_by_position_end_as_the_last_ones(base, tokens):
    names, weights = ("deep", "top"), torch.rand(3, 12, 2, generator=torch.Generator().manual_seed(3))
    last = torch.stack([weights[row, length - 1] for row, length in enumerate(LENGTHS)])[:, None]
    opened = base.open_rows(prompts_of(tokens), RowPlan.blend(names, weights))
    again = base.open_rows(prompts_of(tokens), RowPlan.blend(names, weights))
    opened.step(next_tokens(tokens, 0))
    again.step(next_tokens(tokens, 0), RowPlan.blend(names, last))
    assert torch.equal(opened.logprobs, again.logprobs)


def test_forgetting_left_padding_breaks_the_law(base, tokens, monkeypatch):
    """A decoding that lets padding be read is not the full forward."""
    full = base.logprobs_rows(tokens, plan=PLANS["one"])
    monkeypatch.setattr(RowDecoding, "_mask", lambda self, seq, lengths: None)
    opened = base.open_rows(prompts_of(tokens), PLANS["one"])
    assert float((opened.logprobs - full_at(full, 0)).abs().max()) > 1e-2


def test_the_base_alone_decodes(bare, tokens):
    opened, full = bare.open(prompts_of(tokens)), bare.logprobs(tokens)[None]
    assert isinstance(opened, Decoding)
    assert opened.routing is None
    assert opened.shares(next_tokens(tokens, 0)) is None
    torch.testing.assert_close(opened.next_logprobs(), full_at(full, 0), atol=TOLERANCE, rtol=0)
    opened.step(next_tokens(tokens, 0))
    opened.keep(torch.tensor([1]))
    torch.testing.assert_close(opened.next_logprobs(), full_at(full, 1, (1,)), atol=TOLERANCE, rtol=0)


def test_plans_that_do_not_fit_the_caches_are_refused(base, tokens):
    opened = base.open_rows(prompts_of(tokens), PLANS["trunk"])
    with pytest.raises(RoutingError, match="open in 6 rows, the new plan has 3"):
        opened.step(next_tokens(tokens, 0), PLANS["one"])
    with pytest.raises(RoutingError, match="the rows read 2 texts, 3 are opened"):
        RowDecoding(base, prompts_of(tokens), RowPlan.one("deep").rows(2))


def test_empty_prompts_are_refused(pico):
    with pytest.raises(DataError, match="at least one token"):
        pico.open([[1], []])
    with pytest.raises(DataError, match="at least one token"):
        pico.open([])


def test_decoding_stops_at_the_end_of_the_context(pico):
    opened = pico.open([[1] * 511])
    opened.step(torch.tensor([1]))
    with pytest.raises(BaseModelError, match="at most 512"):
        opened.step(torch.tensor([1]))


def test_each_text_may_be_as_long_as_the_base_reads(pico):
    opened = pico.open([[1] * 510, [2] * 5])
    opened.step(torch.tensor([1, 1]))
    opened.keep(torch.tensor([1]))
    for _ in range(30):
        opened.step(torch.tensor([3]))
    alone = pico.logprobs(torch.tensor([[2] * 5 + [1] + [3] * 30]))[:, -1]
    torch.testing.assert_close(opened.next_logprobs(), alone, atol=TOLERANCE, rtol=0)
