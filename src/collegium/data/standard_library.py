"""The modules of this Python's own standard library as texts: real code that is on every machine."""

import hashlib
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from platform import python_version

from collegium.core.cards import Source
from collegium.core.errors import DataError
from collegium.data.texts import decode_text

_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def library_folder() -> Path:
    """Return where the standard library lies."""
    return Path(sysconfig.get_paths()["stdlib"])


def library_modules(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (file name, text) of the modules below a folder, sorted by path; tests and installed packages left out.

    The name is the module's dotted one with `.py`, so that it is one plain file name.
    """
    for path in _files(folder):
        try:
            text = decode_text(path.read_bytes(), where=str(path))
        except DataError:  # a module in another encoding is rare, and no loss
            continue
        if text.strip():
            yield ".".join(path.relative_to(folder).with_suffix("").parts) + ".py", text


def library_source(modules: Iterable[tuple[str, str]]) -> Source:
    """Return where these modules come from: the version of this Python and the digest of the texts."""
    digest = hashlib.sha256()
    for name, text in modules:
        digest.update(f"{name}\0{text}\0".encode())
    return Source(f"standard library of Python {python_version()}", "PSF", digest.hexdigest())


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and path.name not in _LEFT_OUT:
            yield from _files(path)
        elif path.suffix == ".py" and path.is_file():
            yield path
