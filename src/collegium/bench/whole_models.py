"""V8: merging whole models from files to files, against mergekit, each as a command of its own."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file, save_file

from collegium.bench.curves import growth
from collegium.bench.kinds import Bench, Finding, Progress, Target
from collegium.bench.timing import Timing
from collegium.core.errors import ResourceError
from collegium.core.randomness import generator
from collegium.experts.streaming import MergeRecipe, MergeSource, merge_models, write_recipe
from collegium.models import BASES
from collegium.models.convert import fetch_pinned
from collegium.testing.pico import pico_base

OURS, PEER = "collegium library merge-models", "mergekit-yaml"
METHODS = ("linear", "ties")
_PEER_PLACE = "COLLEGIUM_MERGEKIT"
_NO_PEER = (
    "mergekit is not there: scripts/setup_mergekit makes .venv-mergekit, or COLLEGIUM_MERGEKIT names its command."
)
_PAUSE_SECONDS = 0.02


def peer_command() -> str | None:
    """Return mergekit's command: what the environment names, or that of .venv-mergekit here."""
    named = os.environ.get(_PEER_PLACE)
    found = Path(named) if named else Path(".venv-mergekit/bin/mergekit-yaml")
    return str(found.absolute()) if found.is_file() else None


def noisy_models(place: Path, count: int, *, quick: bool) -> list[Path]:
    """Return folders of a base and `count` models near it."""
    base = place / "base"
    if quick:
        pico = pico_base()
        pico.model.save_pretrained(base)
        pico.tokenizer.save_pretrained(base)
    else:
        shutil.copytree(fetch_pinned("smollm2-135m", BASES["smollm2-135m"], lambda line: None), base)
    weights = load_file(base / "model.safetensors")
    for number in range(count):
        folder, draw = place / f"model-{number}", generator(number, "bench noise")
        shutil.copytree(base, folder)
        noisy = {
            name: (tensor.float() + 0.01 * torch.randn(tensor.shape, generator=draw)).to(tensor.dtype)
            for name, tensor in weights.items()
        }
        save_file(noisy, folder / "model.safetensors", metadata={"format": "pt"})
    return [base, *(place / f"model-{number}" for number in range(count))]


def recipe_of(method: str, folders: Sequence[Path]) -> MergeRecipe:
    """Return the recipe that both sides are given; the first folder is the base."""
    share = 1.0 / (len(folders) - 1)
    sources = tuple(MergeSource(str(folder), share, 0.5 if method == "ties" else 1.0) for folder in folders[1:])
    return MergeRecipe(method, sources, str(folders[0]) if method == "ties" else None)  # pyright: ignore[reportArgumentType]


def watched(command: Sequence[str]) -> tuple[float, int]:
    """Return the seconds of a command and the most memory it and its children had for themselves.

    Pages of mapped files, which the system may drop at any time, are not counted.
    """
    started = time.perf_counter()
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    most, over = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(_PAUSE_SECONDS):
            try:
                process = psutil.Process(running.pid)
                alive = [process, *process.children(recursive=True)]
                most = max(most, sum(each.memory_info().rss - each.memory_info().shared for each in alive))
            except psutil.NoSuchProcess:
                continue

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    _, told = running.communicate()
    seconds = time.perf_counter() - started
    over.set()
    watcher.join()
    if running.returncode:
        raise ResourceError(f"{command[0]} ended with {running.returncode}: {told.decode(errors='replace')[-500:]}")
    return seconds, most


def _commands(place: Path, peer: str | None) -> dict[str, Callable[[Path, Path], list[str]]]:
    def ours(recipe: Path, out: Path) -> list[str]:
        return [sys.executable, "-m", "collegium.cli.main", "library", "merge-models", str(recipe), "--out", str(out)]

    def theirs(recipe: Path, out: Path) -> list[str]:
        assert peer is not None
        return [peer, str(recipe), str(out), "--no-write-model-card"]

    return {OURS: ours} if peer is None else {OURS: ours, PEER: theirs}


def _run(quick: bool, progress: Progress) -> Finding:
    counts, repeats = (1, 2, 3, 4), 1 if quick else 3
    peer = None if quick else peer_command()
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    curves: dict[str, dict[int, Timing]] = {}
    difference: float | None = None
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        folders = noisy_models(place, max(counts), quick=quick)
        for method in METHODS:
            for count in counts if method == "linear" else (counts[-1],):
                progress(f"V8: {method}, {count} models")
                path = place / f"{method}-{count}.yaml"
                path.write_text(write_recipe(recipe_of(method, folders[: count + 1])))
                found = _measured(_commands(place, peer), path, place / "out", repeats)
                for name, (timing, most) in found.items():
                    rows.append(
                        {"contestant": name, "method": method, "models": count, **timing.row(), "peak_mb": most / 1e6}
                    )
                    if method == "linear":
                        curves.setdefault(f"linear, {name}", {})[count] = timing
                if peer is not None and count == counts[-1]:
                    ratios[f"{method}_speedup"] = found[PEER][0].least / found[OURS][0].least
                    ratios[f"{method}_memory_over_peer"] = found[OURS][1] / found[PEER][1]
                    gap = _gap(place / "out")
                    difference = gap if difference is None else max(difference, gap)
    targets = tuple(
        target
        for method in METHODS
        for target in (
            Target(f"{method}_speedup", "at least", 2.0),
            Target(f"{method}_memory_over_peer", "at most", 1.0),
        )
    )
    points = [point for curve, timings in curves.items() for point in growth(curve, "models", timings)]
    notes = () if peer is not None or quick else (_NO_PEER,)
    return Finding(rows, ratios, targets, difference, notes, points, {"ours": OURS, "peer": PEER})


def _measured(
    commands: dict[str, Callable[[Path, Path], list[str]]], recipe: Path, out: Path, repeats: int
) -> dict[str, tuple[Timing, int]]:
    """Return each side's timing and peak, taking turns; the last results are left in `out`."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    most = dict.fromkeys(commands, 0)
    for _ in range(repeats):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        for name, command in commands.items():
            took, held = watched(command(recipe, out / name.partition(" ")[0]))
            seconds[name].append(took)
            most[name] = max(most[name], held)
    return {name: (Timing(tuple(each)), most[name]) for name, each in seconds.items()}


def _gap(out: Path) -> float:
    """Return the largest difference between the two sides' results."""
    ours, theirs = (
        {k: v for file in (out / each).glob("*.safetensors") for k, v in load_file(file).items()}
        for each in ("collegium", "mergekit-yaml")
    )
    return max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in theirs)


def _profiled(quick: bool) -> dict[str, Callable[[], object]]:
    place = Path(tempfile.mkdtemp())
    folders = noisy_models(place, 4, quick=quick)

    def merged(method: str) -> None:
        shutil.rmtree(place / "out", ignore_errors=True)
        merge_models(recipe_of(method, folders), place / "out")

    return {f"{method} of 4 models": functools.partial(merged, method) for method in METHODS}


V8 = Bench(
    "V8",
    "whole-model merge of 4 models of 134 M parameters, linear and ties, each a command of its own, against mergekit",
    "at least 2x faster, lower peak memory",
    _run,
    peers=(),
    profiled=_profiled,
)
