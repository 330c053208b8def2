"""Writes docs/cli.md from the parsers, and compares it: `python -m collegium.cli.manual [--write] PAGE`."""

import contextlib
import difflib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import tyro

from collegium.cli.command import Group, Table
from collegium.cli.main import COMMANDS, main
from collegium.cli.parsing import PROGRAM
from collegium.core.files import write_text

_HEAD = """# Command line

This page is written by `make docs` from the parsers themselves; a check compares it.

Every command takes `--json` (one object, the last line of standard output; what people read then goes to standard
error), `--jsonl` (a line for each row), `--config run.toml` (keys are the names of flags; flags win over the file, the
file over defaults) and `--seed`, `--device`, `--dtype`, `--threads`. Exit codes: 0 done, 1 `library verify` found
problems, 2 a mistake (one sentence says which and the way out; `COLLEGIUM_DEBUG=1` shows the traceback), 130
interrupted: run the same command again to go on.

`collegium --version` names the version. `collegium --print-completion bash` (or zsh, fish, tcsh) prints a completion
script, for example `eval "$(collegium --print-completion bash)"`. `NO_COLOR=1` takes colours away.

How a model is named everywhere: [model references](howto/references.md).
"""


def manual(table: Table = COMMANDS) -> str:
    """Return the page: the help of every command, as a terminal of 100 columns without colours shows it."""
    sections = [_HEAD, f"## {PROGRAM}\n\n{_fenced([], table)}"]
    for name, entry in table.items():
        sections.append(f"## {name}\n\n{_fenced([name], table)}")
        if isinstance(entry, Group):
            sections += [f"### {name} {verb}\n\n{_fenced([name, verb], table)}" for verb in entry.verbs]
    return "\n".join(sections)


def _fenced(path: Sequence[str], table: Table) -> str:
    lines = (line.rstrip() for line in help_text([*path, "--help"], table).strip().splitlines())
    return "```text\n" + "\n".join(lines) + "\n```\n"


def help_text(words: Sequence[str], table: Table) -> str:
    """Return what a command line prints, the same on every terminal."""
    shown = io.StringIO()
    options = tyro._experimental_options
    fixed = {"COLUMNS": "100", "LINES": "40", "NO_COLOR": "1", "TERM": "dumb"}
    with (
        patch.dict(os.environ, fixed),
        patch.dict(options, {"ansi_codes": False, "utf8_boxes": True}),
        contextlib.redirect_stdout(shown),
    ):
        main(words, table=table)
    return shown.getvalue()


def check_page(page: Path) -> int:
    """Return 0 when the page is what the parsers say, else show the difference and return 1."""
    wanted, found = manual(), page.read_text() if page.exists() else ""
    if wanted == found:
        return 0
    difference = difflib.unified_diff(found.splitlines(), wanted.splitlines(), str(page), "the parsers", lineterm="")
    sys.stderr.write("\n".join(list(difference)[:40]) + f"\nerror: {page} is out of date; run make docs.\n")
    return 1


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        write_text(Path(sys.argv[-1]), manual())
    else:
        sys.exit(check_page(Path(sys.argv[-1])))
