"""The cells of a row of preferences: texts or chats, labels, numbers, groups."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy

from collegium.core.errors import DataError
from collegium.core.tables import nearest
from collegium.data.cells import check_unicode, messages_cell, parsed_json
from collegium.data.preferences import Text
from collegium.data.row_files import Row

_CHAT_CELL = re.compile(r"""\s*\[\s*\{\s*["'](role|content)["']\s*:""")
_NAMES_SHOWN = 20
_NAME_CHARACTERS = 40
_WORDS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class PairCells:
    """A row of preferences under our names for its columns.

    columns: what our fields are called in the row. spelled: every cell is a text, as in a csv file.
    """

    row: Row
    columns: Mapping[str, str]
    origin: str
    spelled: bool

    def column(self, field: str) -> str:
        """Return what a field is called in this row."""
        return self.columns.get(field, field)

    def has(self, field: str) -> bool:
        """Return whether the row has the column."""
        return self.column(field) in self.row

    def filled(self, field: str) -> bool:
        """Return whether something stands in the cell."""
        value = self.row[self.column(field)]
        return not (value is None or (self.spelled and value == ""))

    def text(self, field: str) -> Text | None:
        """Return a text or a chat, None for an empty cell."""
        value = self.row[self.column(field)]
        if value is None:
            return None
        if isinstance(value, str):
            if not (self.spelled and _CHAT_CELL.match(value)):
                check_unicode((value,), origin=self.origin)
                return value
            value = parsed_json(value, rule=f"{self.origin}: `{self.column(field)}` in a csv file is a JSON list")
        if not isinstance(value, list | tuple | numpy.ndarray):
            raise self.wrong(field, "holds a text or a list of messages", value)
        messages = messages_cell(value, origin=self.origin)
        check_unicode((part for each in messages for part in (each.role, each.content)), origin=self.origin)
        return messages

    def number(self, field: str) -> float:
        """Return a finite number."""
        value = self.row[self.column(field)]
        try:
            if not (isinstance(value, Real | Decimal) and not isinstance(value, bool)):
                value = float(value) if self.spelled else numpy.nan
            number = float(value)
        except (ValueError, OverflowError, TypeError):
            number = numpy.nan
        if not numpy.isfinite(number):
            raise self.wrong(field, "holds a finite number", self.row[self.column(field)])
        return number

    def label(self) -> bool:
        """Return whether the answer is one to prefer."""
        value = self.row[self.column("label")]
        if self.spelled and isinstance(value, str):
            value = _WORDS.get(value.strip().lower(), value)
        if not (isinstance(value, bool | numpy.bool_ | Integral) and value in (0, 1)):
            raise self.wrong("label", "is true or false", value)
        return bool(value)

    def group(self) -> str:
        """Return the name of the group, nothing for a row without."""
        value = self.optional("group")
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | Integral):
            raise self.wrong("group", "is a name or a whole number", value)
        check_unicode((str(value),), origin=self.origin)
        return str(value)

    def margin(self) -> float | None:
        """Return by how much the chosen answer is better, None for a row that does not say."""
        return None if self.optional("margin") is None else self.number("margin")

    def optional(self, field: str) -> Any:  # noqa: ANN401 - what a cell holds
        """Return a cell that may be missing, None where it is; raises DataError where a renamed one is."""
        if not self.has(field):
            if field in self.columns:
                raise self.missing(field)
            return None
        return self.row[self.column(field)] if self.filled(field) else None

    def wrong(self, field: str, rule: str, value: object) -> DataError:
        """Return the error of a cell that holds something else."""
        shown = f"{value!r:.60}" if isinstance(value, str | float) else f"a {type(value).__name__}"
        return DataError(f"{self.origin}: `{self.column(field)}` {rule}, got {shown}. Mend or delete the row.")

    def missing(self, field: str) -> DataError:
        """Return the error of a column that is not there."""
        return DataError(
            f"{self.origin}: {no_column(self.column(field), self.row)} Name the right one with "
            f"`--columns {field}=NAME`."
        )


def listed(names: Iterable[object]) -> str:
    """Return the names of columns as a message lists them, the first twenty.

    >>> listed(["prompt", "chosen"])
    '`prompt`, `chosen`'
    """
    shown = [f"`{_plain(name)}`" for name in names]
    more = f" and {len(shown) - _NAMES_SHOWN} more" if len(shown) > _NAMES_SHOWN else ""
    return ", ".join(shown[:_NAMES_SHOWN]) + more if shown else "none"


def no_column(name: str, names: Iterable[object]) -> str:
    """Return what a message says of a column that is not there: which there are, and the one that is close.

    >>> no_column("chosen", ["prompt", "chosn"])
    "there is no column `chosen`, this row has `prompt`, `chosn`. Did you mean 'chosn'?"
    """
    present = list(names)
    close = nearest(name, map(_plain, present))
    found = f"there is no column `{_plain(name)}`, this row has {listed(present)}."
    return f"{found} {close}" if close.startswith("Did you mean") else found


def _plain(name: object) -> str:
    """Return a column's name as any terminal and file can hold it."""
    return str(name)[:_NAME_CHARACTERS].encode(errors="backslashreplace").decode()
