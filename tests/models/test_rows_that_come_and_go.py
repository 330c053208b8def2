"""Laws of rows with experts of their own: those that leave, come back or come late change no other row."""

import pytest
import torch
from stepwise import LENGTHS, PLANS, TOLERANCE, full_at, next_tokens, prompts_of

from collegium.core.errors import RoutingError
from collegium.models import Group, RowPlan, caches
from collegium.models.decoding import RowDecoding
from collegium.models.rows import NOBODY, Rows
from collegium.models.tail import log_probs

MIXED = Rows(
    ("deep", "top"),
    3,
    torch.tensor([2, 0, 0, 1, 2]),
    torch.tensor([[0, NOBODY], [0, 1], [NOBODY, NOBODY], [1, NOBODY], [NOBODY, NOBODY]]),
    torch.tensor([[[1.0, 0.0]], [[0.4, 0.8]], [[0.0, 0.0]], [[1.3, 0.0]], [[0.0, 0.0]]]),
)
"""Five rows over three texts, each with experts of its own: one, a blend, none; in no order of texts."""


def said(full, rows, step, lengths=LENGTHS):
    """What the full forward of these rows says after `step` more tokens."""
    return torch.stack([full[row, lengths[int(text)] - 1 + step] for row, text in enumerate(rows.text)])


def full_rows(base, tokens, rows):
    with torch.no_grad():
        return log_probs(base.output, base.hidden(tokens, plan=rows))


def test_rows_with_experts_of_their_own_are_the_full_forward(base, tokens):
    full, opened = full_rows(base, tokens, MIXED), RowDecoding(base, prompts_of(tokens), MIXED)
    for step in range(8):
        torch.testing.assert_close(opened.logprobs, said(full, MIXED, step), atol=TOLERANCE, rtol=0)
        opened.step(next_tokens(tokens, step))


def test_several_tokens_at_once_are_as_many_steps(base, tokens):
    full, opened = full_rows(base, tokens, MIXED), RowDecoding(base, prompts_of(tokens), MIXED)
    opened.step(next_tokens(tokens, 0))
    more = torch.stack([tokens[row, length + 1 : length + 7] for row, length in enumerate(LENGTHS)])
    scores = opened.extend(more)
    want = [
        full[row, LENGTHS[text] + torch.arange(6), tokens[text, LENGTHS[text] + 1 + torch.arange(6)]]
        for row, text in enumerate(MIXED.text.tolist())
    ]
    torch.testing.assert_close(scores, torch.stack(want), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(opened.logprobs, said(full, MIXED, 7), atol=TOLERANCE, rtol=0)
    opened.step(next_tokens(tokens, 7))
    torch.testing.assert_close(opened.logprobs, said(full, MIXED, 8), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("back", [0, 1, 4])
def test_what_is_forgotten_was_never_read(base, tokens, back):
    full, opened = full_rows(base, tokens, MIXED), RowDecoding(base, prompts_of(tokens), MIXED)
    other = torch.stack([tokens[row, length : length + 5] for row, length in enumerate(LENGTHS)])
    other[:, 5 - back :] = 1
    opened.extend(other)
    opened.rewind(back)
    for step in range(5 - back, 8):
        torch.testing.assert_close(opened.logprobs, said(full, MIXED, step), atol=TOLERANCE, rtol=0)
        opened.step(next_tokens(tokens, step))
    for too_many in (1, -1):
        with pytest.raises(RoutingError, match="0 to 0 can be forgotten"):
            opened.rewind(too_many)


def test_texts_of_mixed_rows_leave(base, tokens):
    opened = RowDecoding(base, prompts_of(tokens), MIXED)
    full, stay = full_rows(base, tokens, MIXED), MIXED.rows_of(torch.tensor([2, 0]))
    opened.keep(torch.tensor([2, 0]))
    for step in range(6):
        torch.testing.assert_close(opened.logprobs, said(full, MIXED, step)[stay], atol=TOLERANCE, rtol=0)
        opened.step(next_tokens(tokens, step, (2, 0)))


def leave_and_come_back(base, tokens, rows, away, leaving):
    """Split rows off, let both go on for `away` steps, join them again; return the decoding and the rows' order."""
    opened = RowDecoding(base, prompts_of(tokens), rows)
    opened.step(next_tokens(tokens, 0))
    order = [row for row in range(rows.count) if row not in leaving] + leaving
    mine, theirs = rows.text[order[: -len(leaving)]].unique(), rows.text[leaving].unique()
    other = opened.split(torch.tensor(leaving))
    for step in range(1, 1 + away):
        opened.step(next_tokens(tokens, step, mine.tolist()))
    if away:
        rest = [tokens[text, LENGTHS[text] + 1 : LENGTHS[text] + 1 + away] for text in theirs.tolist()]
        other.extend(torch.stack(rest))
    known = {text: place for place, text in enumerate(mine.tolist())}
    texts = [known.get(text, NOBODY) for text in theirs.tolist()]
    opened.join(other, torch.tensor(texts))
    texts = mine.tolist() + [text for text in theirs.tolist() if text not in known]
    return opened, order, texts


@pytest.mark.parametrize("away", [0, 4])
@pytest.mark.parametrize("leaving", [[1], [2, 4], [4, 0, 1], [3]])
def test_rows_that_left_and_came_back_were_never_gone(base, tokens, away, leaving):
    full = full_rows(base, tokens, MIXED)
    opened, order, texts = leave_and_come_back(base, tokens, MIXED, away, leaving)
    assert opened.rows.count == MIXED.count
    assert opened.texts == 3
    for step in range(1 + away, 8):
        torch.testing.assert_close(opened.logprobs, said(full, MIXED, step)[order], atol=TOLERANCE, rtol=0)
        opened.step(next_tokens(tokens, step, texts))


def test_groups_leave_together_as_one_after_another(base, tokens):
    full, opened = full_rows(base, tokens, MIXED), RowDecoding(base, prompts_of(tokens), MIXED)
    groups = [torch.tensor([4, 0]), torch.tensor([2])]
    others = opened.split_each(groups)
    rest = torch.tensor([row for row in range(MIXED.count) if row not in (0, 2, 4)])
    for part, rows in zip((*others, opened), (*groups, rest), strict=True):
        texts = MIXED.text[rows].unique().tolist()
        for step in range(4):
            torch.testing.assert_close(part.logprobs, said(full, MIXED, step)[rows], atol=TOLERANCE, rtol=0)
            part.step(next_tokens(tokens, step, texts))
    with pytest.raises(RoutingError, match="some leave, some go on"):
        opened.split_each([torch.arange(opened.rows.count)])


def test_a_late_arrival_changes_no_other_row(base, tokens):
    """Newcomers longer and shorter than those who are there, with rows below their trunk."""
    early, late = RowPlan.each(("top", "base")), RowPlan.each(("deep", "base", "top"))
    alone, opened = base.open_rows(prompts_of(tokens), early), base.open_rows(prompts_of(tokens), early)
    full = base.logprobs_rows(tokens, plan=late)
    for step in range(3):
        alone.step(next_tokens(tokens, step))
        opened.step(next_tokens(tokens, step))
    opened.join(base.open_rows([tokens[1, :16].tolist(), tokens[2, :2].tolist()], late))
    for step in range(3, 7):
        torch.testing.assert_close(opened.logprobs[:6], alone.logprobs, atol=TOLERANCE, rtol=0)
        want = torch.stack([full[:, 1, 12 + step], full[:, 2, step - 2]], dim=1).flatten(0, 1)
        torch.testing.assert_close(opened.logprobs[6:], want, atol=TOLERANCE, rtol=0)
        alone.step(next_tokens(tokens, step))
        others = torch.stack([tokens[1, 13 + step], tokens[2, step - 1]])
        opened.step(torch.cat([next_tokens(tokens, step), others]))
    opened.keep(torch.tensor([4, 0]))
    want = torch.cat([alone.logprobs[[0, 3]], full[:, 2, 5]])
    torch.testing.assert_close(opened.logprobs, want, atol=TOLERANCE, rtol=0)


def test_rows_enter_texts_that_are_under_way(base, tokens):
    """Experts that were away read what was said meanwhile and go on beside those who said it."""
    opened = base.open_rows(prompts_of(tokens), PLANS["one"])
    for step in range(4):
        opened.step(next_tokens(tokens, step))
    said_so_far = [tokens[row, : LENGTHS[row] + 4].tolist() for row in (2, 0)]
    opened.join(base.open_rows(said_so_far, RowPlan.each(("top", "base"))), torch.tensor([2, 0]))
    one, others = base.logprobs_rows(tokens, plan=PLANS["one"]), base.logprobs_rows(tokens, plan=PLANS["trunk"])
    assert opened.texts == 3
    for step in range(4, 8):
        torch.testing.assert_close(opened.logprobs[:3], full_at(one, step), atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(opened.logprobs[3:], full_at(others, step, (2, 0)), atol=TOLERANCE, rtol=0)
        opened.step(next_tokens(tokens, step))


def test_rows_come_in_below_the_trunk_by_a_new_plan(base, tokens):
    """Caches of the trunk become caches of rows when a plan reaches lower than the one before."""
    low = RowPlan((Group(("deep", "top"), torch.tensor([[[0.7, 0.2]]])), Group()))
    opened = base.open_rows(prompts_of(tokens), PLANS["trunk"])
    opened.step(next_tokens(tokens, 0), low)
    start = low_after_top(base, tokens, low)
    for step in range(1, 4):
        torch.testing.assert_close(opened.logprobs, full_at(start, step), atol=TOLERANCE, rtol=0)
        opened.step(next_tokens(tokens, step))


def low_after_top(base, tokens, low):
    """The full forward in which the prompt is read by `top` and `base`, what follows by `low` and `base`."""
    weights = torch.tensor([0.7, 0.2]).expand(3, 20, -1).clone()
    for row, length in enumerate(LENGTHS):
        weights[row, :length] = torch.tensor([0.0, 1.0])
    return base.logprobs_rows(tokens, plan=RowPlan((Group(low.groups[0].adapters, weights), Group())))


def test_prompts_of_those_who_came_in_are_scored(base, tokens):
    opened = base.open_rows(prompts_of(tokens), RowPlan.each(("top", "base")))
    other = base.open_rows([tokens[0].tolist()], RowPlan.one("deep"))
    opened.join(other)
    want = base.score_rows(tokens[:1], plan=RowPlan.one("deep"))[0]
    torch.testing.assert_close(opened.prompt_scores[6:], want, atol=TOLERANCE, rtol=0)
    shorter = base.score_rows(tokens[:, :12], lengths=torch.tensor(LENGTHS), plan=PLANS["trunk"]).flatten(0, 1)
    torch.testing.assert_close(opened.prompt_scores[:6, :12], shorter, atol=TOLERANCE, rtol=0)
    opened.forget_prompts()
    with pytest.raises(RoutingError, match="forgotten"):
        _ = opened.prompt_scores


def test_rows_that_read_less_cannot_join_a_text(base, tokens):
    opened = base.open_rows(prompts_of(tokens), PLANS["one"])
    other = opened.split(torch.tensor([1]))
    other.step(torch.tensor([3]))
    with pytest.raises(RoutingError, match="the rows have read 13"):
        opened.join(other, torch.tensor([0]))
    with pytest.raises(RoutingError, match="some leave, some go on"):
        opened.split(torch.tensor([0, 1]))


def test_windows_hold_far_beyond_the_room_set_aside(base):
    """Caches that grew twice, left and came back say what one forward says."""
    draw = torch.randint(0, 256, (2, 200), generator=torch.Generator().manual_seed(7))
    full = base.logprobs_rows(draw, plan=RowPlan.one("deep"))[0]
    opened = base.open_rows(draw[:, :3].tolist(), RowPlan.one("deep"))
    for step in range(3, 120):
        opened.step(draw[:, step])
    torch.testing.assert_close(opened.logprobs, full[:, 119], atol=TOLERANCE, rtol=0)
    other = opened.split(torch.tensor([0]))
    other.extend(draw[:1, 120:199])
    torch.testing.assert_close(other.logprobs, full[:1, 198], atol=TOLERANCE, rtol=0)
    other.join(opened)
    other.step(torch.tensor([int(draw[0, 199]), int(draw[1, 120])]))
    torch.testing.assert_close(other.logprobs, torch.stack([full[0, 199], full[1, 120]]), atol=TOLERANCE, rtol=0)


def test_columns_out_of_line_break_the_law(base, tokens, monkeypatch):
    """Newcomers laid out at the left end are not who they were."""
    plain = caches._laid_out

    def left(parts, seq):
        made = plain(parts, seq)
        if len(parts) == 2:
            begin = len(parts[0][1])
            made._keys[begin:, :, :seq] = made._keys[begin:, :, :seq].roll(1, dims=2)
        return made

    full = base.logprobs_rows(tokens, plan=PLANS["one"])
    opened = base.open_rows([tokens[0, :7].tolist()], PLANS["one"])
    monkeypatch.setattr(caches, "_laid_out", left)
    opened.join(base.open_rows([tokens[1, :12].tolist()], PLANS["one"]))
    opened.step(torch.tensor([int(tokens[0, 7]), int(tokens[1, 12])]))
    assert float((opened.logprobs[1] - full[0, 1, 12]).abs().max()) > 1e-3


def test_weights_by_position_are_read_several_at_once(base, tokens):
    names, weights = ("deep", "top"), torch.rand(3, 20, 2, generator=torch.Generator().manual_seed(3))
    full = base.logprobs_rows(tokens, plan=RowPlan.blend(names, weights))
    opened = base.open_rows(prompts_of(tokens), RowPlan.blend(names, weights[:, :12]))
    more = torch.stack([tokens[row, length : length + 5] for row, length in enumerate(LENGTHS)])
    now = torch.stack([weights[row, length : length + 5] for row, length in enumerate(LENGTHS)])
    opened.read(more, RowPlan.blend(names, now))
    torch.testing.assert_close(opened.logprobs, full_at(full, 5), atol=TOLERANCE, rtol=0)
    held = torch.stack([weights[row, length + 4] for row, length in enumerate(LENGTHS)])[:, None]
    again = base.open_rows([tokens[row, : length + 5].tolist() for row, length in enumerate(LENGTHS)], PLANS["blend"])
    assert torch.equal(opened.rows.weights, held)
    assert again.prompt_states.shape == (3, 17, 64)
    again.forget_prompts()
    with pytest.raises(RoutingError, match="let go"):
        _ = again.prompt_states
