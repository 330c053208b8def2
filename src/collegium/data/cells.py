"""What the cells of a row may hold: JSON, messages, whole Unicode."""

import json
from collections.abc import Iterable
from numbers import Integral
from typing import Any

from collegium.core.errors import DataError, NameTaken
from collegium.core.names import check_name
from collegium.data.documents import Message


def parsed_json(content: str, *, rule: str) -> Any:  # noqa: ANN401 - plain JSON
    """Return what JSON text holds; raises DataError that begins with the rule."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # no JSON, a number of too many digits, or lists in lists too deep
        reason = f"{error.msg} at character {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        raise DataError(f"{rule}, this one is not to be read: {reason}. Mend or delete the row.") from error


def messages_cell(turns: Iterable[object], *, origin: str) -> tuple[Message, ...]:
    """Return a list of {"role": ..., "content": ...} as messages; raises DataError for a turn that is no such thing."""
    return tuple(_message(turn, origin) for turn in turns)


def _message(turn: object, origin: str) -> Message:
    role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
    if not (isinstance(role, str) and isinstance(content, str)):
        raise DataError(f'{origin}: each message is {{"role": ..., "content": ...}} with texts, got {_shape(turn)}.')
    return Message(role, content)


def _shape(value: object) -> str:
    """Return what a value is without what it says: it may be long, or deep."""
    if not isinstance(value, dict):
        return f"a {type(value).__name__}"
    parts = [f"{str(key)[:20]!r}: a {type(each).__name__}" for key, each in list(value.items())[:4]]
    return "{" + ", ".join(parts) + (", ..." if len(value) > len(parts) else "") + "}"


def check_unicode(parts: Iterable[str], *, origin: str) -> None:
    """Raise DataError for half of a surrogate pair: it is no character and has no bytes that a hash could be of."""
    try:
        for each in parts:
            each.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{origin}: text must be Unicode, this row holds half of a surrogate pair (\\ud800 to \\udfff). "
            "Mend or delete the row."
        ) from error


def check_domain(value: object, *, origin: str) -> str:
    """Return a cell that names a domain; raises DataError when that is no name."""
    if isinstance(value, bool) or not isinstance(value, str | Integral):
        raise DataError(f"{origin}: a domain's name is a text, got a {type(value).__name__}. Mend or delete the row.")
    try:
        return check_name(str(value), what="domain")
    except NameTaken as error:
        raise DataError(f"{origin}: {error}") from error
