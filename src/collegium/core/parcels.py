"""Packages of the registry as parcels: downloaded, verified, read as data; nothing in them ever runs."""

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from collegium.core.cache import cache_folder
from collegium.core.errors import ResourceError
from collegium.core.files import disk_errors, exclusive, file_hash, staging_folder, sweep

Progress = Callable[[str], None]

_WAIT_SECONDS = 600.0

# pip asks a source package's build for its name and version before it hands the file over. This stands in for the
# build, so that the package's own setup.py is never run.
_STAND_IN = """\
from pathlib import Path


class __legacy__:
    @staticmethod
    def get_requires_for_build_wheel(config_settings=None):
        return []

    @staticmethod
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        name, version = {name!r}, {version!r}
        made = Path(folder) / f"{{name}}-{{version}}.dist-info"
        made.mkdir()
        (made / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {{name}}\\nVersion: {{version}}\\n")
        return made.name
"""


@dataclass(frozen=True)
class Parcel:
    """A pinned file of a package: a wheel, or a source archive."""

    package: str
    version: str
    file: str
    sha256: str
    size: str
    licence: str


def fetch_parcel(parcel: Parcel, progress: Progress) -> Path:
    """Return the verified file in the cache folder, downloaded on the first call; later calls need no network.

    Raises ResourceError when it cannot be fetched or its checksum differs.
    """
    downloads = cache_folder() / "downloads"
    file = downloads / parcel.file
    with disk_errors(downloads):
        downloads.mkdir(parents=True, exist_ok=True)
    with exclusive(downloads / f"{parcel.file}.lock", timeout_seconds=_WAIT_SECONDS):
        if not file.is_file():
            sweep(downloads)
            progress(f"fetching {parcel.package} {parcel.version} ({parcel.size})")
            _download(parcel, downloads)
        if file_hash(file) != parcel.sha256:
            file.unlink()
            raise ResourceError(
                f"{parcel.file} has another checksum than the pinned {parcel.sha256[:12]}...; it was deleted. "
                "Run again, and check the package index if that does not help."
            )
    return file


def _download(parcel: Parcel, downloads: Path) -> None:
    """Let this Python's own pip fetch the file aside, then move it into place: a broken download leaves nothing."""
    with disk_errors(downloads), staging_folder(downloads) as aside:
        done = subprocess.run(
            _command(parcel, aside / "got"),
            env=os.environ | _stand_in(parcel, aside),
            capture_output=True,
            text=True,
            check=False,
        )
        got = aside / "got" / parcel.file
        if done.returncode or not got.is_file():
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ResourceError(
                f"{parcel.package}=={parcel.version} cannot be fetched ({reason}). "
                f"Go online once, or put {parcel.file} into {downloads}."
            )
        os.replace(got, downloads / parcel.file)


def _command(parcel: Parcel, target: Path) -> list[str]:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    kind = ["--only-binary=:all:"]
    if not _is_wheel(parcel.file):
        kind = ["--no-binary=:all:", "--use-pep517", "--no-build-isolation"]
    return [*command, *kind, "--dest", str(target), f"{parcel.package}=={parcel.version}"]


def _stand_in(parcel: Parcel, aside: Path) -> dict[str, str]:
    if _is_wheel(parcel.file):
        return {}
    folder = aside / "stand-in" / "setuptools"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "build_meta.py").write_text(_STAND_IN.format(name=parcel.package, version=parcel.version))
    return {"PYTHONPATH": str(folder.parent)}


def _is_wheel(file: str) -> bool:
    return file.endswith(".whl")


def read_members(file: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the files in a wheel or source archive whose path ends like `pattern`, sorted.

    Nothing is unpacked, so no name in the archive can lead anywhere. Raises ResourceError when none matches.
    """
    found = False
    try:
        for name, content in _zipped(file, pattern) if _is_wheel(file.name) else _tarred(file, pattern):
            found = True
            yield name, content
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise ResourceError(f"{file} is no whole archive: {error}. Delete it and run again.") from error
    if not found:
        raise ResourceError(f"{file.name} holds no file {pattern!r}; it is not the package that was pinned.")


def _zipped(file: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        for name in sorted(each for each in archive.namelist() if Path(each).match(pattern)):
            yield name, archive.read(name)


def _tarred(file: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(file) as archive:
        members = [each for each in archive.getmembers() if each.isfile() and Path(each.name).match(pattern)]
        for member in sorted(members, key=lambda each: each.name):
            content = archive.extractfile(member)
            if content is not None:
                yield member.name, content.read()
