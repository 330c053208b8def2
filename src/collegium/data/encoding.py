"""Documents as token ids, with a mark on the tokens that a loss counts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from collegium.core.errors import DataError
from collegium.core.protocols import Tokenizer
from collegium.data.chats import Span, chat_spans
from collegium.data.documents import Document

_ANCHOR_TOKENS = 16


@dataclass(frozen=True)
class Encoded:
    """One document's tokens.

    scored:      whether the loss counts a token: all of a text, a pair's completion, a chat's answers; each answer
                 and completion with the token that ends it.
    token_bytes: how many utf-8 bytes of the document a token spells; 0 for control tokens and, in a chat, for all
                 but the answers. Their sum is the utf-8 length of the text, of the pair, of the chat's answers.
    context:     leading tokens that are read, never scored: a pair's prompt, a chat up to its first answer.
    prefix:      token ids with which every window of this tokenizer begins (Gemma's `<bos>`), never scored;
                 no part of `tokens`.
    """

    tokens: tuple[int, ...]
    scored: tuple[bool, ...]
    token_bytes: tuple[int, ...]
    context: int = 0
    prefix: tuple[int, ...] = ()


def encode(document: Document, tokenizer: Tokenizer | None) -> Encoded:
    """Return a document's tokens and which of them count.

    A text is tokenised as it stands. A pair is its prompt's tokens, its completion's, and the end-of-text token.
    A chat is what the tokenizer's chat template makes of it. Prompt and answer are tokenised apart, as they are when
    the model is asked to continue a prompt.

    Raises DataError for a base without tokenizer, and for a chat where there is no usable chat template.
    """
    if tokenizer is None:
        raise DataError(
            "this base has no tokenizer, so text cannot be turned into tokens; use a base with tokenizer files, or "
            "give token ids to `score` and `logprobs`."
        )
    prefix = window_prefix(tokenizer)
    if document.text is not None:
        spans = [Span(document.text, scored=True, counted=True)]
    elif document.messages is not None:
        # The template writes its own begin-of-text token.
        spans, prefix = chat_spans(document.messages, tokenizer, where=document.origin or "chat"), ()
    else:
        spans = [Span(document.prompt or "", scored=False, counted=True), Span(document.completion or "", True, True)]
    parts = [_encode_span(span, tokenizer) for span in spans]
    if document.kind == "pair":
        parts += _end_of_text(tokenizer)
    tokens, scored, token_bytes = (tuple(x for part in parts for x in part[column]) for column in range(3))
    unscored = next((place for place, counts in enumerate(scored) if counts), len(scored))
    return Encoded(tokens, scored, token_bytes, unscored, prefix)  # pyright: ignore[reportArgumentType]


def window_prefix(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the control tokens that this tokenizer puts before a text (most have none)."""
    plain, full = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a", add_special_tokens=True)
    for start in range(len(full) - len(plain) + 1):
        if list(full[start : start + len(plain)]) == list(plain):
            return tuple(full[:start])
    return ()


_Columns = tuple[list[int], list[bool], list[int]]


def _end_of_text(tokenizer: Tokenizer) -> list[_Columns]:
    end = getattr(tokenizer, "eos_token_id", None)
    return [] if end is None else [([end], [True], [0])]


def _encode_span(span: Span, tokenizer: Tokenizer) -> _Columns:
    if getattr(tokenizer, "is_fast", False):
        tokens, ends = _fast(span.text, tokenizer)
    else:
        tokens = list(tokenizer.encode(span.text, add_special_tokens=False))
        ends = list(_spelled(tokens, span.text, tokenizer))
    counts = _bytes_between(span.text, ends) if span.counted else [0] * len(tokens)
    return tokens, [span.scored] * len(tokens), counts


def _fast(text: str, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    # verbose=False: a document longer than the model's positions is no mistake, windows are cut from it.
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)  # pyright: ignore[reportCallIssue]
    return list(coded["input_ids"]), [end for _, end in coded["offset_mapping"]]


def _spelled(tokens: Sequence[int], text: str, tokenizer: Tokenizer) -> Iterator[int]:
    """Yield, after each token, how many characters of the text are spelled: decoded prefixes compared with it.

    Decoding starts anew from an anchor a few tokens back, so that a long text costs no square.
    """
    anchor, anchor_place, place = 0, 0, 0
    for count in range(1, len(tokens) + 1):
        spelled = _common_prefix(tokenizer.decode(tokens[anchor:count]), text, anchor_place)
        place = max(place, anchor_place + spelled)
        yield place
        whole = tokenizer.decode(tokens[anchor:count]) == text[anchor_place:place]
        if whole and count - anchor >= _ANCHOR_TOKENS:
            anchor, anchor_place = count, place


def _common_prefix(decoded: str, text: str, start: int) -> int:
    length = min(len(decoded), len(text) - start)
    if decoded[:length] == text[start : start + length]:
        return length
    return next(i for i in range(length) if decoded[i] != text[start + i])


def _bytes_between(text: str, ends: Sequence[int]) -> list[int]:
    """Return the utf-8 bytes between successive character positions; what is left at the end is the last token's."""
    counts, place = [], 0
    for number, end in enumerate(ends, start=1):
        end = len(text) if number == len(ends) else max(end, place)
        counts.append(len(text[place:end].encode()))
        place = end
    return counts
