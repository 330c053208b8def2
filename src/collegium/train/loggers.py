"""Where progress goes: two methods, four places."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from collegium.core.errors import ResourceError
from collegium.core.files import disk_errors

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@runtime_checkable
class Logger(Protocol):
    """Takes the values of a step. A fit that resumes may send a step again; the later values count."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take named values of one step."""
        ...

    def close(self) -> None:
        """Write what is still held back; nothing is logged afterwards."""
        ...


class NullLogger:
    """Forgets everything."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class MemoryLogger:
    """Keeps every value in `rows`."""

    def __init__(self) -> None:
        """Start empty."""
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep a copy."""
        self.rows.append((step, dict(values)))

    def close(self) -> None:
        """Do nothing."""


class JsonlLogger:
    """Appends one JSON object a call to a file, flushed each time so that another process can follow it."""

    def __init__(self, path: Path) -> None:
        """Open the file for appending; raises ResourceError when it cannot be written."""
        self.path = path
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line."""
        with disk_errors(self.path):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardLogger:
    """Writes TensorBoard event files (extra `track`)."""

    def __init__(self, folder: Path) -> None:
        """Open a writer; raises ResourceError with the install line when TensorBoard is missing."""
        self._writer = _summary_writer(folder)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one scalar a value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is held back and close the file."""
        self._writer.close()


class SeveralLoggers:
    """Sends every value to several loggers and closes them all."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        """Keep the loggers in order."""
        self.loggers = tuple(loggers)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass the values on."""
        for logger in self.loggers:
            logger.log(step, values)

    def close(self) -> None:
        """Close each one."""
        for logger in self.loggers:
            logger.close()


def _summary_writer(folder: Path) -> "SummaryWriter":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ResourceError(
            "logging to TensorBoard needs the package tensorboard: pip install 'collegium[track]'."
        ) from error
    with disk_errors(folder):
        return SummaryWriter(str(folder))
