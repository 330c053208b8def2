"""Many processes at one library, and what dead ones left behind."""

import os

import pytest
import torch
from tiny_library import BASE, in_child, make_expert, wait_for

from collegium.core import files
from collegium.core.errors import NameTaken, ResourceError, UnknownName
from collegium.library import Library


def test_eight_processes_add_at_once_and_nothing_is_lost(path):
    Library(path, base=BASE)

    def adding(process):
        own = Library(path, base=BASE)
        for number in range(5):
            own.add(make_expert(f"p{process}-{number}", process))
            own.measure(f"p{process}-{number}", {"process": process})

    children = [in_child(lambda process=process: adding(process)) for process in range(8)]
    assert [wait_for(child) for child in children] == [0] * 8
    library = Library(path, base=BASE)
    assert library.names() == tuple(f"p{process}-{number}" for process in range(8) for number in range(5))
    assert library.verify() == {}


def test_eight_processes_create_one_library(path):
    children = [
        in_child(lambda process=process: Library(path, base=BASE).add(make_expert(f"p{process}", process)))
        for process in range(8)
    ]
    assert [wait_for(child) for child in children] == [0] * 8
    assert len(Library(path)) == 8


def test_of_eight_equal_names_exactly_one_wins(path):
    Library(path, base=BASE)

    def adding(process):
        try:
            Library(path, base=BASE).add(make_expert("wanted", process))
        except NameTaken:
            os._exit(17)

    children = [in_child(lambda process=process: adding(process)) for process in range(8)]
    assert sorted(wait_for(child) for child in children) == [0] + [17] * 7
    library = Library(path)
    assert library.names() == ("wanted",)
    assert library["wanted"].digest in {make_expert("wanted", process).digest for process in range(8)}
    assert library.verify() == {}


def test_measurements_of_eight_processes_are_all_kept(library):
    def measuring(process):
        for number in range(5):
            Library(library.path).measure("law", {"process": process, "number": number})

    children = [in_child(lambda process=process: measuring(process)) for process in range(8)]
    assert [wait_for(child) for child in children] == [0] * 8
    assert len({tuple(each.items()) for each in library.metrics("law")}) == 40


def test_rows_that_eight_processes_add_to_one_fit_are_all_kept(library):
    def growing(process):
        for number in range(5):
            Library(library.path).update_router(
                "prior", lambda tensors, card, row=f"{process}-{number}": ({**tensors, row: torch.ones(1)}, card)
            )

    children = [in_child(lambda process=process: growing(process)) for process in range(8)]
    assert [wait_for(child) for child in children] == [0] * 8
    assert len(library.load_router("prior")[0]) == 41


def test_what_a_living_writer_is_writing_is_left_alone(library):
    with files.staging_folder(library.path) as aside:
        (aside / "half").write_text("half")
        child = in_child(lambda: Library(library.path).set_defaults(router="uniform"))
        assert wait_for(child) == 0
        assert (aside / "half").read_text() == "half"
    assert not aside.exists()


def test_what_dead_writers_left_is_mended_by_the_next_writer(library):
    (library.path / ".staging-old").mkdir()
    (library.path / ".staging-old" / "half").write_text("half")
    (library.path / ".staging-file").write_text("half")
    assert library.names() == ("code", "law")
    assert library.verify() == {}
    library.set_defaults(router="uniform")
    assert [each.name for each in library.path.iterdir() if each.name.startswith(".")] == [".lock"]


def test_a_decided_removal_is_gone_for_readers_and_carried_out_by_the_next_writer(library):
    (library.path / ".removing.json").write_text('["experts/law", "routers/prior"]')
    reader = Library(library.path, read_only=True)
    assert reader.names() == ("code",)
    assert "law" not in reader
    assert reader.router_names() == ()
    with pytest.raises(UnknownName):
        reader["law"]
    with pytest.raises(UnknownName):
        reader.load_router("prior")
    library.add(make_expert("law", 5))
    assert library["law"].digest == make_expert("law", 5).digest
    assert not (library.path / "routers" / "prior").exists()
    assert not (library.path / ".removing.json").exists()


@pytest.mark.parametrize(
    "text", ['["../../etc", "experts/../../x", "routers/", "models/x"]', "{", "3", '[["x"]]', "[" * 9999, "\udcff"]
)
def test_a_hostile_removal_leads_nowhere(library, text):
    (library.path.parent / "x").mkdir()
    (library.path / ".removing.json").write_bytes(text.encode(errors="surrogateescape"))
    before = library.names()
    library.set_defaults(router="uniform")
    assert (library.path.parent / "x").is_dir()
    assert library.names() == before


def test_a_lock_that_is_kept_too_long_is_told(path):
    path.mkdir()
    with (
        files.exclusive(path / "lock"),
        pytest.raises(ResourceError, match="another process has held"),
        files.exclusive(path / "lock", timeout_seconds=0.05),
    ):
        pass
    with files.exclusive(path / "lock", timeout_seconds=0.05):
        pass
