"""From a text to the expression it is: a small recursive descent. Nothing is ever run as code.

    list    = sum ("," sum)*
    sum     = product (("+" | "-") product)*
    product = signed (("*" | "/") signed)*
    signed  = ("-" | "+")* value
    value   = number | name | function "(" list (";" option ("," option)*)? ")" | "(" sum ")"
    option  = word "=" ("-" | "+")* number

**Where a name ends.** Names of experts may hold dots, dashes and underscores, so `code-2` can be read two ways. A name
is the longest one of an expert of the library that stands there and is not followed by a letter, digit or underscore:
`code-2` is that expert where there is one, and code minus the number 2, a mistake, where there is not. A number is a
number unless a longer name stands there (`7b`). In quotes (`'code-2'` or `"code-2"`) everything is one name. A minus
with spaces around it is always a minus.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from collegium.core.errors import ConfigError, UnknownName
from collegium.core.tables import nearest

_NUMBER = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_WORD = re.compile(r"[A-Za-z_]\w*")
_NAME = re.compile(r"\w[\w.-]*")
_NOT_FINITE = ("nan", "inf", "infinity")
_SHOWN = 60
_DEEPEST = 60
_MOST_SIGNS = 400


@dataclass(frozen=True)
class Number:
    """A number."""

    value: float
    at: int


@dataclass(frozen=True)
class Name:
    """An expert."""

    name: str
    at: int


@dataclass(frozen=True)
class Operation:
    """`+`, `-`, `*` or `/` of two things."""

    sign: str
    left: "Node"
    right: "Node"
    at: int


@dataclass(frozen=True)
class Call:
    """A function of several things, with options."""

    function: str
    arguments: tuple["Node", ...]
    options: Mapping[str, float]
    at: int


Node = Number | Name | Operation | Call


def place_words(at: int) -> str:
    """Return a place in a text as messages name it.

    >>> place_words(0)
    'character 1'
    """
    return f"character {at + 1}"


def shortened(text: str) -> str:
    """Return a text in quotes as messages show it: of a long one, its beginning.

    >>> shortened("law + " * 100)
    "'law + law + law + law + law + law + law + law + law + law + ' and 540 characters more"
    """
    rest = len(text) - _SHOWN
    return repr(text) if rest <= 0 else f"{text[:_SHOWN]!r} and {rest} characters more"


class Parser:
    """Reads a text from left to right; every method reads what it is named after."""

    def __init__(self, text: str, names: Sequence[str], functions: Mapping[str, Mapping[str, float]]) -> None:
        """Start at the beginning. functions: name -> its options and their defaults."""
        self.text, self.functions = text, functions
        self.names = sorted(names, key=len, reverse=True)
        self.at = self.depth = self.signs_read = 0

    def listed(self) -> tuple[Node, ...]:
        """Return the sums that commas part."""
        found = [self._sum()]
        while self._take(","):
            found.append(self._sum())
        return tuple(found)

    def _sum(self) -> Node:
        """Return a sum."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self._mistake("the expression is nested too deeply")
        left = self._product()
        while sign := self._sign("+", "-"):
            place = self.at - 1
            left = Operation(sign, left, self._product(), place)
        self.depth -= 1
        return left

    def _product(self) -> Node:
        """Return a product."""
        left = self._signed()
        while sign := self._sign("*", "/"):
            place = self.at - 1
            left = Operation(sign, left, self._signed(), place)
        return left

    def _signed(self) -> Node:
        """Return a value with its sign."""
        sign, place = self._signs()
        value = self._value()
        return value if sign > 0 else Operation("*", Number(-1.0, place), value, place)

    def _signs(self) -> tuple[float, int]:
        """Return the sign that pluses and minuses come to, and where they began."""
        sign, place = 1.0, self._skip()
        while taken := self._take("+", "-"):
            sign = -sign if taken == "-" else sign
        return sign, place

    def _value(self) -> Node:
        """Return a number, a name, a call or what stands in parentheses."""
        place = self._skip()
        if self._take("("):
            inner = self._sum()
            self._expect(")")
            return inner
        word, number, name = self._match(_WORD), self._match(_NUMBER), self._known_name()
        if word and self.text[place + len(word) :].lstrip().startswith("("):
            return self._call(word)
        if number and len(number) >= len(name):
            return Number(self._number(number), place)
        if name or self.text[place : place + 1] in ("'", '"'):
            return Name(self._taken(name) if name else self._quoted(), place)
        raise self._unknown()

    def _call(self, word: str) -> Call:
        """Return a call of a function."""
        place = self.at
        if word not in self.functions:
            raise self._mistake(f"there is no function {shortened(word)}. {nearest(word, self.functions)}")
        self._taken(word)
        self._expect("(")
        arguments = self.listed()
        options = dict(self.functions[word])
        if self._take(";"):
            self._option(word, options)
            while self._take(","):
                self._option(word, options)
        self._expect(")")
        return Call(word, arguments, options, place)

    def _option(self, function: str, options: dict[str, float]) -> None:
        """Read an option into the table."""
        self._skip()
        word = self._match(_WORD)
        if word not in options:
            known = nearest(word, options) if options else "It takes none"
            raise self._mistake(f"{function} has no option {shortened(word or self._rest())}. {known}")
        self._taken(word)
        self._expect("=")
        sign, _ = self._signs()
        number = self._match(_NUMBER)
        if not number:
            raise self._mistake(f"{word} is a number")
        value = sign * self._number(number)
        if isinstance(options[word], int):
            if value != int(value):
                raise self._mistake(f"{word} is a whole number, got {value:g}")
            value = int(value)
        options[word] = value

    def _number(self, digits: str) -> float:
        """Read a number that stands here."""
        value = float(digits)
        if value == float("inf"):
            raise self._mistake("a weight is a finite number, and this one is larger than any that can be kept")
        self._taken(digits)
        return value

    def _quoted(self) -> str:
        """Return a name in quotes."""
        mark, place = self.text[self.at], self.at
        end = self.text.find(mark, place + 1)
        if end < 0:
            raise self._mistake(f"the quotation mark {mark} is not closed")
        name = self.text[place + 1 : end]
        if name not in self.names:
            raise self._no_expert(name)
        self.at = end + 1
        return name

    def _known_name(self) -> str:
        """Return the longest known name that stands here, empty where none does."""
        for name in self.names:
            end = self.at + len(name)
            if self.text.startswith(name, self.at) and not re.match(r"\w", self.text[end : end + 1]):
                return name
        return ""

    def _unknown(self) -> Exception:
        word = self._match(_NAME)
        if word.lower() in _NOT_FINITE:
            return self._mistake("a weight is a finite number")
        return self._no_expert(word) if word else self._mistake("an expert, a number or ( is expected")

    def _no_expert(self, name: str) -> UnknownName:
        return UnknownName(
            f"at {place_words(self.at)}: the library has no expert {shortened(name)}. {nearest(name, self.names)}"
        )

    def end(self) -> None:
        """Raise ConfigError unless everything was read."""
        self._skip()
        if self.at < len(self.text):
            raise self._mistake("a sign (+ - * / ,) or the end is expected")

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise self._mistake(f"{sign} is expected")

    def _sign(self, *signs: str) -> str:
        """Return the sign between two things, empty where none stands here."""
        sign = self._take(*signs)
        self.signs_read += bool(sign)
        if self.signs_read > _MOST_SIGNS:
            raise self._mistake(f"the expression is too long, with more than {_MOST_SIGNS} signs")
        return sign

    def _take(self, *signs: str) -> str:
        self._skip()
        sign = self.text[self.at : self.at + 1]
        if sign not in signs or not sign:
            return ""
        return self._taken(sign)

    def _taken(self, text: str) -> str:
        self.at += len(text)
        return text

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        return found[0] if found else ""

    def _skip(self) -> int:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        return self.at

    def _rest(self) -> str:
        return self.text[self.at : self.at + 12] or "the end"

    def _mistake(self, rule: str) -> ConfigError:
        place = place_words(self.at)
        return ConfigError(f"{shortened(self.text)}, at {place}: {rule.rstrip('.')}, got {self._rest()!r}.")
