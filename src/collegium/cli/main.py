"""The door: words in, exit code out; a user's mistake is answered in one sentence, never by a traceback.

Exit codes: 0 done, 1 `library verify` found problems, 2 a mistake or broken surroundings, 130 interrupted.
"""

import contextlib
import gc
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import NoReturn

from collegium.cli.align import ALIGN
from collegium.cli.bench import BENCH
from collegium.cli.claims import CLAIMS
from collegium.cli.command import Table
from collegium.cli.console import Screen
from collegium.cli.continual import CONTINUAL
from collegium.cli.data import DATA
from collegium.cli.discover import DISCOVER
from collegium.cli.doctor import DOCTOR
from collegium.cli.generate import GENERATE
from collegium.cli.library import LIBRARY
from collegium.cli.lm_eval import LM_EVAL
from collegium.cli.making import BUILD, DEMO, TRAIN
from collegium.cli.multitask import MULTITASK
from collegium.cli.output import emit
from collegium.cli.parsing import PROGRAM, Request, parse
from collegium.cli.quality import COMPARE, EVAL
from collegium.cli.reward import REWARD
from collegium.cli.router import ROUTER
from collegium.core.errors import CollegiumError
from collegium.models import memory_errors

COMMANDS: Table = {
    "demo": DEMO,
    "build": BUILD,
    "data": DATA,
    "discover": DISCOVER,
    "train": TRAIN,
    "library": LIBRARY,
    "eval": EVAL,
    "compare": COMPARE,
    "router": ROUTER,
    "reward": REWARD,
    "align": ALIGN,
    "continual": CONTINUAL,
    "multitask": MULTITASK,
    "generate": GENERATE,
    "lm-eval": LM_EVAL,
    "claims": CLAIMS,
    "bench": BENCH,
    "doctor": DOCTOR,
}
"""Every command, in the order of the help."""

DEBUG = "COLLEGIUM_DEBUG"
"""The environment variable that, set to 1, lets errors through with their tracebacks."""
_SHELLS = ("bash", "zsh", "fish", "tcsh")


def main(arguments: Sequence[str] | None = None, *, table: Table = COMMANDS) -> int:
    """Return the exit code of a command line (default: this process's own)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        sys.stdout.write(f"{PROGRAM} {version(PROGRAM)}\n")
        return 0
    if words[:1] == ["--print-completion"]:
        if len(words) != 2 or words[1] not in _SHELLS:
            Screen().fail(f"--print-completion takes a shell: {', '.join(_SHELLS)}.")
            return 2
        words = ["--tyro-write-completion", words[1], "-"]
    try:
        with _mistakes_answered():
            return _answer(parse(table, words or ["--help"]))
    except SystemExit as stop:  # tyro's help and wrong flags, and mistakes answered
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2


def _answer(request: Request) -> int:
    """Run a command and write what programs asked for."""
    output = request.output
    with (
        Screen(aside=output.for_programs) as screen,
        _warnings_shown(screen),
        memory_errors(request.command.memory_flag),
        _interruption_answered(resumes=request.command.resumes),
    ):
        outcome = request.command.run(request.config, screen)
    emit(outcome, output)
    return outcome.code


@contextlib.contextmanager
def _mistakes_answered() -> Iterator[None]:
    """Turn mistakes and interruptions into SystemExit with a sentence on standard error."""
    try:
        with _interruption_answered(resumes=False):
            yield
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone, as `head` does: quiet, and the same code as rich gives
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (CollegiumError, OSError) as error:
        if os.environ.get(DEBUG) == "1":
            raise
        Screen().fail(_sentence(error))
        raise SystemExit(2) from None


@contextlib.contextmanager
def _interruption_answered(*, resumes: bool) -> Iterator[None]:
    """Turn Ctrl-C into SystemExit 130, saying whether the same command would go on."""
    try:
        yield
    except KeyboardInterrupt:
        Screen().errors.print("interrupted: run the same command again to go on" if resumes else "interrupted")
        raise SystemExit(130) from None


def _sentence(error: Exception) -> str:
    """Return what to tell; the system's own errors name the file they are about."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


@contextlib.contextmanager
def _warnings_shown(screen: Screen) -> Iterator[None]:
    """Show warnings as one line on standard error, without the line of code they came from."""

    def show(message: Warning | str, category: type[Warning], *place: object) -> None:
        del category, place
        screen.errors.print(f"warning: {message}", markup=False)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def process() -> NoReturn:
    """End this process with the exit code of its command line.

    What is still there is spared the last garbage collection: looking at every object of torch takes half a second.
    """
    code = main()
    gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    process()
