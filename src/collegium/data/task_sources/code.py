"""`code`: functions of this Python's own library. What does it do, what is it called, how does it go on?

Functions are written as Python writes a parsed one, so that comments and layout are no hint; group: the module.
docstring   the function without it  ->  its docstring's first sentence
name        the function, its name a blank  ->  the name, among those of three others of its module
completion  head and docstring  ->  the body
"""

import ast
import copy
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from collegium.data.standard_library import library_modules
from collegium.data.task_sources.rows import SourceRow, some_rows

CODE_CHARACTERS = 200
"""The longest head and body together: code has about three characters a token."""
DOCSTRING_CHARACTERS = 80
_SHORTEST = 15
_OTHERS = 3
_BLANK = "____"


@dataclass(frozen=True)
class Function:
    """A function: its name, its docstring's first sentence, and its head and body as Python writes them."""

    module: str
    name: str
    says: str
    head: str
    body: str


def code_tasks(library: Path) -> Mapping[str, tuple[SourceRow, ...]]:
    """Return the tasks of the modules below a folder."""
    return tasks_of_modules(library_modules(library), seed=0)


def tasks_of_modules(modules: Iterable[tuple[str, str]], *, seed: int) -> Mapping[str, tuple[SourceRow, ...]]:
    """Return the tasks of (name, source) of modules."""
    by_module = {name: list(_functions(name, text)) for name, text in modules}
    every = [each for functions in by_module.values() for each in functions]
    generator = random.Random(seed)
    named = (_name_row(each, by_module[each.module], generator) for each in every)
    return {
        "completion": some_rows((_completion_row(each) for each in every), generator),
        "docstring": some_rows((_docstring_row(each) for each in every), generator),
        "name": some_rows((row for row in named if row is not None), generator),
    }


def _docstring_row(each: Function) -> SourceRow:
    return SourceRow(each.module, f"{each.head}\n{each.body}\n# What it does:", f" {each.says}")


def _completion_row(each: Function) -> SourceRow:
    return SourceRow(each.module, f"# {each.says}\n{each.head}\n", each.body)


def _name_row(each: Function, module: Sequence[Function], generator: random.Random) -> SourceRow | None:
    others = sorted({other.name for other in module} - {each.name})
    if len(others) < _OTHERS or each.name.strip("_") in each.body:
        return None
    names = [f" {name}" for name in (each.name, *generator.sample(others, _OTHERS))]
    head = each.head.replace(f"def {each.name}(", f"def {_BLANK}(", 1)
    return SourceRow(each.module, f"{head}\n{each.body}\n# Its name:", names[0], tuple(sorted(names)))


def _functions(module: str, text: str) -> Iterator[Function]:
    """Go through the short functions of a module that have a docstring and more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about strings in other people's modules
        try:
            tree = ast.parse(text)
        except SyntaxError:
            return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and len(node.body) > 1 and (says := _says(node)):
            head, body = _written(node)
            if len(body) >= _SHORTEST and len(head) + len(body) <= CODE_CHARACTERS:
                yield Function(module, node.name, says, head, body)


def _says(node: ast.FunctionDef) -> str:
    """Return the docstring's first sentence, "" where it is too long or there is none."""
    first = (ast.get_docstring(node) or "").split("\n\n")[0]
    sentence = " ".join(first.split()).split(". ")[0].rstrip(".")
    return f"{sentence}." if _SHORTEST <= len(sentence) < DOCSTRING_CHARACTERS else ""


def _written(node: ast.FunctionDef) -> tuple[str, str]:
    """Return the head, without decorators, and the body, without docstring."""
    bare = copy.copy(node)
    bare.body, bare.decorator_list = node.body[1:], []
    lines = ast.unparse(ast.fix_missing_locations(bare)).split("\n")
    return lines[0], "\n".join(lines[1:])
