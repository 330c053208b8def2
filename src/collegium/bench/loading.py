"""The n-th expert loaded into a model that speaks through n - 1 others already: ours, and PEFT's `load_adapter`."""

import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from collegium.bench.memory import peak_bytes
from collegium.bench.models import save_adapters, toy_base
from collegium.bench.peers import find_peer, next_logprobs, peers_own_warnings, peft_model
from collegium.bench.timing import Timing
from collegium.core.randomness import generator
from collegium.experts import AdapterPayload
from collegium.library import Library
from collegium.models import Base, RowPlan
from collegium.testing.pico import pico_base, random_adapter

OURS, PEER = "collegium", "PEFT load_adapter"
_START = "start"


@dataclass(frozen=True)
class Loads:
    """Timings by contestant and by how many were loaded, and the largest difference of what is then said."""

    timings: dict[str, dict[int, Timing]]
    largest_difference: float | None


def load_ours(library: Library, base: Base, name: str) -> None:
    """Read an expert's folder, check it and make it speakable."""
    payload = library[name].payload
    assert isinstance(payload, AdapterPayload)
    base.attach(name, payload.adapter)


def nth_loads(quick: bool, *, repeats: int) -> Loads:
    """Return what the first, 10th, 30th and 64th load cost on the toy shape, each repeated after it is taken back."""
    base, rank, places = (pico_base(), 4, (1, 2, 4, 8)) if quick else (toy_base(), 8, (1, 10, 30, 64))
    names = [f"expert-{number:02d}" for number in range(max(places))]
    adapters = {name: random_adapter(base, number, rank=rank) for number, name in enumerate([_START, *names])}
    peft, timings = find_peer("peft"), {}
    with tempfile.TemporaryDirectory() as place:
        folders = save_adapters(base, adapters, Path(place) / "folders")
        model = None if peft is None else peft_model(peft, base, {_START: folders[_START]})
        library = Library(Path(place) / "library", base=base)
        for name in names:
            library.add(folders[name])
        base.attach(_START, adapters[_START])
        for number, name in enumerate(names, start=1):
            runs = {OURS: functools.partial(load_ours, library, base, name)}
            back: dict[str, Callable[[], None]] = {OURS: functools.partial(_forget, library, base, name)}
            if model is not None:
                runs[PEER] = functools.partial(model.load_adapter, folders[name], name)
                back[PEER] = functools.partial(model.delete_adapter, name)
            with peers_own_warnings():
                seconds = _repeated(runs, back, repeats if number in places else 0)
                peaks = {contestant: peak_bytes(run) for contestant, run in runs.items()}
            for contestant, each in seconds.items():
                if each:
                    timings.setdefault(contestant, {})[number] = Timing(tuple(each), peaks[contestant])
        return Loads(timings, None if model is None else _difference(base, model, names[-1]))


def _repeated(
    runs: dict[str, Callable[[], Any]], back: dict[str, Callable[[], None]], repeats: int
) -> dict[str, list[float]]:
    """Return the seconds of loads that are taken back each time, which is not timed."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            found[name].append(time.perf_counter() - started)
            back[name]()
    return found


def _forget(library: Library, base: Base, name: str) -> None:
    base.detach(name)
    library.forget(name)


def _difference(base: Base, model: Any, name: str) -> float:  # noqa: ANN401 - PEFT's
    """Return the largest difference between what the last expert says here and there."""
    tokens = torch.randint(base.vocab_size, (2, 16), generator=generator(0, "bench loading"))
    model.set_adapter(name)
    ours = base.open_rows(tokens.tolist(), RowPlan.one(name)).logprobs
    return float((next_logprobs(model, tokens) - ours).abs().max())
