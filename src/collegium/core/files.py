"""Writes that happen whole or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collegium.core.errors import ResourceError

STAGING_PREFIX = ".staging-"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a refused write into a ResourceError that names the place."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise ResourceError(
                f"no space left for {path}: nothing was changed; free space there and run again."
            ) from error
        if error.errno in {errno.EACCES, errno.EROFS, errno.EPERM}:
            raise ResourceError(
                f"{path} cannot be written ({error.strerror}); choose a folder you may write to."
            ) from error
        raise


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file aside, flush it, and rename it into place; raises ResourceError when the disk is full."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=STAGING_PREFIX)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(aside, 0o644)
            os.replace(aside, path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
        sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_bytes(path, text.encode())


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Give a folder to fill; on leaving it is flushed and renamed to `target`, which must not exist.

    Anything that goes wrong leaves no trace. Raises FileExistsError when another process was first.
    """
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=STAGING_PREFIX))
        try:
            yield aside
            os.chmod(aside, 0o755)
            for path in sorted(aside.rglob("*")):
                sync(path)
            sync(aside)
            if target.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
            os.rename(aside, target)
            sync(target.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
