"""Samples as token ids: prompt and completion tokenised apart, cut by one rule.

A decoder reads prompt and completion run on, an encoder `[CLS] prompt [SEP] completion [SEP]` with one token type. A
chat is what the base's chat template makes of it, or a line of `role: content` for each turn where there is none. Of a
text of at most n tokens, a prompt keeps its last n / 2 (whatever is answered to it), the completion as many of its
first as then fit.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from collegium.core.errors import BaseModelError, DataError
from collegium.core.samples import Message, Sample, Text, plain_text
from collegium.data.encoding import window_prefix
from collegium.models import Base

MINIMUM_TOKENS = 8


@dataclass(frozen=True)
class EncodedSample:
    """A sample's tokens.

    prompt, completion: with the control tokens that go with each. cut: whether something was left out.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    cut: bool = False

    @property
    def tokens(self) -> tuple[int, ...]:
        """All of them."""
        return self.prompt + self.completion


@dataclass(frozen=True, eq=False)
class TextBatch:
    """Texts side by side, padded on the right; `prompts` says how far each one's prompt goes."""

    tokens: Int[Tensor, "text seq"]
    lengths: Int[Tensor, " text"]
    prompts: Int[Tensor, " text"]

    def take(self, rows: Int[Tensor, " kept"]) -> "TextBatch":
        """Return these texts alone, as wide as the longest of them."""
        lengths = self.lengths[rows]
        return TextBatch(self.tokens[rows, : int(lengths.max())], lengths, self.prompts[rows])

    @property
    def of_prompts(self) -> "TextBatch":
        """The prompts alone."""
        width = int(self.prompts.max())
        read = torch.arange(width) < self.prompts[:, None]
        return TextBatch(self.tokens[:, :width].masked_fill(~read, 0), self.prompts, self.prompts)

    def __len__(self) -> int:
        """Count the texts."""
        return len(self.lengths)


def batch_of(samples: Sequence[EncodedSample]) -> TextBatch:
    """Return encoded samples side by side.

    >>> batch_of([EncodedSample((1, 2), (3,)), EncodedSample((1,), (2,))]).tokens
    tensor([[1, 2, 3],
            [1, 2, 0]])
    """
    rows = [torch.tensor(each.tokens) for each in samples]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    prompts = torch.tensor([len(each.prompt) for each in samples])
    return TextBatch(tokens, torch.tensor([len(row) for row in rows]), prompts)


class Encoder:
    """Turns samples into token ids for one base, the same prompt only once.

    text_tokens: the most tokens of a text, control tokens counted.

    Raises BaseModelError for a base without tokenizer, or one that reads fewer tokens.
    """

    def __init__(self, base: Base, text_tokens: int) -> None:
        """Check that the base has a tokenizer and reads that far."""
        if base.tokenizer is None:
            raise BaseModelError(f"{base.name} has no tokenizer, so it cannot judge texts; add its tokenizer's files.")
        if text_tokens < MINIMUM_TOKENS:
            raise BaseModelError(f"a judge reads at least {MINIMUM_TOKENS} tokens of a text, got {text_tokens}.")
        base.check_length(text_tokens)
        self.tokenizer, self.text_tokens = base.tokenizer, text_tokens
        self._before, self._between, self._after = marks_of(base)
        self._prompts: dict[Text, tuple[tuple[int, ...], bool]] = {}

    def __call__(self, sample: Sample) -> EncodedSample:
        """Return a sample's tokens; raises DataError for an empty prompt or completion."""
        prompt, prompt_cut = self.prompt(sample.prompt)
        text = self._completion(sample)
        tokens = self._plain(text)
        if not tokens:
            raise DataError("a sample has a completion with at least one token, this one is empty. Leave it out.")
        room = self.text_tokens - len(prompt) - len(self._after)
        return EncodedSample(prompt, (*tokens[:room], *self._after), prompt_cut or len(tokens) > room)

    def prompt(self, prompt: Text) -> tuple[tuple[int, ...], bool]:
        """Return a prompt's tokens, which do not depend on what is answered to it, and whether some were left out."""
        if prompt not in self._prompts:
            tokens = self._plain(self._prompt_text(prompt))
            if not tokens:
                raise DataError("a sample has a prompt with at least one token, this one is empty. Leave it out.")
            room = self.text_tokens // 2 - len(self._before) - len(self._between)
            kept = (*self._before, *tokens[-room:], *self._between)
            self._prompts[prompt] = (kept, len(tokens) > room)
        return self._prompts[prompt]

    def _plain(self, text: str) -> tuple[int, ...]:
        options = {"verbose": False} if getattr(self.tokenizer, "is_fast", False) else {}
        return tuple(self.tokenizer.encode(text, add_special_tokens=False, **options))

    def _prompt_text(self, prompt: Text) -> str:
        return prompt if isinstance(prompt, str) else self._rendered(prompt, ask=True)

    def _completion(self, sample: Sample) -> str:
        prompt, completion = sample.prompt, sample.completion
        if isinstance(prompt, str):
            return plain_text(completion)
        turns = (Message("assistant", completion),) if isinstance(completion, str) else completion
        asked, full = self._rendered(prompt, ask=True), self._rendered((*prompt, *turns), ask=False)
        if not full.startswith(asked):
            raise DataError(
                "this base's chat template does not render a chat turn by turn, so an answer cannot be told from its "
                "prompt. Give prompt and completion as plain texts."
            )
        return full[len(asked) :]

    def _rendered(self, turns: tuple[Message, ...], *, ask: bool) -> str:
        if not getattr(self.tokenizer, "chat_template", None):
            lines = [f"{each.role}: {each.content}\n" for each in turns]
            return "".join(lines) + ("assistant: " if ask else "")
        from jinja2 import TemplateError

        rows = [{"role": each.role, "content": each.content} for each in turns]
        try:
            return self.tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=ask)
        except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise DataError(
                f"this base's chat template refuses the chat: {error}. Most want user and assistant in turn, beginning "
                "with the user or the system."
            ) from error


def encode_all(
    samples: Iterable[Sample], encoder: Encoder, *, where: Callable[[int], str] = lambda number: f"sample {number + 1}"
) -> list[EncodedSample]:
    """Return all samples encoded; a DataError says which one it is about."""
    found = []
    for number, sample in enumerate(samples):
        try:
            found.append(encoder(sample))
        except DataError as error:
            raise DataError(f"{where(number)}: {error}") from error
    return found


def marks_of(base: Base) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the control tokens before a prompt, between it and its completion, and at the end."""
    if base.causal:
        return window_prefix(base.tokenizer), (), ()
    first, between = base.tokenizer.cls_token_id, base.tokenizer.sep_token_id
    if first is None or between is None:
        raise BaseModelError(f"{base.name} is an encoder whose tokenizer has no marks for the first token and the end.")
    return (first,), (between,), (between,)
