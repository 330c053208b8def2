"""An export is there whole or not at all."""

import errno
import os
import tempfile

import pytest

from collegium.core.errors import ConfigError, ResourceError
from collegium.experts.export import check_place, export_folder


def test_a_new_or_empty_folder_is_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "deep" / "new"):
        with export_folder(place) as aside:
            (aside / "file").write_text("x")
            assert not (place / "file").exists()
        assert (place / "file").read_text() == "x"
        assert place.stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "empty"]


@pytest.mark.parametrize(
    ("place", "lesson"),
    [("file", "is a file; name a new folder"), ("full", "is not empty"), ("file/below", "file is a file")],
)
def test_a_place_that_is_taken_is_refused(place, lesson, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "theirs").write_text("x")
    with pytest.raises(ConfigError, match=lesson):
        check_place(tmp_path / place)
    with pytest.raises(ConfigError, match=lesson), export_folder(tmp_path / place):
        pytest.fail("nothing is to be written")
    assert (tmp_path / "full" / "theirs").read_text() == "x"


def broken(place):
    with export_folder(place) as aside:
        (aside / "file").write_text("x")
        raise RuntimeError("broken")


def overtaken(place):
    with export_folder(place) as aside:
        (aside / "file").write_text("ours")
        place.mkdir()
        (place / "file").write_text("theirs")


def test_a_failure_leaves_no_trace(tmp_path):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "new"):
        with pytest.raises(RuntimeError, match="broken"):
            broken(place)
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def test_one_who_was_faster_is_told(tmp_path):
    with pytest.raises(ConfigError, match="someone else"):
        overtaken(tmp_path / "new")
    assert (tmp_path / "new" / "file").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["new"]


def test_what_a_killed_writer_left_is_swept(tmp_path):
    (tmp_path / ".staging-new-dead").mkdir()
    with export_folder(tmp_path / "new") as aside:
        (aside / "file").write_text("x")
    assert os.listdir(tmp_path) == ["new"]


def test_a_place_that_may_not_be_written_is_told(tmp_path, monkeypatch):
    def closed(**_):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr(tempfile, "mkdtemp", closed)  # as for anybody but the superuser, who may write anywhere
    with pytest.raises(ResourceError, match="cannot be written"), export_folder(tmp_path / "new"):
        pytest.fail("nothing is to be written")
    assert list(tmp_path.iterdir()) == []
