"""The index is a cache: damaged, locked or gone, it costs nothing."""

import errno
import os
import shutil
import sqlite3

import pytest
from tiny_library import BASE, make_expert

from collegium.core import files
from collegium.core.errors import ResourceError
from collegium.library import Library


@pytest.mark.parametrize("content", [b"", b"not a database at all", None])
def test_a_damaged_index_costs_nothing(library, content):
    index = library.path / "index.sqlite"
    library.names()
    assert index.is_file()
    if content is None:
        index.write_bytes(index.read_bytes()[:5000] + b"\xff" * 3000)
    else:
        index.write_bytes(content)
    fresh = Library(library.path, base=BASE)
    assert fresh.names() == ("code", "law")
    fresh.add(make_expert("new"))
    assert fresh.names() == ("code", "law", "new")
    assert fresh.verify() == {}


def test_a_locked_index_costs_nothing(library, monkeypatch):
    library.names()
    holder = sqlite3.connect(library.path / "index.sqlite")
    holder.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr("collegium.library.index.WAIT_SECONDS", 0.01)
    try:
        other = Library(library.path, base=BASE)
        other.add(make_expert("new"))
        assert other.names() == ("code", "law", "new")
    finally:
        holder.close()


def test_an_index_follows_the_folders(library):
    library.names()
    shutil.move(library.path / "experts" / "law", library.path.parent / "law")
    assert library.names() == ("code",)
    shutil.move(library.path.parent / "law", library.path / "experts" / "law")
    assert library.names() == ("code", "law")
    assert Library(library.path).names() == ("code", "law")


@pytest.mark.parametrize("writable", [True, False])
def test_a_passing_problem_passes(library, monkeypatch, writable):
    """Too many open files, no permission, a card of a later version: asked again, it is read again."""

    def refuse(folder):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(folder))

    (library.path / "index.sqlite").unlink()
    reader = Library(library.path, read_only=not writable)
    with monkeypatch.context() as patch:
        patch.setattr("collegium.library.index.read_card", refuse)
        assert "Too many open files" in reader.rows()["law"].problem
        assert "law" in reader
    for one in (reader, Library(library.path)):
        assert one.rows()["law"].problem == ""
        assert one.names(task="reward") == ()


def test_a_sound_expert_is_read_once(library, monkeypatch):
    library.names()

    def refuse(folder):
        raise AssertionError("a card was read that the index has")

    monkeypatch.setattr("collegium.library.index.read_card", refuse)
    assert Library(library.path).names(task="language") == ("code", "law")


def test_a_library_on_a_disk_that_cannot_be_written_is_verified(library, monkeypatch):
    def refuse(path, *arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(os, "unlink", refuse)
    assert library.verify() == {}


def test_a_folder_nobody_may_write_to_is_told(library, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files.tempfile, "mkdtemp", refuse)
    with pytest.raises(ResourceError, match="cannot be written"):
        library.add(make_expert("new"))
