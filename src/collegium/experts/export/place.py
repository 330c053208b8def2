"""Where an export goes: a folder of its own, there whole or not at all."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collegium.core.errors import ConfigError
from collegium.core.files import STAGING_PREFIX, disk_errors, publish, staging_folder, sweep, sync_tree
from collegium.core.tensors import safetensors_errors


def check_place(out: Path) -> Path:
    """Return the folder to write as a whole path; raises ConfigError unless it is new or empty."""
    out = out.expanduser().absolute()
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out is a folder, {out} is a file; name a new folder.")
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; an export gets a folder of its own. Name a new one.")
    blocking = next((parent for parent in out.parents if parent.exists()), None)
    if blocking is not None and not blocking.is_dir():
        raise ConfigError(f"--out cannot be {out}: {blocking} is a file. Name a folder elsewhere.")
    return out


@contextmanager
def export_folder(out: Path) -> Iterator[Path]:
    """Give a folder to fill; on leaving it is flushed and renamed to `out`, which is new or empty.

    Anything that goes wrong leaves no trace. Raises ConfigError for a place that is taken, ResourceError for a disk
    that is full or may not be written.
    """
    out = check_place(out)
    prefix = f"{STAGING_PREFIX}{out.name}-"
    try:
        with disk_errors(out), safetensors_errors(), staging_folder(out.parent, prefix=prefix) as aside:
            sweep(out.parent, prefix=prefix)
            yield aside
            sync_tree(aside)
            if out.is_dir():
                out.rmdir()
            publish(aside, out)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        raise ConfigError(f"{out} was filled by someone else meanwhile; name a new folder.") from error
