"""The tasks of the papers at our scale, on the default base: topics, sentiment, a hybrid, code that parses.

python bench/alignment/tasks.py [FOLDER]    about ten minutes a task on two cores

As compare.py: everything through the command line, what is kept is not made again. Topics are told by a classifier of
news stories and written by the base with an expert of news; sentiment by one of film reviews; code by whether it
parses, each prompt with a partition of its own.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NEWS = ("business", "entertainment", "politics", "sports", "tech")
PARAMETERS = ("width, height", "name", "text, count", "first, second", "rows", "path", "value, least", "a, b, c")
NAMES = ("area", "greet", "repeat", "total", "lengths", "extension", "clamp", "middle")


def topic(label: str) -> str:
    """Return a feature: whether a text is of a class of news."""
    return f'classifier("tasks/topic.jsonl", "{label}")'


def share(label: str) -> str:
    """Return a factor: every class of news equally often."""
    return f"(moment({topic(label)}) == {1 / len(NEWS)})"


TASKS: dict[str, list[str]] = {
    "topics": ["--target", " * ".join(map(share, NEWS[:-1])), "--model", "library#topic", "--prompt", "The"],
    "sports": ["--target", topic("sports"), "--model", "library#topic", "--prompt", "The"],
    "hybrid": [
        *("--target", f"{topic('politics')} * (moment(female()) == 0.5)"),
        *("--model", "library#topic", "--prompt", "The"),
    ],
    "sentiment": ["--target", 'classifier("tasks/short.jsonl", "positive")', "--prompt", "This film"],
    "code": ["--target", "compiles()", "--prompts", "prompts.txt", "--method", "cdpg"],
}
"""Name -> what the command is told; the fifth class follows from four. Paths are those of the folder."""


def run(words: list[str], folder: Path) -> None:
    """Run a command in the folder."""
    subprocess.run([sys.executable, "-m", "collegium.cli.main", *words], cwd=folder, check=True)


def prepare(folder: Path) -> None:
    """Bring the labelled texts, an expert of news, and beginnings of functions."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tasks").exists():
        run(["data", "pull", "tasks", "--labelled", "--domains", "topic", "short"], folder)
    if not (folder / "library" / "experts" / "topic").exists():
        run(["train", "tasks/topic.jsonl", "--library", "library", "--layers", "top:10", "--out", "news"], folder)
    prompts = [f"def {name}({given}): return" for name, given in zip(NAMES, PARAMETERS, strict=True)]
    (folder / "prompts.txt").write_text("\n".join(prompts) + "\n")


def moved(name: str, folder: Path) -> dict[str, Any]:
    """Return a task's card and its way, update by update."""
    library = "library" if "--model" in TASKS[name] else "policies"
    run(["align", "run", *TASKS[name], "--library", library, "--as", f"task-{name}", "--out", name], folder)
    place = folder / name
    way = [json.loads(line) for line in (place / "progress.jsonl").read_text().splitlines()]
    return {"card": json.loads((place / "run.json").read_text()), "progress": way}


def main(folder: Path) -> None:
    """Make all runs that are not kept yet."""
    prepare(folder)
    for name in TASKS:
        kept = HERE / "tasks" / f"{name}.json"
        if not kept.is_file():
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(json.dumps(moved(name, folder), sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/alignment-tasks"))
