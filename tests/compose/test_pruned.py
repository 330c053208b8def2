"""Laws of posterior pruning: what it costs is known exactly, scoring is decoding, and who left comes back."""

import math

import pytest
import torch

from collegium.compose import Choice, Ensemble, SeparateVoices, SlotVoices, prune_table
from collegium.core.errors import RoutingError
from collegium.models import Base, RowDecoding, RowPlan
from collegium.ops.pruning import BLOCK_TOKENS, pruning_cost
from collegium.routers import posterior, uniform
from collegium.testing.pico import random_adapter, random_base
from collegium.testing.tiny import bigram_lm

NAMES = ("law", "code", "chat")
CONTEXTS = (1, 7, torch.tensor([16, 21]))


@pytest.fixture(scope="module")
def voices() -> SlotVoices:
    base = random_base("llama")
    for place, name in enumerate(NAMES):
        base.attach(name, random_adapter(base, place, layers="all", kind="lora"))
    return SlotVoices(base, {name: name for name in NAMES})


def written(base: Base, prefix: list[int], name: str, other: str, many: int) -> list[int]:
    """Return a text continued by the tokens that speak most for one expert and against another."""
    opened, text = base.open_rows([prefix], RowPlan.each((name, other))), list(prefix)
    for _ in range(many):
        own, others = opened.logprobs
        text.append(int((2 * own - others).argmax()))
        opened.step(torch.tensor(text[-1:]))
    return text


@pytest.fixture(scope="module")
def texts(voices: SlotVoices) -> list[list[int]]:
    """One text by one expert; one that another takes over midway."""
    first = written(voices.base, [1, 2, 3], "law", "code", 125)
    changing = written(voices.base, written(voices.base, [5, 6, 7], "law", "code", 125), "code", "law", 72)
    return [first, changing]


@pytest.fixture(scope="module")
def tokens(texts: list[list[int]]) -> torch.Tensor:
    return torch.tensor([[*text, *[0] * (200 - len(text))] for text in texts])


LENGTHS = torch.tensor([128, 200])


def ensemble(voices: SlotVoices, epsilon: float = 0.0) -> Ensemble:
    return Ensemble(voices, posterior().bind(NAMES), prune=epsilon)


def blocks(start: int, end: int):
    """Yield where a text's blocks begin and end behind its context."""
    for at in range(start // BLOCK_TOKENS * BLOCK_TOKENS, end, BLOCK_TOKENS):
        yield max(at, start), min(at + BLOCK_TOKENS, end)


@pytest.mark.parametrize("context", CONTEXTS, ids=["one", "seven", "own"])
@pytest.mark.parametrize("epsilon", [0.4, 1e-3])
def test_the_cost_is_known_exactly(voices, tokens, epsilon, context):
    pruned, full = ensemble(voices, epsilon), ensemble(voices)
    asked = {"lengths": LENGTHS, "context": context}
    table = voices.score(tokens, Choice(NAMES), lengths=LENGTHS).double()
    scores, exact = pruned.score(tokens, **asked), full.score(tokens, **asked)
    missing = pruned.routing(tokens, **asked).dense() == 0
    evidence = table.cumsum(1) - math.log(len(NAMES))
    for row, start in enumerate(torch.as_tensor(context).expand(2).tolist()):
        costs = 0.0
        for first, last in blocks(start, int(LENGTHS[row])):
            before = evidence[row, first - 1].log_softmax(-1)
            costs += float(pruning_cost(before, table[row, first:last].sum(0), missing[row, first - 1]))
        assert float(exact[row].sum() - scores[row].sum()) == pytest.approx(costs, abs=2e-3)
    assert missing.any()


@pytest.mark.parametrize("context", CONTEXTS, ids=["one", "seven", "own"])
@pytest.mark.parametrize("epsilon", [0.4, 1e-3])
def test_scoring_is_decoding_is_the_distribution(voices, texts, tokens, epsilon, context):
    model, starts = ensemble(voices, epsilon), torch.as_tensor(context).expand(2).tolist()
    asked = {"lengths": LENGTHS, "context": context}
    scores, every = model.score(tokens, **asked), model.logprobs(tokens, **asked)
    opened, rows = model.open([text[:start] for text, start in zip(texts, starts, strict=True)]), [0, 1]
    for step in range(200 - starts[1]):
        stay = [row for row in rows if starts[row] + step < LENGTHS[row]]
        if stay != rows:
            opened.keep(torch.tensor([rows.index(row) for row in stay]))
            rows = stay
        place = [starts[row] + step for row in rows]
        token = torch.tensor([texts[row][at] for row, at in zip(rows, place, strict=True)])
        now = opened.next_logprobs()
        wanted = torch.stack([scores[row, at] for row, at in zip(rows, place, strict=True)])
        torch.testing.assert_close(now[torch.arange(len(rows)), token], wanted, atol=1e-4, rtol=0)
        whole = torch.stack([every[row, at - 1] for row, at in zip(rows, place, strict=True)])
        torch.testing.assert_close(now, whole, atol=1e-3, rtol=0)
        opened.step(token)


@pytest.mark.parametrize("context", CONTEXTS, ids=["one", "seven", "own"])
@pytest.mark.parametrize("epsilon", [0.4, 1e-3])
def test_the_table_says_what_the_rows_say(voices, tokens, epsilon, context):
    table = voices.score(tokens, Choice(NAMES), lengths=LENGTHS)
    asked = {"lengths": LENGTHS, "context": context}
    found = prune_table(posterior().bind(NAMES), tokens, table, epsilon=epsilon, **asked)
    model = ensemble(voices, epsilon)
    torch.testing.assert_close(found.scores, model.score(tokens, **asked), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.routing.dense(), model.routing(tokens, **asked).dense(), atol=1e-3, rtol=0)


class Counted:
    """Counts the row and token pairs that decodings of a base run through it."""

    def __init__(self, monkeypatch):
        self.many, forward = 0, RowDecoding._forward

        def counting(decoding, tokens, positions, rows, **more):
            self.many += rows.count * tokens.shape[1]
            return forward(decoding, tokens, positions, rows, **more)

        monkeypatch.setattr(RowDecoding, "_forward", counting)


@pytest.mark.parametrize("epsilon", [0.4, 1e-3, 1e-9])
def test_the_rows_told_are_those_that_decoding_runs(voices, texts, tokens, epsilon, monkeypatch):
    """Decoding reads nothing ahead, so every row and token that runs is one that had to."""
    table = voices.score(tokens, Choice(NAMES), lengths=LENGTHS)
    told = prune_table(posterior().bind(NAMES), tokens, table, lengths=LENGTHS, context=7, epsilon=epsilon).rows
    for text, rows in zip(texts, told.tolist(), strict=True):
        counted = Counted(monkeypatch)
        opened = ensemble(voices, epsilon).open([text[:7]])
        for token in text[7:]:
            opened.next_logprobs()
            opened.step(torch.tensor([token]))
        assert rows == pytest.approx(counted.many / len(text))
        monkeypatch.undo()


def test_nobody_leaves_under_nought(voices, tokens):
    table = voices.score(tokens, Choice(NAMES), lengths=LENGTHS)
    found = prune_table(posterior().bind(NAMES), tokens, table, lengths=LENGTHS, epsilon=0.0)
    assert found.rows.tolist() == [3.0, 3.0]
    torch.testing.assert_close(found.scores, ensemble(voices).score(tokens, lengths=LENGTHS), atol=1e-5, rtol=0)


def test_scoring_reads_little_more_than_the_rows_told(voices, tokens, monkeypatch):
    """What is read ahead and taken back is at most as much as what was needed, and nothing is read all over again."""
    table = voices.score(tokens, Choice(NAMES), lengths=LENGTHS)
    for row, epsilon in ((0, 0.4), (1, 0.4), (0, 1e-3), (1, 1e-3)):
        length = LENGTHS[row : row + 1]
        one = tokens[row : row + 1, : int(length)]
        told = prune_table(
            posterior().bind(NAMES), one, table[row : row + 1, : int(length)], lengths=length, epsilon=epsilon
        ).rows
        counted = Counted(monkeypatch)
        ensemble(voices, epsilon).score(one)
        monkeypatch.undo()
        assert told[0] * length[0] <= counted.many + 1e-3
        assert counted.many <= 2 * told[0] * length[0]


def test_epsilon_nought_is_the_full_ensemble(voices, tokens):
    from collegium.compose.ensemble import row_plan
    from collegium.compose.pruned import Pruning

    pruning = Pruning(voices.base, row_plan(Choice(NAMES), voices.keys), posterior().bind(NAMES), 0.0)
    scores, _ = pruning.follow(tokens, lengths=LENGTHS, context=torch.tensor([1, 1]))
    torch.testing.assert_close(scores, ensemble(voices).score(tokens, lengths=LENGTHS), atol=1e-4, rtol=0)


def test_a_text_that_changes_hands_calls_back_who_left_and_is_exact_again(voices, tokens):
    pruned = ensemble(voices, 0.4).routing(tokens, lengths=LENGTHS).dense()
    exact = ensemble(voices).routing(tokens, lengths=LENGTHS).dense()
    new = int(exact[1, -1].argmax())
    gone = pruned[1, :, new] == 0
    assert exact[1, 127].argmax() == NAMES.index("law") != new
    assert gone[112:128].all()
    assert not gone[-1]
    assert pruned[1, -1].argmax() == new
    back = int(gone.nonzero().max()) + 1
    survivors = pruned[1, back] > 0
    torch.testing.assert_close(
        pruned[1, back], exact[1, back] * survivors / exact[1, back][survivors].sum(), atol=1e-3, rtol=0
    )


def test_the_bound_holds_for_who_never_left(voices, tokens):
    pruned, table = ensemble(voices, 1e-3), voices.score(tokens, Choice(NAMES), lengths=LENGTHS)
    stayed = (pruned.routing(tokens, lengths=LENGTHS).dense()[0] > 0).all(0)
    nats, alone = -pruned.score(tokens, lengths=LENGTHS)[0].sum(), -table[0].sum(0)
    assert stayed.any()
    assert (nats <= alone[stayed] + math.log(len(NAMES)) + 1e-3).all()


def test_each_text_is_pruned_by_itself(voices, texts, tokens):
    model = ensemble(voices, 0.4)
    both = model.score(tokens, lengths=LENGTHS)
    for row, text in enumerate(texts):
        alone = model.score(torch.tensor([text]))
        torch.testing.assert_close(both[row, : len(text)], alone[0], atol=1e-4, rtol=0)


def test_what_cannot_be_pruned_is_refused(voices):
    for epsilon in (-0.1, 0.5, math.nan):
        with pytest.raises(RoutingError, match="prune is the posterior"):
            ensemble(voices, epsilon)
    with pytest.raises(RoutingError, match="does not carry"):
        Ensemble(voices, uniform().bind(NAMES), prune=1e-3)
    toys = SeparateVoices({name: bigram_lm(place, symbols=7) for place, name in enumerate(NAMES)})
    with pytest.raises(RoutingError, match="weights of their own"):
        Ensemble(toys, posterior().bind(NAMES), prune=1e-3)
