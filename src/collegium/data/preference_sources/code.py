"""`code`: corruption. A function's head and docstring, its own body over the same body with one mistake in it.

The functions are those of this Python's own library. Both bodies are written as Python writes a parsed function, so
that comments and layout are no hint; both compile.
"""

import ast
import copy
import random
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from collegium.data.preference_sources.drawing import PAIRS
from collegium.data.preference_sources.mutation import mutated, source
from collegium.data.preferences import Pair
from collegium.data.standard_library import library_modules

HEAD_CHARACTERS = 180
BODY_CHARACTERS = 140
"""The longest head and body; code has more tokens a character than English."""

_SHORTEST = 15
_STEP = "    "


def code_pairs(library: Path, seed: int) -> tuple[Pair, ...]:
    """Return the pairs of the modules below a folder; group: the module."""
    return pairs_of_modules(library_modules(library), seed)


def pairs_of_modules(modules: Iterable[tuple[str, str]], seed: int) -> tuple[Pair, ...]:
    """Return the pairs of (name, source) of modules, each head and each body once."""
    generator = random.Random(seed)
    heads: set[str] = set()
    bodies: set[str] = set()
    pairs = []
    for name, text in modules:
        for function in _functions(text):
            head, body = _head(function), _indented(source(function.body[1:]))
            wrong = mutated(function.body[1:], _arguments(function), generator) if _fits(head, body) else None
            if wrong is None or head in heads or body in bodies or not _compile(head, body, _indented(wrong)):
                continue
            heads.add(head)
            bodies.add(body)
            pairs.append(Pair(f"{head}\n", body, _indented(wrong), group=name))
    generator.shuffle(pairs)
    return tuple(pairs[:PAIRS])


def _functions(text: str) -> Iterator[ast.FunctionDef]:
    """Go through the functions of a module that have a docstring and more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about strings in other people's modules
        try:
            tree = ast.parse(text)
        except SyntaxError:
            return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) and len(node.body) > 1:
            yield node


def _head(function: ast.FunctionDef) -> str:
    """Return the head with the docstring's first paragraph, without decorators."""
    first = (ast.get_docstring(function) or "").split("\n\n")[0]
    docstring = ast.Expr(ast.Constant(" ".join(first.split())))
    bare = copy.copy(function)
    bare.body, bare.decorator_list = [docstring], []
    return ast.unparse(ast.fix_missing_locations(bare))


def _arguments(function: ast.FunctionDef) -> list[str]:
    """Return the arguments that may be mistaken for one another; nobody takes `self` for any of them."""
    listed = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return [each.arg for each in listed if each.arg not in ("self", "cls")]


def _fits(head: str, body: str) -> bool:
    return len(head) <= HEAD_CHARACTERS and _SHORTEST <= len(body) <= BODY_CHARACTERS


def _indented(body: str) -> str:
    return "\n".join(_STEP + line for line in body.split("\n"))


def _compile(head: str, *bodies: str) -> bool:
    """Return whether the function compiles with each of the bodies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for body in bodies:
                compile(f"{head}\n{body}\n", "function", "exec")
        except SyntaxError:
            return False
    return True
