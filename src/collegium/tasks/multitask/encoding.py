"""Rows of tasks as token ids: prompt and answer tokenised apart, cut by one rule.

Every answer ends with the end-of-text token, as a model that is asked ends. Of a text of at most n tokens, answers keep
their first n / 2 at most, and the prompt as many of its last as then fit beside the longest of the row's answers: so
all answers of a row follow the same prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from collegium.core.errors import BaseModelError
from collegium.data.encoding import window_prefix
from collegium.data.text_tasks import TaskRow
from collegium.models import Base
from collegium.rewards.texts import EncodedSample, TextBatch, batch_of


class RowEncoder:
    """Turns rows into token ids for one base.

    Raises BaseModelError for a base that does not speak, has no tokenizer, or reads fewer tokens.
    """

    def __init__(self, base: Base, text_tokens: int) -> None:
        """Check that the base can be asked."""
        base.require_output()
        if base.tokenizer is None:
            raise BaseModelError(f"{base.name} has no tokenizer, so it cannot be asked; add its tokenizer's files.")
        base.check_length(text_tokens)
        self.tokenizer, self.room = base.tokenizer, text_tokens
        self._before = window_prefix(base.tokenizer)
        end = getattr(base.tokenizer, "eos_token_id", None)
        self._after = () if end is None else (int(end),)

    def __call__(self, row: TaskRow, answers: Sequence[str]) -> list[EncodedSample]:
        """Return the row's prompt with each of these answers; all are cut where the prompt is."""
        room = self.room - len(self._before)
        told = [(*self._plain(answer), *self._after)[: max(1, room // 2)] for answer in answers]
        prompt = self._plain(row.prompt)
        left = room - max(map(len, told))
        kept = (*self._before, *prompt[-left:]) or self._after
        return [EncodedSample(kept, each, len(prompt) > left) for each in told]

    def _plain(self, text: str) -> tuple[int, ...]:
        options = {"verbose": False} if getattr(self.tokenizer, "is_fast", False) else {}
        return tuple(self.tokenizer.encode(text, add_special_tokens=False, **options))


@dataclass(frozen=True, eq=False)
class Answers:
    """The test rows of a task, each with every answer that is read after its prompt.

    row:      which row each text is of. right: whether it is the row's own answer. competes: whether it may be chosen.
    chooses:  whether every row names the answers that compete: then there is an accuracy.
    """

    texts: TextBatch
    row: Int[Tensor, " text"]
    right: Bool[Tensor, " text"]
    competes: Bool[Tensor, " text"]
    chooses: bool
    cut: int = 0

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self.right.sum())


def scored_tokens(texts: TextBatch) -> Bool[Tensor, "text seq"]:
    """Return which tokens are answers: those behind the prompt.

    >>> scored_tokens(batch_of([EncodedSample((1, 2), (3,))])).tolist()
    [[False, False, True]]
    """
    place = torch.arange(texts.tokens.shape[1])
    return (place >= texts.prompts[:, None]) & (place < texts.lengths[:, None])


def encode_rows(rows: Sequence[TaskRow], encoder: RowEncoder) -> tuple[TextBatch, int]:
    """Return rows with their own answers as texts, and how many prompts were cut."""
    found = [encoder(row, (row.completion, *row.choices))[0] for row in rows]
    return batch_of(found), sum(each.cut for each in found)


def encode_answers(rows: Sequence[TaskRow], encoder: RowEncoder) -> Answers:
    """Return test rows with all of their answers."""
    texts, row, right, competes, cut = [], [], [], [], 0
    for number, each in enumerate(rows):
        answers = tuple(dict.fromkeys((each.completion, *each.choices)))
        found = encoder(each, answers)
        texts += found
        row += [number] * len(answers)
        right += [answer == each.completion for answer in answers]
        competes += [answer in each.choices for answer in answers]
        cut += found[0].cut
    chooses = all(each.choices for each in rows)
    return Answers(batch_of(texts), torch.tensor(row), torch.tensor(right), torch.tensor(competes), chooses, cut)
