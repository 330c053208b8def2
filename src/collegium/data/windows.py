"""Windows of tokens: packed to train on, cut to evaluate on, joined."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from collegium.core.errors import DataError
from collegium.core.protocols import Tokenizer
from collegium.core.randomness import generator
from collegium.data.documents import Document
from collegium.data.encoding import Encoded, encode

MINIMUM_WINDOW = 2
_BUDGET_SHARES = 16


@dataclass(frozen=True)
class Windows:
    """Right-padded windows of tokens.

    lengths:     how far each window goes; behind it tokens are 0.
    scored:      tokens the loss counts; never the first of a segment, which nothing predicts.
    segments:    which piece of text a token belongs to, counted from 0 in each window; -1 = padding.
    token_bytes: utf-8 bytes of each token, scored or not (see `Encoded`): bits per byte sums them where it scores.
    document:    index of the window's first document among those given; joined windows keep their own.
    context:     leading tokens of a pair (its prompt) or chat (up to its first answer), which a report does not
                 score; 0 elsewhere, and there the report's own setting rules.
    """

    tokens: Int[Tensor, "window seq"]
    lengths: Int[Tensor, " window"]
    scored: Bool[Tensor, "window seq"]
    segments: Int[Tensor, "window seq"]
    token_bytes: Int[Tensor, "window seq"]
    document: Int[Tensor, " window"]
    context: Int[Tensor, " window"]

    def __len__(self) -> int:
        """Count the windows."""
        return self.tokens.shape[0]

    @property
    def tokens_count(self) -> int:
        """How many tokens the windows hold, padding left out."""
        return int(self.lengths.sum())

    def take(self, index: Int[Tensor, " taken"]) -> "Windows":
        """Return these windows alone, in this order."""
        return Windows(
            tokens=self.tokens[index],
            lengths=self.lengths[index],
            scored=self.scored[index],
            segments=self.segments[index],
            token_bytes=self.token_bytes[index],
            document=self.document[index],
            context=self.context[index],
        )


@dataclass(frozen=True)
class _Piece:
    """A stretch of one document that fits into a window."""

    tokens: tuple[int, ...]
    scored: tuple[bool, ...]
    token_bytes: tuple[int, ...]
    document: int
    context: int

    def __len__(self) -> int:
        return len(self.tokens)


def pack(
    documents: Sequence[Document],
    tokenizer: Tokenizer | None,
    *,
    window: int,
    seed: int,
    budget_tokens: int | None = None,
) -> Windows:
    """Return windows to train on: long documents cut, short ones sharing a window, in an order drawn from the seed.

    Every token of every text of at least two tokens is in exactly one window, and so is every scored token of a pair
    or chat, save one that would open a stretch (nothing predicts it). The order of the documents plays no part.

    budget_tokens: read only about as many tokens (never fewer if the documents have them), from at least 16 documents
    where there are so many: of a long document a stretch that begins at a place drawn from the seed. Stretches of a
    chat without an answer are no part of it.

    Raises DataError when no token is left to learn from.
    """
    _check_window(window)
    draw = generator(seed, "pack")
    order = sorted(range(len(documents)), key=lambda place: documents[place].hash)
    order = [order[place] for place in torch.randperm(len(order), generator=draw).tolist()]
    pieces = _budgeted(documents, order, tokenizer, window, budget_tokens, draw)
    bins = _fill(pieces, window)
    shuffled = [bins[place] for place in torch.randperm(len(bins), generator=draw).tolist()]
    return _stack(shuffled)


def cut(
    documents: Sequence[Document], tokenizer: Tokenizer | None, *, window: int = 128, budget_tokens: int | None = None
) -> Windows:
    """Return windows to evaluate on: each from one document, in hash order, with at most `budget_tokens` in all.

    Under a budget every document gives the windows of a sixteenth of it before any gives more, so that one long
    document does not speak for its whole domain. Windows without a scored token are left out. Raises DataError when
    none is left.
    """
    _check_window(window)
    order = sorted(range(len(documents)), key=lambda place: documents[place].hash)
    streams = [_scored_pieces(documents[place], place, tokenizer, window) for place in order]
    if budget_tokens is None:
        return _stack([[piece] for stream in streams for piece in stream])
    share = max(1, budget_tokens // (_BUDGET_SHARES * window))
    left, chosen = budget_tokens, []
    while streams and left >= MINIMUM_WINDOW:
        for stream in list(streams):
            taken = list(itertools.islice(stream, share))
            for piece in taken:
                if left >= MINIMUM_WINDOW:
                    chosen.append(_shorten(piece, left))
                    left -= len(chosen[-1])
            if len(taken) < share:
                streams.remove(stream)
            if left < MINIMUM_WINDOW:
                break
    rank = {place: number for number, place in enumerate(order)}
    chosen.sort(key=lambda piece: rank[piece.document])
    return _stack([[piece] for piece in chosen if any(piece.scored)])


def join_windows(several: Sequence[Windows]) -> Windows:
    """Return the windows one after another, padded to one width."""
    width = max(each.tokens.shape[1] for each in several)
    wide = [_widen(each, width) for each in several]
    return Windows(**{each.name: torch.cat([getattr(part, each.name) for part in wide]) for each in fields(Windows)})


def _widen(windows: Windows, width: int) -> Windows:
    missing = (0, width - windows.tokens.shape[1])
    pad = torch.nn.functional.pad
    return replace(
        windows,
        tokens=pad(windows.tokens, missing),
        scored=pad(windows.scored, missing),
        segments=pad(windows.segments, missing, value=-1),
        token_bytes=pad(windows.token_bytes, missing),
    )


def _scored_pieces(document: Document, place: int, tokenizer: Tokenizer | None, window: int) -> Iterator[_Piece]:
    """Yield a document's stretches that have a scored token; nothing is encoded before the first is asked for."""
    for piece in _pieces(encode(document, tokenizer), place, window):
        if any(piece.scored):
            yield piece


def _check_window(window: int) -> None:
    if window < MINIMUM_WINDOW:
        raise DataError(f"a window has at least {MINIMUM_WINDOW} tokens, one to read and one to predict; got {window}.")


def _pieces(encoded: Encoded, document: int, window: int) -> Iterator[_Piece]:
    """Yield a document's stretches, each with the tokenizer's prefix.

    A prompt that leaves its completion no room is shortened from its left, at most to half a window; no scored token
    is lost by that.
    """
    room = window - len(encoded.prefix)
    if room < 1:
        raise DataError(
            f"a window of {window} tokens has no room behind this tokenizer's {len(encoded.prefix)} leading control "
            "tokens; take a larger --window."
        )
    length, context = len(encoded.tokens), encoded.context
    start = 0
    if 0 < context < length and length > room:
        start = context - min(context, max(room - (length - context), room // 2))
    bounds = [*range(start, length, room), length]
    if room > MINIMUM_WINDOW and len(bounds) > MINIMUM_WINDOW and bounds[-1] - bounds[-2] == 1:
        bounds[-2] -= 1  # a last stretch of one token would have nothing to read it from
    for begin, end in itertools.pairwise(bounds):
        opens = begin == start and 0 < context < length
        yield _piece(encoded, document, slice(begin, end), context=context - start if opens else 0)


def _piece(encoded: Encoded, document: int, part: slice, *, context: int) -> _Piece:
    front = encoded.prefix
    # Nothing predicts the first token of a segment.
    scored = [False] * len(front) + list(encoded.scored[part])
    scored[0] = False
    return _Piece(
        tokens=(*front, *encoded.tokens[part]),
        scored=tuple(scored),
        token_bytes=(*([0] * len(front)), *encoded.token_bytes[part]),
        document=document,
        context=min(context + len(front), len(scored)) if context else 0,
    )


def _shorten(piece: _Piece, length: int) -> _Piece:
    return _Piece(
        piece.tokens[:length], piece.scored[:length], piece.token_bytes[:length], piece.document, piece.context
    )


def _budgeted(
    documents: Sequence[Document],
    order: Sequence[int],
    tokenizer: Tokenizer | None,
    window: int,
    budget_tokens: int | None,
    draw: torch.Generator,
) -> list[_Piece]:
    chosen, rest, read = [], [], 0
    for place in order:
        pieces = list(_scored_pieces(documents[place], place, tokenizer, window))
        if budget_tokens is None:
            chosen += pieces
            continue
        share = max(1, -(-budget_tokens // (_BUDGET_SHARES * window)))
        first = int(torch.randint(max(1, len(pieces) - share + 1), (1,), generator=draw))
        chosen += pieces[first : first + share]
        rest += pieces[:first] + pieces[first + share :]
        read += sum(map(len, pieces[first : first + share]))
        if read >= budget_tokens:
            break
    while budget_tokens is not None and read < budget_tokens and rest:
        chosen.append(rest.pop(0))
        read += len(chosen[-1])
    return chosen


def _fill(pieces: Sequence[_Piece], window: int) -> list[list[_Piece]]:
    """Return the pieces in windows: the longest first, each into the fullest window that still has room for it."""
    bins: list[list[_Piece]] = []
    by_room: dict[int, list[int]] = {}
    for piece in sorted(pieces, key=len, reverse=True):
        room = next((room for room in range(len(piece), window) if by_room.get(room)), None)
        if room is None:
            bins.append([])
            room, place = window, len(bins) - 1
        else:
            place = by_room[room].pop()
        bins[place].append(piece)
        by_room.setdefault(room - len(piece), []).append(place)
    return bins


def _stack(bins: Sequence[Sequence[_Piece]]) -> Windows:
    if not any(any(piece.scored) for pieces in bins for piece in pieces):
        raise DataError(
            "these documents leave no token to predict: each is empty or a single token, or no answer fits the "
            "budget. Give longer texts, or a larger budget."
        )
    lengths = torch.tensor([sum(map(len, pieces)) for pieces in bins])
    shape = (len(bins), int(lengths.max()))
    tokens, token_bytes = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    scored, segments = torch.zeros(shape, dtype=torch.bool), torch.full(shape, -1)
    for row, pieces in enumerate(bins):
        end = int(lengths[row])
        tokens[row, :end] = torch.tensor([x for piece in pieces for x in piece.tokens])
        scored[row, :end] = torch.tensor([x for piece in pieces for x in piece.scored])
        token_bytes[row, :end] = torch.tensor([x for piece in pieces for x in piece.token_bytes])
        segments[row, :end] = torch.tensor([number for number, piece in enumerate(pieces) for _ in piece.tokens])
    return Windows(
        tokens,
        lengths,
        scored,
        segments,
        token_bytes,
        document=torch.tensor([pieces[0].document for pieces in bins]),
        context=torch.tensor([pieces[0].context if len(pieces) == 1 else 0 for pieces in bins]),
    )
