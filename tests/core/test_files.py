"""Writes happen whole or not at all."""

import errno
import os

import pytest

from collegium.core import files
from collegium.core.errors import ResourceError


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "note.txt"
    files.write_text(path, "one")
    files.write_text(path, "two")
    assert path.read_text() == "two"
    assert [each.name for each in path.parent.iterdir()] == ["note.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_short_write_is_continued(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: real(descriptor, content[:3]))
    files.write_bytes(tmp_path / "note", b"abcdefgh")
    assert (tmp_path / "note").read_bytes() == b"abcdefgh"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch, number):
    files.write_text(tmp_path / "note", "old")

    def full(descriptor, content):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ResourceError, match="no space left"):
        files.write_text(tmp_path / "note", "new")
    assert (tmp_path / "note").read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["note"]


def test_other_errors_of_the_system_pass(tmp_path, monkeypatch):
    def broken(descriptor, content):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "write", broken)
    with pytest.raises(OSError, match="input/output") as caught:
        files.write_text(tmp_path / "note", "new")
    assert caught.value.errno == errno.EIO


def test_a_staged_folder_appears_at_the_end_or_never(tmp_path):
    target = tmp_path / "made"
    with files.staged_folder(target) as aside:
        (aside / "inside").mkdir()
        (aside / "inside" / "note").write_text("x")
        assert not target.exists()
    assert (target / "inside" / "note").read_text() == "x"
    with pytest.raises(FileExistsError), files.staged_folder(target):
        pass
    with pytest.raises(ZeroDivisionError), files.staged_folder(tmp_path / "never"):
        raise ZeroDivisionError
    assert [each.name for each in tmp_path.iterdir()] == ["made"]


def test_what_a_killed_writer_left_is_deleted_by_the_next_and_nothing_else(tmp_path, monkeypatch):
    left, others = tmp_path / ".staging-made-abc", tmp_path / ".staging-mine"
    for folder in (left, others):
        (folder / "deep").mkdir(parents=True)
    with files.staged_folder(tmp_path / "made"), files.staging_folder(tmp_path, prefix=".staging-made-") as held:
        with pytest.raises(ZeroDivisionError), files.staged_folder(tmp_path / "made"):
            raise ZeroDivisionError
        assert held.exists(), "another is still writing it"
    assert sorted(each.name for each in tmp_path.iterdir()) == [".staging-mine", "made"]
    left.mkdir()
    real = os.open

    def refuse(path, *arguments, **names):
        if path == left:
            raise PermissionError(errno.EACCES, "another user's")
        return real(path, *arguments, **names)

    monkeypatch.setattr(os, "open", refuse)
    files.sweep(tmp_path)
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == [left.name]


def test_a_folder_that_another_process_filled_meanwhile_wins(tmp_path, monkeypatch):
    """The look before the rename may come too early; the rename itself decides."""
    target = tmp_path / "made"
    target.mkdir()
    (target / "theirs").write_text("first")
    monkeypatch.setattr(files.Path, "exists", lambda self: False)
    with pytest.raises(FileExistsError), files.staged_folder(target) as aside:
        (aside / "ours").write_text("second")
    assert [each.name for each in target.iterdir()] == ["theirs"]


def test_a_sweep_between_making_and_locking_is_survived(tmp_path, monkeypatch):
    """A new staging name may be swept before its lock is taken: the writer takes another name."""
    real, swept = files._take, []

    def take(descriptor):
        if not swept:
            swept.append(True)
            for path in tmp_path.glob(f"{files.STAGING_PREFIX}*"):
                files.discard(path)
        return real(descriptor)

    monkeypatch.setattr(files, "_take", take)
    with files.staged_folder(tmp_path / "made") as aside:
        (aside / "note").write_text("x")
    files.write_text(tmp_path / "note", "y")
    assert swept
    assert sorted(each.name for each in tmp_path.iterdir()) == ["made", "note"]


def test_a_link_is_deleted_and_what_it_leads_to_is_left_alone(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "note").write_text("x")
    (tmp_path / "link").symlink_to("theirs")
    files.discard(files.set_aside(tmp_path / "link", tmp_path))
    (tmp_path / f"{files.STAGING_PREFIX}link").symlink_to("theirs")
    (tmp_path / f"{files.STAGING_PREFIX}lost").symlink_to("nowhere")
    files.sweep(tmp_path)
    assert [str(each.relative_to(tmp_path)) for each in sorted(tmp_path.rglob("*"))] == ["theirs", "theirs/note"]


def test_hashes_are_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.file_hash(tmp_path / "a").startswith("ba7816bf")
