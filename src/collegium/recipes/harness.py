"""`lm-eval`: lm-evaluation-harness with our model class, and its tasks for every expert on one loaded base."""

import argparse
import contextlib
import importlib.util
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tyro.conf import Positional

from collegium.core.errors import ConfigError, ResourceError
from collegium.recipes.run_card import RunCard, make_card
from collegium.recipes.watch import Watch

_INSTALL = "lm-evaluation-harness is not installed: pip install 'collegium[lm-eval]'."
_OTHER_VERBS = ("ls", "validate")
"""Commands of lm_eval that evaluate nothing."""
_MISTAKES = (ValueError, KeyError, TypeError, LookupError)
"""What lm_eval raises for tasks, files and arguments that it cannot use."""


@dataclass(frozen=True)
class LmEvalConfig:
    """Evaluate with lm-evaluation-harness: its own command line, in which `--model collegium` is a model of ours.

    Options of Collegium come first; from the first word that is none of them, all words are lm_eval's own:

    collegium lm-eval --model collegium --model_args ref=LIB --tasks NAME --include_path FOLDER --batch_size 8

    `collegium lm-eval run --help` lists lm_eval's options. `--each`, `--json` and `--jsonl` may stand anywhere.
    """

    arguments: Positional[tuple[str, ...]] = ()
    """What lm_eval's own command takes, word for word."""
    each: bool = False
    """Evaluate the base, every expert and the composition of ref=LIB, one after another on one loaded base."""


def run(config: LmEvalConfig, *, watch: Watch) -> RunCard:
    """Return the run's card; its result holds what lm_eval found, for each voice with `--each`.

    Raises ResourceError without lm_eval, ConfigError for what lm_eval cannot use; SystemExit comes from its parser.
    """
    require_lm_eval()
    start = time.perf_counter()
    result = _walk(config, watch) if config.each else _once(config)
    return make_card("lm-eval", config, result, time.perf_counter() - start)


def require_lm_eval() -> None:
    """Raise ResourceError with the line that installs lm_eval, where it is missing."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ResourceError(_INSTALL)


def _once(config: LmEvalConfig) -> dict[str, Any]:
    import collegium.recipes.harness_model  # noqa: F401 - registers the class

    found = call_lm_eval(config.arguments)
    return {} if found is None else {"results": plain_results(found), "model": str(found["config"].get("model"))}


def _walk(config: LmEvalConfig, watch: Watch) -> dict[str, Any]:
    """Return what lm_eval finds for the base, each expert and the composition."""
    from collegium.recipes.harness_model import COMPOSED, walking

    results: dict[str, Any] = {}
    with walking() as walk, _one_index():
        voices = [walk.voice]
        for voice in voices:
            walk.voice = voice
            watch.say(f"lm_eval: {voice}")
            with contextlib.redirect_stdout(sys.stderr):  # our one table holds what its many would show
                found = call_lm_eval([*config.arguments, *own_answers(config.arguments, voice)])
            if walk.model is None or found is None:
                raise ConfigError("--each walks through the experts of a model of ours: give --model collegium.")
            if walk.model.opened.way is None:
                raise ConfigError(
                    f"--each needs a library with its experts: ref=LIB; got {walk.model.opened.reference}."
                )
            if voice == voices[0]:
                voices += walk.model.voices[1:]
            results[voice] = plain_results(found)
        way = walk.model.opened.way if walk.model else None
    return {
        "base": results.pop(voices[0]),
        "composed": results.pop(COMPOSED),
        "experts": results,
        "composition": way.label if way else None,
    }


@contextlib.contextmanager
def _one_index() -> Iterator[None]:
    """Let lm_eval list its tasks once inside the `with`: its index reads thousands of files, for seconds each time."""
    import lm_eval.tasks

    made: dict[str, Any] = {}
    kind: Any = lm_eval.tasks.TaskManager

    def manager(*arguments: object, **keywords: object) -> Any:  # noqa: ANN401 - lm_eval's own class
        key = repr((arguments, keywords))
        if key not in made:
            made[key] = kind(*arguments, **keywords)
        return made[key]

    with patch.object(lm_eval.tasks, "TaskManager", manager):
        yield


def call_lm_eval(arguments: Sequence[str]) -> dict[str, Any] | None:
    """Return the results that lm_eval's own command writes for these arguments, None for a command that writes none.

    Its results go where `--output_path` says, or else to a folder that is gone afterwards.
    """
    from lm_eval.__main__ import cli_evaluate

    own = output_path(arguments)
    with tempfile.TemporaryDirectory() as aside, _mistakes_answered():
        place = Path(own or aside)
        before = _result_files(place)
        silent = own is not None or not arguments or arguments[0] in _OTHER_VERBS
        with patch.object(sys, "argv", ["lm_eval", *arguments, *([] if silent else ["--output_path", aside])]):
            cli_evaluate()
        written = sorted(_result_files(place) - before, key=lambda path: path.stat().st_mtime_ns)
        return json.loads(written[-1].read_text()) if written else None


def output_path(arguments: Sequence[str]) -> str | None:
    """Return where lm_eval is told to write results, on its command line or in its `--config`.

    >>> output_path(["--model", "collegium", "--output_path=out"])
    'out'
    """
    return _option(arguments, "--output_path", "-o") or _configured(arguments, "output_path")


def own_answers(arguments: Sequence[str], voice: str) -> list[str]:
    """Return what gives a voice a file of answers of its own where lm_eval is told to keep some.

    lm_eval finds answers again by the question alone: in a file shared by all voices each would be given the first
    one's.

    >>> own_answers(["--use_cache", "kept/answers"], "law")
    ['--use_cache', 'kept/answers-law']
    """
    path = _option(arguments, "--use_cache", "-c") or _configured(arguments, "use_cache")
    return [] if path is None else ["--use_cache", f"{path}-{voice}"]


def _option(arguments: Sequence[str], *names: str) -> str | None:
    """Return an option's value, in any of the forms that argparse reads; what is wrong is for lm_eval to say."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument(*names, dest="value")
    with contextlib.suppress(argparse.ArgumentError):
        return parser.parse_known_args(list(arguments))[0].value
    return None


def _configured(arguments: Sequence[str], key: str) -> str | None:
    """Return what lm_eval's YAML file says; what is wrong with the file is for lm_eval to say."""
    import yaml

    file = _option(arguments, "--config", "-C")
    if file is None or not Path(file).is_file():
        return None
    with contextlib.suppress(yaml.YAMLError):
        found = yaml.safe_load(Path(file).read_text())
        return found.get(key) if isinstance(found, dict) else None
    return None


def _result_files(place: Path) -> set[Path]:
    """Return the result files that lm_eval wrote to a folder, or beside FILE.json."""
    if place.suffix == ".json":
        return set(place.parent.glob(f"{place.stem}_*.json"))
    return set(place.glob("*/results_*.json"))


@contextlib.contextmanager
def _mistakes_answered() -> Iterator[None]:
    try:
        yield
    except _MISTAKES as error:
        told = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise ConfigError(f"lm_eval cannot use this: {told}") from error


@dataclass(frozen=True)
class Measured:
    """One number that lm_eval found."""

    task: str
    metric: str
    filter: str
    value: float | None
    stderr: float | None


def plain_results(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return task -> metric -> value and standard error, from the object that lm_eval writes.

    >>> plain_results({"results": {"lines": {"alias": "lines", "acc,none": 0.5, "acc_stderr,none": "N/A"}}})
    {'lines': {'acc': {'value': 0.5, 'stderr': None}}}
    """
    tasks: dict[str, Any] = {}
    for each in measured(found):
        name = each.metric if each.filter == "none" else f"{each.metric},{each.filter}"
        tasks.setdefault(each.task, {})[name] = {"value": each.value, "stderr": each.stderr}
    return tasks


def measured(found: Mapping[str, Any]) -> list[Measured]:
    """Return every number of lm_eval's results: its keys are `metric,filter` and `metric_stderr,filter`."""
    return [
        Measured(task, metric, name, _number(value), _number(row.get(f"{metric}_stderr,{name}")))
        for task, row in found.get("results", {}).items()
        for key, value in row.items()
        for metric, comma, name in [key.partition(",")]
        if comma and not metric.endswith("_stderr") and isinstance(value, (int, float))
    ]


def _number(value: object) -> float | None:
    """Return a finite number; None for an infinite one, which JSON lacks, and for lm_eval's words such as `N/A`."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
