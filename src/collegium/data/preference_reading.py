"""A folder, a file, rows or a data set of the user's own preferences as domains of pairs."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from collegium.core.errors import DataError
from collegium.data.preference_domains import DomainReader
from collegium.data.preferences import PairCorpus, PairDomain
from collegium.data.reading import (
    SOURCES_FILE,
    check_part_names,
    domain_name,
    domain_parts,
    files_below,
    read_kinds,
    read_sources,
)
from collegium.data.row_files import ROW_SUFFIXES, file_rows

_SUPPORTED = ".jsonl, .csv or .parquet"


def read_preferences(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    domain_column: str | None = None,
    drop_unusable: bool = False,
) -> PairCorpus:
    """Return the domains of a folder: one for each sub-folder of row files and each .jsonl, .csv or .parquet file.

    A single file is one domain, named after it. Rows are pairs (`prompt`, `chosen`, `rejected`, the prompt alone may
    be missing) or single answers (`prompt`, `completion` and `label` or `rating`) that are paired within their domain;
    texts are plain or lists of messages. Exact copies of pairs are left out and counted. `sources.json` in the folder
    says where domains come from, and of what kind they are. Hidden files are not looked at.

    columns:       what a row's `prompt`, `chosen`, `rejected`, `completion`, `label`, `rating`, `margin` or `group` is
                   called in these files.
    domain_column: a column that names each row's domain; files and folders then do not.
    drop_unusable: leave out and count pairs with equal answers or without text, which raise DataError otherwise.

    Raises DataError for whatever cannot be read, with file and row, and for a domain without any pair.

    >>> import json, tempfile
    >>> row = {"prompt": "2+2=", "chosen": "4", "rejected": "5"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = Path(folder, "sums.jsonl").write_text(json.dumps(row))
    ...     corpus = read_preferences(folder)
    >>> corpus["sums"].pairs[0].chosen
    '4'
    """
    root, reader = Path(path), DomainReader(columns, domain_column, drop_unusable)
    if not root.exists():
        raise DataError(f"{root} does not exist; give a folder or a file of preferences. Check the path.")
    parts = domain_parts(root, supported=_SUPPORTED) if root.is_dir() else [root]
    if domain_column is None:
        check_part_names(parts)
    for part in parts:
        if domain_column is None:
            reader.expect(domain_name(part), where=str(part))
        for file in files_below(part) if part.is_dir() else [part]:
            _check_row_file(file)
            spelled = file.suffix.lower() == ".csv"
            for number, row in file_rows(file, wanted=reader.wanted, where=str(file)):
                reader.read(row, name=domain_name(part), origin=f"{file}:{number}", spelled=spelled)
    if root.is_dir():
        return reader.corpus(read_sources(root / SOURCES_FILE), read_kinds(root / SOURCES_FILE), where=str(root))
    return reader.corpus(where=str(root))


def preferences_from_rows(
    rows: Iterable[Mapping[str, Any]],
    *,
    name: str,
    columns: Mapping[str, str] | None = None,
    drop_unusable: bool = False,
) -> PairDomain:
    """Return rows as a domain of this name, read as `read_preferences` reads those of a file.

    Raises DataError with the number of the row, the first is 1.

    >>> rows = [{"prompt": "2+2=", "completion": "4", "rating": 5}, {"prompt": "2+2=", "completion": "5", "rating": 1}]
    >>> preferences_from_rows(rows, name="sums").pairs[0].margin
    4.0
    """
    return preferences_from_dataset(rows, name=name, columns=columns, drop_unusable=drop_unusable)[name]


def preferences_from_dataset(
    dataset: Any,  # noqa: ANN401 - a data set, several by split, or any rows
    *,
    name: str | None = None,
    domain_column: str | None = None,
    columns: Mapping[str, str] | None = None,
    drop_unusable: bool = False,
) -> PairCorpus:
    """Return a Hugging Face data set as one domain of this name, or as one for each value of a column.

    Of several splits `train` is read, or the only one: Collegium splits by itself, by prompt. Give another split as
    such, `preferences_from_dataset(splits["test"], ...)`.

    Raises DataError as `read_preferences` does, and when not exactly one of `name` and `domain_column` is given.

    >>> from datasets import Dataset
    >>> rows = Dataset.from_list([{"prompt": "2+2=", "chosen": "4", "rejected": "5", "topic": "sums"}])
    >>> preferences_from_dataset(rows, domain_column="topic").names
    ('sums',)
    """
    if (name is None) == (domain_column is None):
        raise DataError(
            f"a data set is one domain or is dealt to domains by a column: give `name` or `domain_column`, got "
            f"{'neither' if name is None else 'both'}."
        )
    reader, where = DomainReader(columns, domain_column, drop_unusable), name or "data set"
    if name is not None:
        reader.expect(name, where=where)
    for number, row in enumerate(_one_split(dataset), start=1):
        if not isinstance(row, Mapping):
            raise DataError(
                f"{where}:{number}: preferences are rows, mappings of columns to cells, got a {type(row).__name__}. "
                "Give a list of them or a loaded data set."
            )
        reader.read(row, name=name or "", origin=f"{where}:{number}")
    return reader.corpus(where=where)


def _one_split(dataset: Any) -> Iterable[Any]:  # noqa: ANN401 - whatever was given
    if not isinstance(dataset, Iterable) or isinstance(dataset, str):
        raise DataError(
            f"preferences are rows, got a {type(dataset).__name__}. Give a list of them or a loaded data set."
        )
    if not isinstance(dataset, Mapping):
        return dataset
    if "train" in dataset:
        return dataset["train"]
    if len(dataset) == 1:
        return next(iter(dataset.values()))
    raise DataError(
        f"of several splits `train` is read, this data set has {', '.join(map(str, dataset)) or 'none'}. Give one of "
        "them as such."
    )


def _check_row_file(path: Path) -> None:
    if path.suffix.lower() not in ROW_SUFFIXES:
        raise DataError(
            f"{path}: preferences are rows of {_SUPPORTED} files, got {path.suffix or 'no suffix'!r}. Convert it, take "
            "it away, or hide it with a leading dot."
        )
