"""A lane: requests of one base, run together. Texts being continued, and prompts being read."""

import functools
import itertools
from collections.abc import Collection, Sequence

import torch

from collegium.infer.engine.requests import Request
from collegium.infer.engine.values import EngineStats
from collegium.models import RowDecoding, positions_of, seat_rows

_FORWARD_TOKENS = 32
"""How much padding costs as much as a forward more: measured with `smollm2-135m` on one core, about 25 tokens."""


class Lane:
    """Requests that run in one decoding; newcomers have their prompts read beside it and join it then.

    A step is one forward for all texts under way, and one for each group of prompts of like length that there is room
    for: a single forward of both would pad every text to the length of a prompt.
    """

    def __init__(self, stats: EngineStats) -> None:
        """Start empty."""
        self._stats = stats
        self._newcomers: list[Request] = []
        self._reading: tuple[RowDecoding, Request] | None = None
        self._running: list[Request] = []
        self._decoding: RowDecoding | None = None
        self._others = False

    @property
    def requests(self) -> list[Request]:
        """Everybody here."""
        reading = [] if self._reading is None else [self._reading[1]]
        return [*self._running, *reading, *self._newcomers]

    @property
    def ready(self) -> list[Request]:
        """Those whose next token can be drawn."""
        return list(self._running)

    def enter(self, request: Request) -> None:
        """Let a request have its prompt read as soon as there is time."""
        self._newcomers.append(request)

    def advance(self, prompt_tokens: int) -> None:
        """Read what was drawn, and prompts: so many tokens while others speak, all of them when nobody does."""
        speaking, reading = bool(self._running), bool(self._newcomers or self._reading)
        self._stats.mixed += speaking and reading
        if speaking:
            self._step()
        left = prompt_tokens if speaking else None
        while (self._newcomers or self._reading) and (left is None or left > 0):
            read = self._read(left)
            left = None if left is None else left - read

    def leave(self, gone: Collection[Request]) -> None:
        """Let requests go, wherever they are; their rows and caches go with them."""
        self._newcomers = [each for each in self._newcomers if each not in gone]
        if self._reading is not None and self._reading[1] in gone:
            self._reading = None
        stay = [place for place, each in enumerate(self._running) if each not in gone]
        if len(stay) == len(self._running):
            return
        self._running = [self._running[place] for place in stay]
        if not stay:
            self._decoding = None
        elif self._decoding is not None:
            self._decoding.keep(torch.tensor(stay))
            self._seat(self._decoding, self._running)

    def _step(self) -> None:
        assert self._decoding is not None
        seats = [request.seat for request in self._running]
        rows = seat_rows(seats) if self._others or any(seat.changed for seat in seats) else None
        self._decoding.step(torch.tensor([seat.pending for seat in seats]), rows)
        for seat in seats:
            seat.pending, seat.changed = None, False
        self._others = False
        self._count(new=len(seats))

    def _read(self, left: int | None) -> int:
        """Read a part of the prompts, and return how many tokens that was."""
        if self._reading is not None:
            return self._read_on(*self._reading, left)
        fitting = _fitting(self._newcomers, left)
        if not fitting:
            return self._read_first(self._newcomers.pop(0), left or 1)
        chosen, self._newcomers = self._newcomers[:fitting], self._newcomers[fitting:]
        return sum(self._open(alike) for alike in _alike(chosen))

    def _open(self, chosen: Sequence[Request]) -> int:
        """Read whole prompts in one forward, and return how many tokens that was."""
        prompts = [request.writing.prompt for request in chosen]
        rows = seat_rows([request.seat for request in chosen])
        opened = RowDecoding(chosen[0].asked.base, prompts, rows, traced=rows.gates is not None)
        read = sum(map(len, prompts))
        self._count(read=read)
        self._join(opened, chosen)
        return read

    def _read_first(self, request: Request, tokens: int) -> int:
        """Read the beginning of a prompt that is too long for one step."""
        rows = positions_of(request.seat.rows, 0, tokens)
        opened = RowDecoding(request.asked.base, [request.writing.prompt[:tokens]], rows, traced=rows.gates is not None)
        self._reading = (opened, request)
        self._count(read=tokens)
        return tokens

    def _read_on(self, opened: RowDecoding, request: Request, left: int | None) -> int:
        prompt, start = request.writing.prompt, int(opened.lengths[0])
        stop = len(prompt) if left is None else min(len(prompt), start + left)
        rows = positions_of(request.seat.rows, start, stop)
        opened.read(torch.tensor([prompt[start:stop]]), rows, prompt=True)
        self._count(read=stop - start)
        if stop == len(prompt):
            self._reading = None
            self._join(opened, [request])
        return stop - start

    def _join(self, opened: RowDecoding, chosen: Sequence[Request]) -> None:
        """Let requests whose prompts have been read go on with the others."""
        self._seat(opened, chosen)
        for request in chosen:
            request.begin()
            request.seat.has_read_prompt()
            self._stats.prompt_tokens += len(request.writing.prompt)
        opened.forget_prompts()
        if self._decoding is None:
            self._decoding = opened
        else:
            self._decoding.join(opened)
        self._running = [*self._running, *chosen]
        self._seat(self._decoding, self._running)

    def _seat(self, decoding: RowDecoding, requests: Sequence[Request]) -> None:
        """Show every request where its rows are now; they stand behind each other, in the requests' order."""
        begin, moved = 0, functools.partial(self._seat, decoding, requests)
        for text, request in enumerate(requests):
            where = torch.arange(begin, begin + request.rows)
            request.seat.place(decoding, where, text=text, moved=moved)
            begin += request.rows
        self._others = True

    def _count(self, *, read: int = 0, new: int = 0) -> None:
        self._stats.forwards += 1
        self._stats.read_tokens += read
        self._stats.new_tokens += new


def _fitting(requests: Sequence[Request], left: int | None) -> int:
    """Return how many of these prompts, from the first on, have no more tokens than are left; None = no end."""
    if left is None:
        return len(requests)
    totals = itertools.accumulate(len(request.writing.prompt) for request in requests)
    return sum(total <= left for total in totals)


def _alike(requests: Sequence[Request]) -> list[list[Request]]:
    """Return the requests by length of prompt, parted where a forward more costs less than padding to the longest."""
    groups: list[list[Request]] = []
    for request in sorted(requests, key=lambda each: len(each.writing.prompt)):
        own, group = len(request.writing.prompt), groups[-1] if groups else []
        if group and len(group) * (own - len(group[-1].writing.prompt)) <= _FORWARD_TOKENS:
            group.append(request)
        else:
            groups.append([request])
    return groups
