"""Fit and judge every design of reward model on the six real domains, one after another, and keep what they say.

python bench/rewards/compare.py smollm2-135m [FOLDER]    about an hour and a half on two cores
python bench/rewards/compare.py minilm-l6 [FOLDER]       about half an hour

Everything goes through the command line, as a user's would. What was done lies in FOLDER (default runs/rewards-BASE):
an interrupted comparison goes on there. The result is bench/rewards/BASE.json, from which docs/rewards.md is written.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from collegium.core.machine import machine_line, today, versions

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
    """Return what fitting and judging one design gave; what was done before is read."""
    library, design = folder / "library", DESIGNS[name]
    fit = ["reward", "fit", str(pairs), "--design", *design, "--base", base, "--library", str(library), "--as", name]
    judge = ["reward", "eval", str(pairs), "--model", f"{library}#{name}"]
    fitted, fit_seconds = once(folder / f"fit-{name}.json", [*fit, "--out", str(folder / f"fit-{name}")])
    judged, eval_seconds = once(folder / f"eval-{name}.json", [*judge, "--out", str(folder / f"eval-{name}")])
    return {"fit": fitted, "eval": judged, "fit_seconds": fit_seconds, "eval_seconds": eval_seconds}


def once(kept: Path, words: list[str]) -> tuple[dict[str, Any], float]:
    """Return what `run` does, read where it was run before."""
    if not kept.is_file():
        kept.write_text(json.dumps(run(words)))
    found, seconds = json.loads(kept.read_text())
    return found, seconds


def main(base: str, folder: Path) -> None:
    """Compare all designs on a base and write the result."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = folder / "pairs"
    run(["data", "pull", str(pairs), "--preferences"])
    designs = {name: compared(base, name, pairs, folder) for name in DESIGNS}
    result = {
        "command": f"python bench/rewards/compare.py {base}",
        "base": base,
        "date": today(),
        "machine": machine_line(),
        "versions": versions(["collegium", "torch", "transformers"]),
        "designs": designs,
    }
    (HERE / f"{base}.json").write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else f"runs/rewards-{sys.argv[1]}"))
