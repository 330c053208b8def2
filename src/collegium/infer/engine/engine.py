"""The engine: requests come, every step gives each of them a token, requests go."""

from collections.abc import Mapping, Sequence

import torch

from collegium.compose import Asked, RowModel, attach_expert
from collegium.core.errors import ResourceError, RoutingError, UnknownName
from collegium.core.protocols import context_limit
from collegium.core.randomness import generator
from collegium.core.routing import BASE
from collegium.core.tables import nearest
from collegium.infer.engine.lanes import Lane
from collegium.infer.engine.requests import Request
from collegium.infer.engine.values import EngineLimits, EngineStats, Event, Finished
from collegium.infer.generate import check_ids, check_prompt, encode_prompt, room
from collegium.infer.sampling import Sampling
from collegium.infer.writing import Generation, Writing
from collegium.library import Library
from collegium.models import BASE_ROWS, Base, BaseDecoding, RowPlan, Seat

Experts = str | Mapping[str, float] | Base | RowModel
"""Who continues a request: an expert's name (or `base`), a blend {name: any finite weight}, or an opened model."""


class Engine:
    """Continues many requests at once, each by experts, settings and a seed of its own.

    Every request gets one token a step. A request's tokens are those it gets alone, whoever else is there: its rows
    read nobody else's, and it draws from a stream of its own. Serves one thread at a time.

    >>> from collegium.testing.pico import pico_base
    >>> engine = Engine(pico_base())
    >>> number = engine.add_request("To be", sampling=Sampling(tokens=3, temperature=0.0))
    >>> len(engine.run()[number].tokens)
    3
    """

    def __init__(self, base: Base, library: Library | None = None, *, limits: EngineLimits | None = None) -> None:
        """Serve a base and, by their names, a library's experts or what is attached to the base."""
        self.base, self.library, self.limits = base, library, limits or EngineLimits()
        self.stats = EngineStats()
        self._waiting: list[Request] = []
        self._lanes: dict[tuple[int, int], Lane] = {}
        self._numbers = 0

    @property
    def waiting(self) -> int:
        """How many requests wait for a place."""
        return len(self._waiting)

    @property
    def live(self) -> int:
        """How many requests have a place."""
        return len(self._placed)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._waiting or self._lanes)

    @torch.no_grad()
    def add_request(
        self,
        prompt: str | Sequence[int],
        *,
        model: Experts = BASE,
        sampling: Sampling | None = None,
        seed: int = 0,
        stream: int = 0,
    ) -> int:
        """Return the number of a new request, whose first token comes with one of the next steps.

        model:    who continues it; a model on another base (a merged one) runs in a lane of its own.
        sampling: how its tokens are drawn, how many at most, and which strings end it.
        seed:     what they are drawn with; `stream` tells requests of one seed apart, as `generate` does its prompts.

        Raises DataError, UnknownName or RoutingError for what cannot be asked; BaseModelError for a prompt longer
        than the model reads; ResourceError for a request that the limits never have room for, or a full queue.
        """
        sampling = sampling or Sampling()
        if len(self._waiting) >= self.limits.waiting:
            raise ResourceError(
                f"{len(self._waiting)} requests wait already, the limit is {self.limits.waiting}; "
                "let some finish first, or raise the limit `waiting`."
            )
        opened = self.base if isinstance(model, str | Mapping) else model
        ids = encode_prompt(prompt, opened.tokenizer)
        check_ids([ids], opened.vocab_size)
        limit = context_limit(opened)
        check_prompt(ids, limit)
        writing = Writing(ids, generator(seed, "generate", str(stream)), most=room(ids, sampling.tokens, limit))
        asked = self._ask(model, ids)
        request = Request(self._numbers, opened.tokenizer, writing, sampling, asked, Seat(asked.plan, len(ids)))
        self._check_room(request)
        self._numbers += 1
        self._waiting.append(request)
        self.stats.deciding_tokens += asked.read
        return request.number

    @torch.no_grad()
    def step(self) -> list[Event]:
        """Give every request that has a place one token, and return what happened; nothing when nobody is there."""
        self._admit()
        if not self._lanes:
            return []
        self.stats.steps += 1
        events: list[Event] = []
        for lane in list(self._lanes.values()):
            lane.advance(self.limits.prompt_tokens)
            gone = set()
            for request in sorted(lane.ready, key=lambda each: each.number):
                told = request.speak()
                events += told
                if isinstance(told[-1], Finished):
                    gone.add(request)
            self._release(lane, gone)
            self.stats.finished += len(gone)
        return events

    def run(self) -> dict[int, Generation]:
        """Step until nobody is left, and return what the requests that finished meanwhile have written."""
        written = {}
        while self.busy:
            for event in self.step():
                if isinstance(event, Finished):
                    written[event.request] = event.generation
        return written

    def cancel(self, number: int) -> Generation:
        """Let a request go, its rows with it, and return what it has written; raises UnknownName."""
        for request in [*self._waiting, *self._placed]:
            if request.number == number:
                break
        else:
            raise UnknownName(f"no request {number} is waiting or being continued; finished ones need no cancelling.")
        if request in self._waiting:
            self._waiting.remove(request)
        else:
            self._release(self._lanes[request.lane], {request})
        self.stats.cancelled += 1
        request.writing.ended = "cancelled"
        return request.writing.finished(request.experts)

    @property
    def _placed(self) -> list[Request]:
        return [request for lane in self._lanes.values() for request in lane.requests]

    def _release(self, lane: Lane, gone: set[Request]) -> None:
        lane.leave(gone)
        if not lane.requests:
            self._lanes = {key: each for key, each in self._lanes.items() if each is not lane}

    def _admit(self) -> None:
        """Give places to those who wait, in their order, as far as there is room."""
        while self._waiting and self._has_room(self._waiting[0]):
            request = self._waiting.pop(0)
            self._lanes.setdefault(request.lane, Lane(self.stats)).enter(request)
        rows = sum(request.rows for request in self._placed)
        self.stats.most_rows = max(self.stats.most_rows, rows)

    def _has_room(self, request: Request) -> bool:
        """Return whether rows and caches suffice with this request too, however long texts become."""
        everybody = [*self._placed, request]
        rows, tokens = sum(each.most_rows for each in everybody), 0
        for lane in {each.lane for each in everybody}:
            there = [each for each in everybody if each.lane == lane]
            tokens += sum(each.most_rows for each in there) * max(each.longest_tokens for each in there)
        return rows <= self.limits.rows and tokens <= self.limits.cache_tokens

    def _check_room(self, request: Request) -> None:
        """Raise ResourceError when a request would not even fit alone."""
        if request.most_rows > self.limits.rows:
            raise ResourceError(
                f"this request costs {request.most_rows} rows, the limit is {self.limits.rows}; ask fewer experts "
                "(top_k), or raise the limit `rows`."
            )
        needed = request.most_rows * request.longest_tokens
        if needed > self.limits.cache_tokens:
            raise ResourceError(
                f"cache exhausted: {request.most_rows} rows of up to {request.longest_tokens} tokens need {needed} "
                f"places, the limit is {self.limits.cache_tokens}; ask for fewer new tokens, or raise the limit "
                "`cache_tokens`."
            )

    def _ask(self, model: Experts, ids: Sequence[int]) -> Asked:
        """Return how a prompt is to be read."""
        match model:
            case Base():
                return Asked(model, BASE_ROWS, BaseDecoding)
            case str():
                return Asked(self.base, RowPlan.one(self._key(model)), BaseDecoding)
            case Mapping():
                weights = torch.tensor([[[float(weight) for weight in model.values()]]])
                if not weights.isfinite().all():
                    raise RoutingError(f"a blend has finite weights, got {dict(model)}.")
                return Asked(self.base, RowPlan.blend([self._key(name) for name in model], weights), BaseDecoding)
            case RowModel():
                return model.ask([ids])
            case _:
                raise RoutingError(
                    f"{type(model).__name__} is not run as rows of one base; continue it with `generate`."
                )

    def _key(self, name: str) -> str:
        """Return the name under which an expert is attached, attaching it if need be."""
        if name == BASE or (self.library is None and name in self.base.attached):
            return name
        if self.library is None:
            raise UnknownName(
                f"no expert {name!r} is attached to this base. {nearest(name, self.base.attached)} "
                "Attach it, or give the engine its library."
            )
        return attach_expert(self.base, self.library[name])
