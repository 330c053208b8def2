"""Small folders of preference pairs, and the words that fit a reward model on them in a second."""

import json
import random

QUICK = (
    *("--text-tokens", "48", "--passes", "1", "--rank", "4", "--layers", "top:1", "--learning-rate", "3e-3"),
    *("--threshold", "0", "--device", "cpu", "--dtype", "float32", "--threads", "1"),
)
"""Enough to move every weight; too little to learn."""
SAME = ("--device", "cpu", "--dtype", "float32", "--threads", "1")
WORDS = {"law": "x", "code": "y", "film": "z"}
"""Domain -> the letter that makes an answer the better one."""


def rows_of(name, *, count=40, seed=0, letter=None):
    """Return pairs of a domain: its prompts begin with its name, its better answers hold its letter."""
    draw = random.Random(f"{name} {seed}")
    good = letter or WORDS.get(name, "x")
    bad = next(each for each in "xyz" if each != good)
    rows = []
    for _ in range(count):
        stem = "".join(draw.choice("abcdefgh ") for _ in range(10))
        rows.append({"prompt": f"{name} {draw.randrange(10**6)}?", "chosen": stem + good, "rejected": stem + bad})
    return rows


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_pairs(root, *names, **settings):
    """Write a file of pairs for each domain, and return the folder."""
    for name in names:
        write_rows(root / f"{name}.jsonl", rows_of(name, **settings))
    return root


def fit_words(data, library, name, design, base, *more):
    """Return the words of `reward fit`."""
    words = ["reward", "fit", data, "--library", library, "--as", name, "--design", design, "--base", base]
    return [*map(str, words), *QUICK, *map(str, more)]
