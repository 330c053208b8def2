"""Fit and judge every design of reward model on the six real domains, one after another, and keep what they say.

python bench/rewards/compare.py smollm2-135m [FOLDER]    one to two and a half hours on two cores
python bench/rewards/compare.py minilm-l6 [FOLDER]       about half an hour

Everything goes through the command line, as a user's would. What each design said is kept in bench/rewards/BASE, from
which docs/rewards.md is written: designs that are there are not fitted again, so that an interrupted comparison goes
on, on this machine or another. Pairs and judges lie in FOLDER (default runs/rewards-BASE).
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from collegium.core.machine import machine_line, today, versions
from collegium.library import Library
from collegium.recipes.reference import is_library

HERE = Path(__file__).resolve().parent
DESIGNS = {
    "joint": ("joint",),
    "joint-total": ("joint", "--size", "total"),
    "joint-whole": ("joint", "--size", "whole"),
    "multi": ("multi",),
    "more": ("more",),
    "arliss": ("arliss",),
    "rodos": ("rodos",),
}
"""Name in the library -> design and options; all else is the command's own default."""


def run(words: list[str]) -> tuple[dict[str, Any], float]:
    """Return the object that a command prints, and its seconds."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "collegium.cli.main", *words, "--json"], stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1]), time.perf_counter() - start


def compared(base: str, name: str, pairs: Path, folder: Path) -> dict[str, Any]:
    """Return what fitting and judging one design gave."""
    library, design = folder / "library", DESIGNS[name]
    fit = ["reward", "fit", str(pairs), "--design", *design, "--base", base, "--library", str(library), "--as", name]
    judge = ["reward", "eval", str(pairs), "--model", f"{library}#{name}"]
    if is_library(str(library)) and name in Library(library, read_only=True).model_names():
        run(["library", "remove", name, "--library", str(library)])
    fitted, fit_seconds = run([*fit, "--out", str(folder / f"fit-{name}")])
    judged, eval_seconds = run([*judge, "--out", str(folder / f"eval-{name}")])
    return {
        "fit": fitted,
        "eval": judged,
        "fit_seconds": fit_seconds,
        "eval_seconds": eval_seconds,
        "command": f"python bench/rewards/compare.py {base}",
        "date": today(),
        "machine": machine_line(),
        "versions": versions(["collegium", "torch", "transformers"]),
    }


def main(base: str, folder: Path) -> None:
    """Compare all designs on a base, those that are not kept yet."""
    kept = HERE / base
    kept.mkdir(exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    pairs = folder / "pairs"
    run(["data", "pull", str(pairs), "--preferences"])
    for name in DESIGNS:
        place = kept / f"{name}.json"
        if not place.is_file():
            found = compared(base, name, pairs, folder)
            place.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else f"runs/rewards-{sys.argv[1]}"))
