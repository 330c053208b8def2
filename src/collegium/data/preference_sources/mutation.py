"""One small mistake in a function: an operator, comparison, constant or name swapped for another."""

import ast
import copy
import random
from collections.abc import Iterator, Sequence

from collegium.data.preference_sources.drawing import alike

_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Mod: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.Gt,
    ast.Gt: ast.Lt,
    ast.LtE: ast.GtE,
    ast.GtE: ast.LtE,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
"""What takes the place of what; a mistake that a tired programmer makes, and that the compiler does not see."""


def mutated(body: Sequence[ast.stmt], names: Sequence[str], generator: random.Random) -> str | None:
    """Return the source of a function's body with one mistake in it; None where there is nothing to swap.

    names: what may stand for one another, such as the function's arguments. A mistake that leaves the length alike is
    taken where there is one; its kind is drawn first, so that no kind crowds out the others.

    >>> mutated(ast.parse("return first < second").body, (), random.Random(0))
    'return first > second'
    """
    intact = source(body)
    by_kind: dict[str, list[str]] = {}
    for place, change in _mistakes(body, names):
        changed = copy.deepcopy(list(body))
        node = _nodes(changed)[place]
        _apply(node, change)
        by_kind.setdefault(type(node).__name__, []).append(source(changed))
    fitting = {
        kind: found for kind, texts in by_kind.items() if (found := [each for each in texts if alike(each, intact)])
    }
    options = list((fitting or by_kind).values())
    return generator.choice(generator.choice(options)) if options else None


def source(body: Sequence[ast.stmt]) -> str:
    """Return statements as Python writes them itself, without comments, a line each."""
    return "\n".join(ast.unparse(each) for each in body)


def _nodes(body: Sequence[ast.stmt]) -> list[ast.AST]:
    return [node for statement in body for node in ast.walk(statement)]


def _mistakes(body: Sequence[ast.stmt], names: Sequence[str]) -> Iterator[tuple[int, object]]:
    """Go through (place of a node, what it becomes)."""
    for place, node in enumerate(_nodes(body)):
        match node:
            case ast.BinOp(op=kind) | ast.BoolOp(op=kind) | ast.AugAssign(op=kind) if type(kind) in _SWAPS:
                yield place, _SWAPS[type(kind)]()
            case ast.Compare(ops=[kind]) if type(kind) in _SWAPS:
                yield place, _SWAPS[type(kind)]()
            case ast.Constant(value=bool() as value):
                yield place, not value
            case ast.Constant(value=int() as value):
                yield from ((place, other) for other in (value + 1, value - 1) if other >= 0)
            case ast.Name(id=name, ctx=ast.Load()) if name in names:
                yield from ((place, other) for other in names if other != name)


def _apply(node: ast.AST, change: object) -> None:
    match node:
        case ast.Compare():
            node.ops = [change]  # pyright: ignore[reportAttributeAccessIssue]
        case ast.Constant():
            node.value = change  # pyright: ignore[reportAttributeAccessIssue]
        case ast.Name():
            node.id = str(change)
        case _:
            node.op = change  # pyright: ignore[reportAttributeAccessIssue]
