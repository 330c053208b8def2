"""`checked`: checked answers. A generated question, its right answer over one that the generator scored as wrong.

The wrong answer is, by lot, the right one of another question of the same kind, or the right one with a digit changed,
two words or two letters swapped; it has as many characters. Prompts are made from templates, so that they are alike;
each stands once.

`reasoning-gym` is a package of programs, so it has to run. It is no dependency of Collegium: it pins versions that
others of ours exclude (tabulate) and asks for eight packages that the chosen generators do without. Its pinned file is
checked by its sha256 and imported by a process of its own, from where it lies in the cache.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

from collegium.core.errors import ResourceError
from collegium.data.preference_sources import generated
from collegium.data.preference_sources.drawing import PAIRS
from collegium.data.preferences import Pair

_COUNT = 400  # questions of each generator; some are copies or have no wrong answer of their length
_WAIT_SECONDS = 300


def checked_pairs(archive: Path, seed: int) -> tuple[Pair, ...]:
    """Return the pairs of the generators in the archive; raises ResourceError when they cannot run."""
    rows = json.loads(_run(archive, seed))
    distinct = {row["prompt"]: row for row in rows}
    drawn = random.Random(seed).sample(sorted(distinct), min(PAIRS, len(distinct)))
    return tuple(Pair(f"{prompt}\n", distinct[prompt]["chosen"], distinct[prompt]["rejected"]) for prompt in drawn)


def _run(archive: Path, seed: int) -> str:
    """Return what the program prints, run with this Python, which sees its installed packages and the archive alone."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-P", "-s", "-B", generated.__file__, str(archive), str(seed), str(_COUNT)]
    try:
        done = subprocess.run(
            command,
            env=quiet | {"PYTHONHASHSEED": "0"},  # the same questions each time
            capture_output=True,
            text=True,
            check=False,
            timeout=_WAIT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise ResourceError(
            f"the questions of {archive.name} took over {_WAIT_SECONDS} s; run again, or leave out the domain "
            "`checked`."
        ) from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ResourceError(
            f"the generators in {archive.name} do not run with this Python ({reason}). They need sympy; "
            "install it, or leave out the domain `checked`."
        )
    return done.stdout
