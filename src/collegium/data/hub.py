"""Data sets of the Hugging Face hub as rows: files of one commit, fetched on the first call."""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from collegium.core.errors import DataError, ResourceError
from collegium.core.parcels import Progress

Row = Mapping[str, Any]
CONVERTED = "refs/convert/parquet"
"""The branch of parquet files that the hub itself keeps of a data set."""


def hub_folder(
    repository: str, revision: str, patterns: Sequence[str], *, licence: str, instead: str, say: Progress
) -> Path:
    """Return the folder of a data set's files, named after the commit.

    patterns: of the files wanted. instead: what to do where the hub cannot be reached.

    Raises ResourceError when the files are neither in the hub's cache nor to be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    say(f"fetching {repository} at {revision} from the hub, licence: {licence}")
    try:
        folder = snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=list(patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ResourceError(
            f"{repository}@{revision} is not in the local hub cache and cannot be fetched "
            f"({type(error).__name__}). Go online once, {instead}"
        ) from error
    return Path(folder)


def hub_rows(folder: Path, patterns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of all files of these patterns; raises DataError where there is no such file."""
    files = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    if not files:
        raise DataError(
            f"{folder} holds no file {' or '.join(patterns)}: only a part of the data set was fetched, or it was "
            "rearranged. Go online and run again, or name another commit (NAME@COMMIT)."
        )
    for file in files:
        yield from _parquet(file) if file.suffix == ".parquet" else _zipped_lines(file)


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=1024):
            yield from batch.to_pylist()


def _zipped_lines(file: Path) -> Iterator[Row]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
