"""Move the default base to two targets by several methods, one after another, and keep their ways and what came out.

python bench/alignment/compare.py [FOLDER]    about ten minutes a policy on two cores

Everything goes through the command line with its own settings. What each run said is kept in bench/alignment, from
which docs/alignment.md is written: runs that are there are not made again, so that an interrupted comparison goes on,
on this machine or another. Policies and reports lie in FOLDER (default runs/alignment).
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PROMPT = "Once upon a time"
TARGETS = {"she": 'contains("she")', "half": "moment(female()) == 0.5"}
METHODS = ("gdc++", "reinforce", "gdc", "kl_control", "fdpg-jensen_shannon")
PLANS = [
    *((target, method) for method in METHODS[:2] for target in TARGETS),
    *(("she", method) for method in METHODS[2:]),
]
"""The half by distribution matching and by reward maximisation; the word by every method."""


def moved(target: str, method: str, folder: Path) -> dict[str, Any]:
    """Return the run's card and its way, update by update."""
    name = f"{target}-{method}".replace("+", "p").replace("_", "-")
    place = folder / name
    command = [sys.executable, "-m", "collegium.cli.main", "align", "run", "--target", TARGETS[target]]
    command += ["--prompt", PROMPT, "--method", method, "--library", str(folder / "library"), "--as", name]
    subprocess.run([*command, "--out", str(place)], check=True)
    lines = (place / "progress.jsonl").read_text().splitlines()
    return {"card": json.loads((place / "run.json").read_text()), "progress": [json.loads(line) for line in lines]}


def main(folder: Path) -> None:
    """Make all runs that are not kept yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for target, method in PLANS:
        kept = HERE / f"{target} {method}.json"
        if not kept.is_file():
            kept.write_text(json.dumps(moved(target, method, folder), sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/alignment"))
