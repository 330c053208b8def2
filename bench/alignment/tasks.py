"""Move the default base to the tasks of the literature, one after another, and keep what each came to.

python bench/alignment/tasks.py [FOLDER]

topics:    five kinds of news, a fifth each, of a base with a news expert. sports: one of them in every text.
sentiment: reviews that a classifier of other reviews calls negative. gender: half of a doctor's texts about a woman.
hybrid:    a word of the sea in every text, and half of them about a woman. code: completions that Python parses, each
           prompt by its own partition (CDPG).

Everything goes through the command line with its own settings. What is kept in bench/alignment/tasks is not made again,
so that an interrupted run goes on, on this machine or another. Policies and reports lie in FOLDER (default
runs/alignment-tasks), the labelled texts too: they are for research of your own, and nothing of them is kept.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

HERE = Path(__file__).resolve().parent
KEPT = HERE / "tasks"
NEWS, REVIEWS = "labelled/topic.jsonl", "labelled/short.jsonl"
LABELS = ("business", "entertainment", "politics", "sports", "tech")
PROMPTS = (
    "def add(a, b): return",
    "def area(width, height): return",
    "def first(items): return",
    "def greet(name): return",
    "def is_even(n): return",
    "def last(words): return",
    "def square(x): return",
    "def upper(text): return",
)


@dataclass(frozen=True)
class Task:
    """A target, what texts go on from, and the original model where that is not the default base."""

    target: str
    prompt: str = ""
    model: str = ""
    method: str = "gdc++"

    def words(self) -> list[str]:
        """Return the options of `align run`."""
        given = ["--prompt", self.prompt] if self.prompt else ["--prompts", "prompts.txt"]
        return ["--target", self.target, *given, *(["--model", self.model] if self.model else [])]


def share(label: str) -> str:
    """Return the target of a fifth of the texts being of a label."""
    return f'(moment(classifier("{NEWS}", "{label}")) == 0.2)'


TASKS = {
    "topics": Task(" * ".join(share(label) for label in LABELS[:-1]), "In London today,", "library#news"),
    "sports": Task(f'classifier("{NEWS}", "sports")', "In London today,", "library#news"),
    "sentiment": Task(f'classifier("{REVIEWS}", "negative")', "This film is"),
    "gender": Task("moment(female()) == 0.5", "The doctor said that"),
    "hybrid": Task('any_of("sea", "ship") * (moment(female()) == 0.5)', "Once upon a time, by the sea,"),
    "code": Task("compiles()", method="cdpg"),
}
"""The fifth label has what the other four leave."""


def command(folder: Path, *words: str) -> None:
    """Run the command line inside the folder."""
    subprocess.run([sys.executable, "-m", "collegium.cli.main", *words], cwd=folder, check=True)


def prepare(folder: Path) -> None:
    """Bring labelled texts and prompts, and train the news expert where it is not there."""
    if not (folder / "labelled").is_dir():
        command(folder, "data", "pull", "labelled", "--labelled", "--domains", "topic", "short")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    (folder / "news").mkdir(exist_ok=True)
    copyfile(folder / NEWS, folder / "news" / "news.jsonl")
    command(folder, "train", "news", "--library", "library", "--layers", "top:10", "--steps", "40", "--no-routers")


def main(folder: Path) -> None:
    """Make all runs that are not kept yet."""
    folder.mkdir(parents=True, exist_ok=True)
    KEPT.mkdir(exist_ok=True)
    missing = {name: task for name, task in TASKS.items() if not (KEPT / f"{name}.json").is_file()}
    if missing:
        prepare(folder)
    for name, task in missing.items():
        words = (*task.words(), "--method", task.method, "--library", "library", "--as", name, "--out", f"run-{name}")
        command(folder, "align", "run", *words)
        card = json.loads((folder / f"run-{name}" / "run.json").read_text())
        (KEPT / f"{name}.json").write_text(json.dumps(card, sort_keys=True, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/alignment-tasks"))
