"""Expressions over experts: `0.6*law + 0.4*code - toxic`, `ties(law, code; density=0.2)`. The grammar: `syntax.py`."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from collegium.core.errors import ConfigError
from collegium.experts.algebra.delta import Delta
from collegium.experts.algebra.methods import DENSITY, average, dare, ties
from collegium.experts.algebra.syntax import Call, Name, Node, Number, Operation, Parser, place_words, shortened

_PLAIN_NAME = re.compile(r"[A-Za-z]\w*")


@dataclass(frozen=True)
class Function:
    """A function of an expression: what it does with changes, and the numbers it may be told, with their defaults."""

    build: Callable[..., Delta]
    options: Mapping[str, float] = field(default_factory=dict)


FUNCTIONS: Mapping[str, Function] = {
    "average": Function(average),
    "ties": Function(ties, {"density": DENSITY, "scale": 1.0}),
    "dare": Function(dare, {"density": DENSITY, "seed": 0}),
}
"""What may be called, with its options."""


def parse_expression(text: str, names: Collection[str]) -> Node:
    """Return the expression that a text is; `names` are the experts there are.

    Raises ConfigError, saying where, for what is no expression; UnknownName, with the nearest, for an unknown expert.

    >>> parse_expression("0.5 * law", ["law"])
    Operation(sign='*', left=Number(value=0.5, at=0), right=Name(name='law', at=6), at=4)
    """
    found, *more = parse_list(text, names)
    if more:
        raise ConfigError(
            f"{shortened(text)} is a list of {1 + len(more)}, and one expression is asked for; write + between them."
        )
    return found


def parse_list(text: str, names: Collection[str]) -> tuple[Node, ...]:
    """Return the expressions of a list `a, b, c`; raises what `parse_expression` raises.

    >>> [sorted(names_in(node)) for node in parse_list("law, code - law", ["law", "code"])]
    [['law'], ['code', 'law']]
    """
    parser = Parser(text, tuple(names), {name: function.options for name, function in FUNCTIONS.items()})
    found = parser.listed()
    parser.end()
    return found


def names_in(node: Node) -> tuple[str, ...]:
    """Return the experts that an expression names, each once, in order.

    >>> names_in(parse_expression("ties(law, code) - law", ["law", "code"]))
    ('law', 'code')
    """
    return tuple(dict.fromkeys(_walk(node)))


def evaluate(node: Node, deltas: Mapping[str, Delta]) -> Delta:
    """Return the change that an expression comes to, given the experts' own.

    Raises ConfigError, saying where, for a sum of a change and a number, a product or quotient of two changes, a
    division by zero, and a number alone.
    """
    value = _value(node, deltas)
    if not isinstance(value, Delta):
        raise ConfigError(f"the expression comes to the number {value:g}; name an expert.")
    return value


def written(node: Node) -> str:
    """Return the text of an expression; parsed again it is the same.

    >>> written(parse_expression("0.5*law - code-2", ["law", "code-2"]))
    "((0.5 * law) - 'code-2')"
    """
    match node:
        case Number():
            return repr(node.value) if node.value >= 0 else f"({node.value!r})"
        case Name():
            return node.name if _PLAIN_NAME.fullmatch(node.name) else f"'{node.name}'"
        case Operation():
            return f"({written(node.left)} {node.sign} {written(node.right)})"
        case Call():
            options = ", ".join(f"{name}={value!r}" for name, value in node.options.items())
            return f"{node.function}({', '.join(map(written, node.arguments))}{'; ' if options else ''}{options})"


def _walk(node: Node) -> Iterator[str]:
    match node:
        case Name():
            yield node.name
        case Operation():
            yield from _walk(node.left)
            yield from _walk(node.right)
        case Call():
            for argument in node.arguments:
                yield from _walk(argument)
        case Number():
            return


def _value(node: Node, deltas: Mapping[str, Delta]) -> "Delta | float":
    match node:
        case Number():
            return node.value
        case Name():
            return deltas[node.name]
        case Call():
            arguments = [evaluate(argument, deltas) for argument in node.arguments]
            return FUNCTIONS[node.function].build(arguments, **node.options)
        case Operation():
            return _operation(node, _value(node.left, deltas), _value(node.right, deltas))


def _operation(node: Operation, left: "Delta | float", right: "Delta | float") -> "Delta | float":
    if node.sign in "*/":
        return _product(node, left, right)
    if isinstance(left, Delta) and isinstance(right, Delta):
        return left + right if node.sign == "+" else left - right
    if isinstance(left, Delta) or isinstance(right, Delta):
        raise ConfigError(
            f"at {place_words(node.at)}: an expert and a number cannot be added or subtracted; multiply experts by "
            "numbers. If the sign belongs to an expert's name, the library has no expert of that name."
        )
    return left + right if node.sign == "+" else left - right


def _product(node: Operation, left: "Delta | float", right: "Delta | float") -> "Delta | float":
    if isinstance(right, Delta):
        if node.sign == "*" and not isinstance(left, Delta):
            return left * right
        raise ConfigError(f"at {place_words(node.at)}: experts are multiplied and divided by numbers, not by experts.")
    if node.sign == "*":
        return left * right
    if right == 0:
        raise ConfigError(f"at {place_words(node.at)}: division by zero; divide by another number.")
    return left * (1 / right)
