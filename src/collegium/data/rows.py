"""Rows of jsonl, csv and parquet files as documents."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from collegium.core.errors import DataError
from collegium.core.tables import nearest
from collegium.data.cells import check_unicode, messages_cell, parsed_json
from collegium.data.documents import Document, Message
from collegium.data.row_files import Row, file_rows

FIELDS = ("text", "prompt", "completion", "messages")


def check_columns(columns: Mapping[str, str] | None, fields: Sequence[str] = FIELDS) -> dict[str, str]:
    """Return the renaming of our fields to theirs; raises DataError for a field that is not ours."""
    for field in columns or {}:
        if field not in fields:
            raise DataError(
                f"--columns renames {', '.join(fields)}, as in `--columns {fields[0]}=body`; got {field!r}. "
                f"{nearest(field, fields)}"
            )
    return dict(columns or {})


def read_rows(path: Path, *, columns: Mapping[str, str], where: str) -> tuple[list[Document], int]:
    """Return the documents of a jsonl, csv or parquet file, one a row, and the number of rows without text.

    Raises DataError when a row is malformed or its columns are missing, with the line of a jsonl file or the number of
    a table's row, counted from 1 below the names.
    """
    documents, empty = [], 0
    for line, row in file_rows(path, wanted={columns.get(field, field) for field in FIELDS}, where=where):
        document = _document(row, columns, origin=f"{where}:{line}")
        if document is not None:
            check_unicode((document.plain, *(each.role for each in document.messages or ())), origin=document.origin)
        if document is None or not document.plain.strip():
            empty += 1
        else:
            documents.append(document)
    return documents, empty


def _document(row: Row, columns: Mapping[str, str], *, origin: str) -> Document | None:
    form = _form(row, columns, origin)
    values = {field: row[columns.get(field, field)] for field in form}
    if form == ("messages",):
        messages = _messages(values["messages"], origin)
        return Document(messages=messages, origin=origin) if messages else None
    if any(value is None for value in values.values()):
        return None
    for field, value in values.items():
        if not isinstance(value, str):
            raise DataError(f"{origin}: `{columns.get(field, field)}` holds text, got a {type(value).__name__}.")
    if form == ("prompt", "completion") and not (values["prompt"].strip() and values["completion"].strip()):
        return None
    return Document(**values, origin=origin)


def _form(row: Row, columns: Mapping[str, str], origin: str) -> tuple[str, ...]:
    forms = (("messages",), ("prompt", "completion"), ("text",))
    # Columns named on the command line decide before columns that happen to have our names.
    chosen = [form for form in forms if set(form) & set(columns)] or list(forms)
    for form in chosen:
        if all(columns.get(field, field) in row for field in form):
            return form
    wanted = " or ".join(" and ".join(f"`{columns.get(field, field)}`" for field in form) for form in chosen)
    present = ", ".join(f"`{name}`" for name in row) or "none"
    raise DataError(
        f"{origin}: a row has the columns {wanted}; this one has {present}. "
        "Name the right one, for example with `--columns text=body`."
    )


def _messages(value: object, origin: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        value = parsed_json(value, rule=f"{origin}: `messages` in a csv file is a JSON list") if value.strip() else []
    turns: list[Any] = value if isinstance(value, list) else [value] if value is not None else []
    messages = messages_cell(turns, origin=origin)
    if messages and not any(each.role == "assistant" for each in messages):
        raise DataError(
            f"{origin}: messages are learned from their answers, but no role is `assistant`; "
            f"roles here: {', '.join(sorted({each.role for each in messages}))}."
        )
    return messages
