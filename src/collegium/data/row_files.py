"""Rows as jsonl, csv and parquet files hold them."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from collegium.core.errors import DataError
from collegium.data.cells import parsed_json
from collegium.data.texts import decode_text, read_file

ROW_SUFFIXES = (".jsonl", ".csv", ".parquet")

Row = Mapping[str, Any]


def file_rows(path: Path, *, wanted: set[str], where: str) -> Iterator[tuple[int, Row]]:
    """Yield a file's rows, each after its number: the line of a jsonl file, of a table its row below the names from 1.

    A row has all columns of its file; of a parquet file the cells of others than the wanted ones are None. In a csv
    file every cell is a text.

    Raises DataError for what is no such file.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path, wanted, where)
    return _jsonl(path, where) if suffix == ".jsonl" else _csv(path, where)


def _jsonl(path: Path, where: str) -> Iterator[tuple[int, Row]]:
    for line, content in enumerate(decode_text(read_file(path), where=where).split("\n"), start=1):
        if not content.strip():
            continue
        row = parsed_json(content, rule=f"{where}:{line}: each line of a jsonl file is one JSON object")
        if not isinstance(row, dict):
            raise DataError(
                f'{where}:{line}: each line of a jsonl file is one JSON object such as {{"text": ...}}, '
                f"got a {type(row).__name__}."
            )
        yield line, row


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
