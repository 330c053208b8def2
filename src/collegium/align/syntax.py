"""Targets as text: a checked subset of Python's syntax, parsed and never run.

    target  = factor ("*" factor)*
    factor  = "(" target ")"
            | feature                                a constraint: texts for which it is at least 0.5
            | "not" feature                          ... for which it is less
            | feature (">=" | "<=") number           ... for which it is that large, or that small
            | "moment" "(" feature ")" "==" number   the feature's mean
            | "tilt" "(" feature "," number ")"      texts count exp(number f)
            | "reward" "(" text ["," "beta" "=" number] ")"    texts count exp(r / beta)
    feature = name "(" [value ("," value)*] ")"

In Python `*` binds tighter than `==`, `>=` and `not`: a factor with one of them is put in parentheses beside others.
"""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from collegium.align import features
from collegium.align.target import Constraint, Moment, Part, Tilt
from collegium.core.errors import CollegiumError, ConfigError
from collegium.core.protocols import Feature
from collegium.core.tables import nearest

Maker = Callable[..., Feature]

FEATURES: Mapping[str, Maker] = {
    "contains": features.contains,
    "any_of": features.any_of,
    "regex": features.regex,
    "count_of": features.count_of,
    "female": features.female,
    "length": features.length,
    "compiles": features.compiles,
}
"""Features that need nothing but the text."""

DEFAULT_BETA = 0.1
_LONGEST = 4000
_DEEPEST = 50


@dataclass(frozen=True)
class Vocabulary:
    """What names of a target mean.

    features: name -> what makes the feature of its arguments. reward: opens a reward model by its reference.
    """

    features: Mapping[str, Maker]
    reward: Callable[[str], Feature]


def parse_target(text: str, vocabulary: Vocabulary) -> tuple[Part, ...]:
    """Return the factors that a target's text names; raises ConfigError that points into it.

    >>> plain = Vocabulary(FEATURES, lambda reference: features.length())
    >>> [type(part).__name__ for part in parse_target('contains("sea") * (moment(female()) == 0.5)', plain)]
    ['Constraint', 'Moment']
    """
    if len(text) > _LONGEST:
        raise ConfigError(f"a target has at most {_LONGEST} characters, got {len(text)}.")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        place = getattr(error, "offset", None) or 1
        told = getattr(error, "msg", None) or str(error)
        raise ConfigError(_pointing(text.strip(), place - 1, f"this cannot be read ({told})")) from error
    return _Reader(text.strip(), vocabulary).factors(tree.body)


class _Reader:
    """Reads a tree of Python's syntax; every method reads what it is named after."""

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        self.text, self.vocabulary, self.depth = text, vocabulary, 0

    def factors(self, node: ast.expr) -> tuple[Part, ...]:
        """Return the factors of a product."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.mistake(node, "the target is nested too deeply")
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            return (*self.factors(node.left), *self.factors(node.right))
        return (self.factor(node),)

    def factor(self, node: ast.expr) -> Part:
        """Return one factor."""
        if isinstance(node, ast.Compare):
            return self.comparison(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return Constraint(self.feature(node.operand), low=float("-inf"), high=_BELOW_HALF)
        name = _name_of(node)
        if name == "moment":
            raise self.mistake(node, "a moment is compared with its value: (moment(f()) == 0.5)")
        if name == "tilt":
            return self.tilt(_call(node))
        if name == "reward":
            return self.reward(_call(node))
        return Constraint(self.feature(node))

    def comparison(self, node: ast.Compare) -> Part:
        """Return a moment, or a constraint on how large a feature is."""
        if len(node.ops) != 1:
            raise self.mistake(node, "one comparison stands in a factor; write two factors for two bounds")
        sign, side = node.ops[0], node.left
        if isinstance(side, ast.BinOp):
            raise self.mistake(
                side, "a comparison beside other factors stands in parentheses: f() * (moment(g()) == 0.5)"
            )
        value = self.number(node.comparators[0])
        if _name_of(side) == "moment":
            if not isinstance(sign, ast.Eq):
                raise self.mistake(node, "a moment is one value: moment(f()) == 0.5")
            call = _call(side)
            if len(call.args) != 1 or call.keywords:
                raise self.mistake(side, "moment takes one feature: moment(female())")
            return Moment(self.feature(call.args[0]), value)
        if isinstance(sign, ast.GtE):
            return Constraint(self.feature(side), low=value)
        if isinstance(sign, ast.LtE):
            return Constraint(self.feature(side), low=float("-inf"), high=value)
        raise self.mistake(node, "a feature is compared by >= or <=, a moment by ==")

    def tilt(self, call: ast.Call) -> Tilt:
        """Return a factor exp(weight f)."""
        if len(call.args) != 2 or call.keywords:
            raise self.mistake(call, "tilt takes a feature and a number: tilt(length(), -0.1)")
        return Tilt(self.feature(call.args[0]), self.number(call.args[1]))

    def reward(self, call: ast.Call) -> Tilt:
        """Return a factor exp(r / beta)."""
        known = {keyword.arg: keyword.value for keyword in call.keywords}
        if len(call.args) != 1 or set(known) - {"beta"}:
            raise self.mistake(call, 'reward takes a reward model and beta: reward("LIB#NAME", beta=0.1)')
        beta = self.number(known["beta"]) if known else DEFAULT_BETA
        if beta <= 0:
            raise self.mistake(known["beta"], "beta is positive")
        return Tilt(self.made(call, lambda: self.vocabulary.reward(self.string(call.args[0]))), 1 / beta)

    def feature(self, node: ast.expr) -> Feature:
        """Return a feature of the vocabulary, or a reward model's own number."""
        name = _name_of(node)
        if name is None:
            raise self.mistake(node, 'a feature is a call, such as contains("she") or female()')
        call = _call(node)
        if name == "reward" and len(call.args) == 1 and not call.keywords:
            return self.made(call, lambda: self.vocabulary.reward(self.string(call.args[0])))
        if name not in self.vocabulary.features:
            known = (*self.vocabulary.features, "moment", "tilt", "reward")
            raise self.mistake(node, f"there is no feature {name!r}. {nearest(name, known)}")
        values = [self.value(each) for each in call.args]
        options = {keyword.arg or "": self.value(keyword.value) for keyword in call.keywords}
        return self.made(call, lambda: self.vocabulary.features[name](*values, **options))

    def made(self, node: ast.expr, make: Callable[[], Feature]) -> Feature:
        """Return what a maker makes; what it refuses points here."""
        try:
            return make()
        except CollegiumError as error:
            raise type(error)(_pointing(self.text, node.col_offset, str(error).rstrip("."))) from error
        except TypeError as error:
            raise self.mistake(node, f"{_name_of(node)} does not take these: {error}") from error

    def value(self, node: ast.expr) -> Any:  # noqa: ANN401 - a text or a number
        """Return a text or a number."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        return self.number(node)

    def string(self, node: ast.expr) -> str:
        """Return a text."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        raise self.mistake(node, "a text in quotes is expected")

    def number(self, node: ast.expr) -> float:
        """Return a number, with or without a sign."""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self.number(node.operand)
        plain = isinstance(node, ast.Constant) and type(node.value) in (int, float)
        value = float(node.value) if isinstance(node, ast.Constant) and plain else float("nan")  # pyright: ignore[reportArgumentType]
        if not abs(value) < float("inf"):
            raise self.mistake(node, "a finite number is expected")
        return value

    def mistake(self, node: ast.AST, rule: str) -> ConfigError:
        """Return the error that points at a node."""
        return ConfigError(_pointing(self.text, getattr(node, "col_offset", 0), rule))


_BELOW_HALF = 0.5 - 2**-30
"""What is not at least 0.5."""


def _pointing(text: str, place: int, rule: str) -> str:
    return f"the target {text!r}, at character {place + 1} ({text[place : place + 20]!r}): {rule.rstrip('.')}."


def _name_of(node: ast.expr) -> str | None:
    """Return the name of a call, None for anything else."""
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None


def _call(node: ast.expr) -> ast.Call:
    assert isinstance(node, ast.Call)
    return node
