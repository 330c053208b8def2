"""Draws and their bookkeeping, on a model whose texts can be enumerated."""

import math
from collections import Counter

import pytest
import torch

from collegium.align.draws import Drawing, Draws, Prompt, draw
from collegium.core.randomness import generator
from collegium.testing.tiny import TinyLM, tiny_lm

LENGTH = 3
START = Prompt("", (0,))
ENDS = frozenset({0})


def drawn(model: TinyLM, many: int, *, temperature: float = 1.0, seed: int = 0) -> Draws:
    drawing = Drawing(tokens=LENGTH, temperature=temperature, batch=1000, ends=ENDS)
    return draw(model, [START] * many, drawing=drawing, random=generator(seed, "draws"))


def test_probabilities_of_all_texts_sum_to_one_with_their_ends() -> None:
    """Claim D12: an end token that is not counted, or counted for texts that were cut, would break the sum."""
    model = tiny_lm(1)
    draws = drawn(model, 2000)
    seen = {}
    for tokens, length, log_q in zip(draws.tokens.tolist(), draws.lengths.tolist(), draws.log_proposal, strict=True):
        seen[tuple(tokens[:length])] = float(log_q)
    assert set(seen) == set(model.enumerate_texts(LENGTH))
    assert math.fsum(map(math.exp, seen.values())) == pytest.approx(1.0, abs=1e-12)


def test_texts_are_drawn_as_often_as_they_are_likely() -> None:
    model, many = tiny_lm(2), 20_000
    draws = drawn(model, many)
    counts = Counter(tuple(row[:n]) for row, n in zip(draws.tokens.tolist(), draws.lengths.tolist(), strict=True))
    for text in model.enumerate_texts(LENGTH):
        likely = math.exp(model.log_prob(text))
        assert counts[text] / many == pytest.approx(likely, abs=5 * math.sqrt(likely / many) + 1e-4)


def test_the_proposal_is_what_a_model_scores() -> None:
    model = tiny_lm(3)
    draws = drawn(model, 200)
    torch.testing.assert_close(draws.log_prob(model), draws.log_proposal, atol=1e-12, rtol=0)


def test_a_temperature_is_part_of_the_proposal() -> None:
    model = tiny_lm(3)
    sharper = TinyLM(model.logits * 2, model.order, eos=model.eos)
    draws = drawn(model, 200, temperature=0.5)
    torch.testing.assert_close(draws.log_prob(sharper), draws.log_proposal, atol=1e-12, rtol=0)


def test_features_do_not_see_the_end_and_padding_is_not_scored() -> None:
    draws = drawn(tiny_lm(4), 300)
    for row, sample in enumerate(draws.samples):
        said = draws.tokens[row, 1 : draws.lengths[row]].tolist()
        shown = [int(token) for token in sample.completion.split()]
        assert said == shown or said == [*shown, 0]
        assert 0 not in shown
    assert draws.scored.sum(1).tolist() == (draws.lengths - draws.context).tolist()


def test_taken_draws_are_those_of_the_rows() -> None:
    draws = drawn(tiny_lm(5), 50)
    rows = torch.tensor([7, 3, 3])
    taken = draws.take(rows)
    assert taken.samples == tuple(draws.samples[row] for row in rows)
    torch.testing.assert_close(taken.log_prob(tiny_lm(5)), draws.log_proposal[rows], atol=1e-12, rtol=0)


def test_prompts_are_numbered_and_one_that_leaves_no_room_is_refused() -> None:
    model = tiny_lm(6)
    other = Prompt("1", (0, 1))
    drawing = Drawing(tokens=LENGTH, batch=2, ends=ENDS)
    told: list[int] = []
    draws = draw(model, [START, other, START], drawing=drawing, random=generator(0), progress=told.append)
    assert draws.prompt.tolist() == [0, 1, 0]
    assert draws.context.tolist() == [1, 2, 1]
    assert told == [2, 3]
