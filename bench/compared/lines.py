"""Lines of code by a plain rule: lines that hold code; blank lines, comments and docstrings do not count.

The files are formatted by ruff at 120 columns, so that nobody gains by writing more into a line.
"""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

SPACE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef


def count_lines(path: Path) -> dict[str, int]:
    """Return function name -> its lines of code, and under `all` those of the file; of a script the latter alone."""
    if path.suffix != ".py":
        lines = [line.strip() for line in path.read_text().splitlines()]
        return {"all": sum(1 for line in lines if line and not line.startswith("#"))}
    source = path.read_text()
    code, tree = code_lines(source), ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {"all": len(code), **{each.name: len(code & set(spanned(each))) for each in functions}}


def code_lines(source: str) -> set[int]:
    """Return the numbers of the lines of a Python source that hold code.

    >>> sorted(code_lines('\"\"\"A module.\"\"\"\\n\\nx = [  # one\\n    1,\\n]\\n'))
    [3, 4, 5]
    """
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    held = {line for each in tokens if each.type not in SPACE for line in range(each.start[0], each.end[0] + 1)}
    return held - {line for each in docstrings(ast.parse(source)) for line in spanned(each)}


def docstrings(tree: ast.Module) -> Iterator[ast.Expr]:
    """Yield the docstrings of a module, its classes and functions."""
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            assert isinstance(node.body[0], ast.Expr)
            yield node.body[0]


def spanned(node: ast.stmt) -> range:
    """Return the numbers of the lines that a statement spans, decorators with it."""
    first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
    return range(first, (node.end_lineno or node.lineno) + 1)
