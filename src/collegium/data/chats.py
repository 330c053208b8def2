"""Chats through a tokenizer's own chat template, with its answers found in what the template wrote."""

from collections.abc import Sequence
from dataclasses import dataclass

from collegium.core.errors import DataError
from collegium.core.protocols import Tokenizer
from collegium.data.documents import Message


@dataclass(frozen=True)
class Span:
    """A stretch of text that is tokenised on its own.

    scored: the loss counts it. counted: its bytes are the document's.
    """

    text: str
    scored: bool
    counted: bool


def chat_spans(messages: Sequence[Message], tokenizer: Tokenizer, *, where: str) -> list[Span]:
    """Return the rendered chat in stretches; the scored ones are each answer's content and its end token.

    An answer begins where the template, asked to render the messages before it with the generation prompt, stops:
    so the model learns to write exactly what it will be asked to write.

    Raises DataError when there is no chat template, or it does not render turn by turn.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"{where}: rows with `messages` need a tokenizer with a chat template, this base's has none. Use a base "
            'that was made for chats, or turn each chat into {"text": ...} or {"prompt": ..., "completion": ...}.'
        )
    turns = [{"role": each.role, "content": each.content} for each in messages]
    full, place, spans = _render(turns, tokenizer, where=where), 0, []
    for number, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before = _render(turns[:number], tokenizer, where=where, ask=True)
        start = _answer_start(full, before, turn["content"], where=where)
        text = turn["content"] if full.startswith(turn["content"], start) else turn["content"].strip()
        end_token = _end_token(full[start + len(text) :], tokenizer)
        spans += [Span(full[place:start], False, False), Span(text, True, True), Span(end_token, True, False)]
        place = start + len(text) + len(end_token)
    spans.append(Span(full[place:], False, False))
    return [span for span in spans if span.text]


def _answer_start(full: str, before: str, content: str, *, where: str) -> int:
    if full.startswith(before):
        start = len(before)
        for skipped in range(3):  # some templates end the generation prompt before a space or line break
            if full[start : start + skipped].strip() == "" and full.startswith(content.strip(), start + skipped):
                return start if full.startswith(content, start) else start + skipped
    raise DataError(
        f"{where}: this base's chat template does not render a chat turn by turn, so answers cannot be told from "
        'questions in it. Turn each chat into {"prompt": ..., "completion": ...}.'
    )


def _end_token(rest: str, tokenizer: Tokenizer) -> str:
    special = {*getattr(tokenizer, "all_special_tokens", ()), *getattr(tokenizer, "get_added_vocab", dict)()}
    return max((token for token in special if token and rest.startswith(token)), key=len, default="")


def _render(turns: Sequence[dict[str, str]], tokenizer: Tokenizer, *, where: str, ask: bool = False) -> str:
    import jinja2

    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask)  # pyright: ignore[reportAttributeAccessIssue]
    except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}: this base's chat template refuses the chat: {error}. Most want user and assistant in turn, "
            "beginning with the user or the system."
        ) from error
