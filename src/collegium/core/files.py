"""Writes that happen whole or not at all, by processes that may die at any point.

What is being written lies under a name that starts with `.staging-`, and its writer holds a lock on it. The lock dies
with the writer, so `sweep` can tell what was left behind from what is still being written. Readers look at neither.
"""

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collegium.core.errors import ResourceError

STAGING_PREFIX = ".staging-"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED = frozenset({errno.EACCES, errno.EROFS, errno.EPERM})
_POLL_SECONDS = 0.01


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a refused write into a ResourceError that names the place."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise ResourceError(
                f"no space left for {path}: nothing was changed; free space there and run again."
            ) from error
        if error.errno in _REFUSED:
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


def sync_tree(folder: Path) -> None:
    """Flush a folder and everything in it to the disk."""
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)


def file_hash(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_new(path: Path, content: bytes) -> None:
    """Write a file that nobody sees yet, inside a staging folder; it is flushed with the folder."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        _write_all(descriptor, content)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes, *, staging: Path | None = None) -> None:
    """Write a file aside, flush it, and rename it into place; raises ResourceError when the disk is full.

    staging: a folder on the same disk to write aside in; default = the file's own.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside, descriptor = _stage_file(staging or path.parent)
        try:
            _write_all(descriptor, content)
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        _sync_name(path.parent)


def write_text(path: Path, text: str, *, staging: Path | None = None) -> None:
    """Write a text file whole or not at all."""
    write_bytes(path, text.encode(), staging=staging)


@contextmanager
def staging_folder(parent: Path, *, prefix: str = STAGING_PREFIX) -> Iterator[Path]:
    """Give a folder to fill under a staging name in `parent`; unless published, it is gone on leaving."""
    parent.mkdir(parents=True, exist_ok=True)
    aside, descriptor = _stage_folder(parent, prefix)
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        os.close(descriptor)


def publish(aside: Path, target: Path) -> None:
    """Rename a flushed staging folder to its final name; raises FileExistsError when another was first."""
    if target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.chmod(aside, 0o755)
    try:
        os.rename(aside, target)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise
    _sync_name(target.parent)


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Give a folder to fill; on leaving it is flushed and renamed to `target`, which must not exist.

    Anything that goes wrong leaves no trace; what a killed writer of `target` left, the next one deletes. Raises
    FileExistsError when another process was first.
    """
    prefix = f"{STAGING_PREFIX}{target.name}-"  # the parent may be anyone's folder: nothing else there is touched
    sweep(target.parent, prefix=prefix)
    with disk_errors(target), staging_folder(target.parent, prefix=prefix) as aside:
        yield aside
        sync_tree(aside)
        publish(aside, target)


@contextmanager
def exclusive(path: Path, *, timeout_seconds: float = 120.0) -> Iterator[None]:
    """Hold a folder or a lock file; the lock dies with its holder.

    Raises ResourceError when another process keeps it too long.
    """
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + timeout_seconds
        while not _take(descriptor):
            if time.monotonic() > deadline:
                raise ResourceError(
                    f"another process has held {path} for {timeout_seconds:g} s; wait for it or end it, then run again."
                )
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def sweep(parent: Path, *, prefix: str = STAGING_PREFIX) -> None:
    """Delete what writers that died left in a folder; what is still being written, or another user's, stays."""
    for path in parent.glob(f"{glob.escape(prefix)}*"):
        if path.is_symlink():  # A writer's own name is never one.
            discard(path)
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except (FileNotFoundError, PermissionError):
            continue
        try:
            if _take(descriptor):
                discard(path)
        finally:
            os.close(descriptor)


def discard(path: Path) -> None:
    """Delete a file, link or folder that no reader looks at; what cannot be deleted is left to the next sweep."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path, parent: Path) -> Path:
    """Rename a folder to a staging name in `parent`, so that it is gone for every reader at once; return the name."""
    name = f"{STAGING_PREFIX}gone-{os.getpid()}-{time.time_ns()}"
    os.rename(path, parent / name)
    _sync_name(path.parent)
    return parent / name


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _held(path: Path, descriptor: int) -> bool:
    """Whether the lock is ours and the name still leads to what we locked: a sweep may come in between."""
    if not _take(descriptor):
        return False
    try:
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _stage_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        aside = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        try:
            descriptor = os.open(aside, os.O_RDONLY)
        except FileNotFoundError:
            continue
        if _held(aside, descriptor):
            return aside, descriptor
        os.close(descriptor)


def _stage_file(parent: Path) -> tuple[Path, int]:
    while True:
        descriptor, name = tempfile.mkstemp(dir=parent, prefix=STAGING_PREFIX)
        if _held(Path(name), descriptor):
            return Path(name), descriptor
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_name(folder: Path) -> None:
    """Flush a rename. It has happened, whole: a disk that cannot flush it now brings back the old state, whole too."""
    with contextlib.suppress(OSError):
        sync(folder)
