"""The pages that the code writes: `python -m collegium.cli.manual [--write] DOCS` writes or compares them."""

import contextlib
import difflib
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

import tyro

from collegium.claims import current_page
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


PAGES: Mapping[str, Callable[[], str]] = {"cli.md": manual, "claims.md": current_page}
"""File in the docs folder -> what it should be."""


def write_pages(docs: Path, pages: Mapping[str, Callable[[], str]] = PAGES) -> None:
    """Write every page that the code writes."""
    for name, page in pages.items():
        write_text(docs / name, page())


def differences(docs: Path, pages: Mapping[str, Callable[[], str]] = PAGES) -> list[str]:
    """Return what is out of date, as a difference cut at forty lines; nothing when all is well."""
    found = []
    for name, page in pages.items():
        path = docs / name
        old, new = path.read_text() if path.exists() else "", page()
        if old != new:
            lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), str(path), "the code", lineterm=""))
            found.append("\n".join([*lines[:40], f"error: {path} is out of date; run make docs."]))
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[-1])
    if "--write" in sys.argv[1:]:
        write_pages(folder)
    else:
        sys.exit("\n".join(differences(folder)) or 0)
