"""Rows of jsonl, csv and parquet files as documents."""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from collegium.core.errors import DataError
from collegium.core.tables import nearest
from collegium.data.documents import Document, Message
from collegium.data.texts import decode_text, read_file

ROW_SUFFIXES = (".jsonl", ".csv", ".parquet")
FIELDS = ("text", "prompt", "completion", "messages")

Row = Mapping[str, Any]


def check_columns(columns: Mapping[str, str] | None) -> dict[str, str]:
    """Return the renaming of our fields to theirs; raises DataError for a field that is not ours."""
    for field in columns or {}:
        if field not in FIELDS:
            raise DataError(
                f"--columns renames {', '.join(FIELDS)}, as in `--columns text=body`; got {field!r}. "
                f"{nearest(field, FIELDS)}"
            )
    return dict(columns or {})


def read_rows(path: Path, *, columns: Mapping[str, str], where: str) -> tuple[list[Document], int]:
    """Return the documents of a jsonl, csv or parquet file, one a row, and the number of rows without text.

    Raises DataError when a row is malformed or its columns are missing, with the line of a jsonl file or the number of
    a table's row, counted from 1 below the names.
    """
    documents, empty = [], 0
    for line, row in _rows(path, columns, where):
        document = _document(row, columns, origin=f"{where}:{line}")
        if document is not None and not _is_unicode(document):
            raise DataError(
                f"{where}:{line}: text must be Unicode, this row holds half of a surrogate pair (\\ud800 to \\udfff). "
                "Mend or delete the row."
            )
        if document is None or not document.plain.strip():
            empty += 1
        else:
            documents.append(document)
    return documents, empty


def _rows(path: Path, columns: Mapping[str, str], where: str) -> Iterator[tuple[int, Row]]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path, {columns.get(field, field) for field in FIELDS}, where)
    return _jsonl(path, where) if suffix == ".jsonl" else _csv(path, where)


def _is_unicode(document: Document) -> bool:
    """Whether its content, the roles of a chat included, has the bytes that its hash is taken of."""
    try:
        return bool(document.hash)
    except UnicodeEncodeError:
        return False


def _jsonl(path: Path, where: str) -> Iterator[tuple[int, Row]]:
    for line, content in enumerate(decode_text(read_file(path), where=where).split("\n"), start=1):
        if not content.strip():
            continue
        row = _parsed(content, rule=f"{where}:{line}: each line of a jsonl file is one JSON object")
        if not isinstance(row, dict):
            raise DataError(
                f'{where}:{line}: each line of a jsonl file is one JSON object such as {{"text": ...}}, '
                f"got a {type(row).__name__}."
            )
        yield line, row


def _parsed(content: str, *, rule: str) -> Any:  # noqa: ANN401 - plain JSON
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # no JSON, a number of too many digits, or lists in lists too deep
        reason = f"{error.msg} at character {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        raise DataError(f"{rule}, this one is not to be read: {reason}. Mend or delete the row.") from error


def _csv(path: Path, where: str) -> Iterator[tuple[int, Row]]:
    import pyarrow.csv

    content = decode_text(read_file(path), where=where).encode()
    if not content.strip():
        return
    if content.count(b'"') % 2:
        raise DataError(f'{where}: a csv file has each double quote (") closed, here one is not. Write "" for a quote.')
    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(content),
            # Names are read as the first row, so that no column of texts is ever taken for numbers or dates.
            read_options=pyarrow.csv.ReadOptions(autogenerate_column_names=True, block_size=len(content) + 1),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        )
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{where}: a csv file has a first line of column names and equally many fields in each row: {error}. "
            'Put fields that hold commas or line breaks in double quotes ("...").'
        ) from error
    names, *rows = zip(*(column.to_pylist() for column in table.itercolumns()), strict=True)
    for number, row in enumerate(rows, start=1):
        yield number, {str(name): value for name, value in zip(names, row, strict=True)}


def _parquet(path: Path, wanted: set[str], where: str) -> Iterator[tuple[int, Row]]:
    import pyarrow
    import pyarrow.parquet

    content = read_file(path)
    if not content:
        return
    try:
        with pyarrow.parquet.ParquetFile(io.BytesIO(content)) as file:
            names = file.schema_arrow.names
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=[name for name in names if name in wanted]):
                for place in range(batch.num_rows):
                    number += 1
                    yield number, dict.fromkeys(names) | _cells(batch, place, where=f"{where}:{number}")
    except pyarrow.ArrowException as error:
        raise DataError(f"{where} is not a whole parquet file: {error}. Write or copy it again.") from error


def _cells(batch: Any, place: int, *, where: str) -> dict[str, Any]:  # noqa: ANN401 - a pyarrow record batch
    try:
        return {name: column[place].as_py() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    except ValueError as error:  # bytes that are not UTF-8, or a time finer than Python's
        raise DataError(f"{where}: this row is not to be read: {error}. Write its columns as UTF-8 text.") from error


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
        value = _parsed(value, rule=f"{origin}: `messages` in a csv file is a JSON list") if value.strip() else []
    turns: list[Any] = value if isinstance(value, list) else [value] if value is not None else []
    for turn in turns:
        if not (isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)):
            raise DataError(f'{origin}: each message is {{"role": ..., "content": ...}} with texts, got {turn!r:.80}.')
    messages = tuple(Message(turn["role"], turn["content"]) for turn in turns)
    if messages and not any(each.role == "assistant" for each in messages):
        raise DataError(
            f"{origin}: messages are learned from their answers, but no role is `assistant`; "
            f"roles here: {', '.join(sorted({each.role for each in messages}))}."
        )
    return messages
