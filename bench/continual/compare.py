"""Let every method of the main table learn one stream of real tasks, seed by seed, and keep what the command says.

python bench/continual/compare.py minilm-l6 [FOLDER]       three seeds of three orders
python bench/continual/compare.py smollm2-135m [FOLDER]    one seed of two orders: the default budget

Everything goes through the command line with its own settings. Each seed's card is kept in bench/continual/BASE, from
which docs/continual.md is written: seeds that are there are not run again, and one that was interrupted goes on. Tasks
and steps lie in FOLDER (default runs/continual-BASE).
"""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TASKS = ("century", "short", "topic", "tweets")
PLANS = {"minilm-l6": (3, (0, 1, 2)), "smollm2-135m": (2, (0,))}
"""Base -> in how many orders the tasks come, and seeds."""


def run(*words: object) -> None:
    """Run a command; leave with it where it fails."""
    done = subprocess.run([sys.executable, "-m", "collegium.cli.main", *map(str, words)])
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))} ended with {done.returncode}")


def main(base: str, folder: Path) -> None:
    """Compare the methods on a base, those seeds that are not kept yet."""
    kept, tasks = HERE / base, folder / "tasks"
    kept.mkdir(exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    run("data", "pull", tasks, "--labelled", "--domains", *TASKS)
    orders, seeds = PLANS[base]
    for seed in seeds:
        place, out = kept / f"seed-{seed}.json", folder / f"seed-{seed}"
        if place.is_file():
            continue
        run("continual", "run", tasks, "--model", base, "--orders", orders, "--seed", seed, "--out", out)
        place.write_text(json.dumps(json.loads((out / "run.json").read_text()), sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else f"runs/continual-{sys.argv[1]}"))
