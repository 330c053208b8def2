"""Faults: a full disk, a killed process, many processes at once, Ctrl-C. Nothing is lost, nothing is half done."""

import errno
import os
import random
import resource
import shutil
import signal
import sqlite3
import sys
import time

import pytest
import torch
from tiny_library import BASE, in_child, make_expert, wait_for

from collegium.core import files
from collegium.core.cards import ExpertCard
from collegium.core.errors import NameTaken, ResourceError, UnknownName
from collegium.experts import Expert, LoraPayload, WholePayload
from collegium.library import Library
from collegium.models import LoraWeights
from collegium.testing.library import snapshot
from collegium.testing.pico import random_base

WRITING_CALLS = ("write", "fsync", "rename", "replace", "mkdir", "open", "unlink", "rmdir", "chmod", "fchmod")


class Failing:
    """Makes the n-th call that could write raise an error, and counts."""

    def __init__(self, monkeypatch, fail_at, make_error):
        self.calls, self.fail_at, self.make_error = 0, fail_at, make_error
        for name in WRITING_CALLS:
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))

    def counted(self, call):
        def counting(*arguments, **options):
            self.calls += 1
            if self.calls == self.fail_at:
                raise self.make_error()
            return call(*arguments, **options)

        return counting


def full():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def actions():
    """What is done to the library of the fixture, and what is there once it is done."""
    return {
        "add": (lambda library: library.add(make_expert("new", 7)), lambda library: "new" in library),
        "remove": (lambda library: library.remove("law"), lambda library: "law" not in library),
        "first router": (
            lambda library: library.save_router("fresh", {"x": torch.ones(2)}, {}),
            lambda library: "fresh" in library.router_names(),
        ),
        "refit": (
            lambda library: library.save_router("prior", {"rows": torch.zeros(2, 2)}, {"fit": 2}),
            lambda library: library.load_router("prior")[1] == {"fit": 2},
        ),
        "measure": (lambda library: library.measure("law", {"p": 1}), lambda library: library.metrics("law") != []),
        "defaults": (
            lambda library: library.set_defaults(router="uniform"),
            lambda library: library.defaults.router == "uniform",
        ),
        "model": (lambda library: library.save_model("m", {}), lambda library: library.model_names() == ("m",)),
    }


def is_clean(root):
    """A library is clean when verify finds nothing; a name aside is nobody's business."""
    return Library(root, base=BASE, read_only=True).verify() == {}


def visible(root):
    """What readers see of the files: nothing under a staging name."""
    return {name: content for name, content in snapshot(root).items() if not name.startswith(files.STAGING_PREFIX)}


@pytest.mark.parametrize("name", actions())
def test_a_disk_that_is_full_at_the_nth_call_changes_nothing(name, library, monkeypatch, tmp_path):
    act, done = actions()[name]
    failures = 0
    for fail_at in range(1, 400):
        root = tmp_path / f"copy-{fail_at}"
        shutil.copytree(library.path, root)
        before = visible(root)
        trial = Library(root, base=BASE)
        with monkeypatch.context() as patch:
            failing = Failing(patch, fail_at, full)
            told = ""
            try:
                act(trial)
            except ResourceError as error:
                told = str(error)
        assert is_clean(root), f"call {fail_at}"
        if told:
            assert "no space left" in told
            failures += 1
            assert visible(root) == before, f"call {fail_at}: what failed changes nothing"
            act(Library(root, base=BASE))
        assert done(Library(root, base=BASE)), f"call {fail_at}: done after a retry"
        shutil.rmtree(root)
        if failing.calls < fail_at:
            break
    else:
        raise AssertionError("the action never ended")
    assert failures >= 4, "the fault was not injected"


@pytest.mark.parametrize("name", actions())
def test_ctrl_c_at_any_call_leaves_it_clean(name, library, monkeypatch, tmp_path):
    act, done = actions()[name]
    for fail_at in range(1, 400):
        root = tmp_path / f"copy-{fail_at}"
        shutil.copytree(library.path, root)
        trial = Library(root, base=BASE)
        stopped = False
        with monkeypatch.context() as patch:
            failing = Failing(patch, fail_at, KeyboardInterrupt)
            try:
                act(trial)
            except KeyboardInterrupt:
                stopped = True
        assert is_clean(root), f"call {fail_at}"
        again = Library(root, base=BASE)
        if stopped and not done(again):
            act(again)
        assert done(again), f"call {fail_at}"
        shutil.rmtree(root)
        if failing.calls < fail_at:
            break
    else:
        raise AssertionError("the action never ended")


@pytest.mark.filterwarnings(
    # A file that is open when Ctrl-C comes is closed by the garbage collector.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_ctrl_c_at_any_line_of_add_leaves_it_clean(tmp_path):
    """Raised where it hurts: at each line of the writing code that `add` runs, one after the other."""
    expert, done = make_expert("new", 7), 0
    for stop_at in range(1, 1000):
        root = tmp_path / f"library-{stop_at}"
        library = Library(root, base=BASE)
        lines = interrupted_at(stop_at, lambda library=library: library.add(expert))
        assert is_clean(root), f"line {stop_at}"
        again = Library(root, base=BASE)
        if "new" not in again:
            again.add(expert)
            done += 1
        assert again["new"].digest == expert.digest, f"line {stop_at}"
        if lines < stop_at:
            break
    else:
        raise AssertionError("add never ended")
    assert done > 50, "the fault was not injected"


def interrupted_at(stop_at, action):
    """Do this, with KeyboardInterrupt at the n-th new line of the writing code; return how many lines were run."""
    lines = set()

    def watch(frame, event, argument):
        path = frame.f_code.co_filename
        if not path.endswith(("core/files.py", "library/library.py", "library/removal.py", "experts/folder.py")):
            return None
        line = (path, frame.f_lineno)
        if event == "line" and line not in lines:
            lines.add(line)
            if len(lines) == stop_at:
                raise KeyboardInterrupt
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        action()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return len(lines)


def test_everything_is_flushed_before_it_gets_its_name(library, monkeypatch):
    """What a loss of power may not tear apart: contents first, then the folder that holds them, then the rename."""
    flushed, renamed = [], []

    def inode(path):
        return os.stat(path).st_ino

    real_rename = os.rename

    def rename(source, target):
        inside = {inode(path) for path in (source, *source.iterdir())}
        assert inside <= set(flushed), "everything inside is flushed before"
        renamed.append(inode(source))
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(os, "rename", rename)
    library.add(make_expert("new"))
    assert renamed == [inode(library.path / "experts" / "new")]
    assert flushed[-1] == inode(library.path / "experts"), "and the folder that holds the name after"


def test_a_file_size_limit_is_a_full_disk(library):
    """RLIMIT_FSIZE in a child: the kernel itself refuses to write on, in Python, in SQLite and in safetensors."""
    before = visible(library.path)
    wide = LoraPayload({"model.layers.0.up": LoraWeights(torch.ones(8, 1024), torch.ones(1024, 8), 1.0)})
    lora = Expert(ExpertCard(name="wide", kind="lora", base=BASE), wide)
    whole = Expert(ExpertCard(name="whole", kind="whole", base=BASE), WholePayload(random_base("llama").model))

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        refused = 0
        for expert in (lora, whole):
            try:
                library.add(expert)
            except ResourceError as error:
                refused += "no space left" in str(error)
        os._exit(40 + refused)

    assert wait_for(in_child(limited)) == 42
    assert visible(library.path) == before
    assert library.verify() == {}
    library.add(lora)
    library.add(whole)
    assert library.names() == ("code", "law", "whole", "wide")


def kill_at_call(act, call_number):
    """Do this in a child that the kernel ends without warning at its n-th call that could write."""

    def doomed():
        calls = 0

        def counted(call):
            def counting(*arguments, **options):
                nonlocal calls
                calls += 1
                if calls == call_number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **options)

            return counting

        for name in WRITING_CALLS:
            setattr(os, name, counted(getattr(os, name)))
        act()

    return wait_for(in_child(doomed))


@pytest.mark.parametrize("name", actions())
def test_a_kill_at_any_call_loses_nothing(name, library, tmp_path):
    act, done = actions()[name]
    for call_number in range(1, 400):
        root = tmp_path / f"copy-{call_number}"
        shutil.copytree(library.path, root)
        trial = Library(root, base=BASE)
        ended = kill_at_call(lambda trial=trial: act(trial), call_number)
        assert ended in (0, -signal.SIGKILL)
        assert is_clean(root), f"call {call_number}"
        again = Library(root, base=BASE)
        if not done(again):
            act(again)
        assert done(again), f"call {call_number}"
        again.set_defaults(router="posterior")
        left = [each.name for each in root.iterdir() if each.name.startswith(".") and each.name != ".lock"]
        assert left == [], f"call {call_number}: the next writer mends"
        shutil.rmtree(root)
        if ended == 0:
            break
    else:
        raise AssertionError("the action never ended")


def test_a_kill_at_ten_random_moments_of_adding_loses_nothing(library):
    """A child adds expert after expert; each time it is killed, what it said was added is there."""
    moments = random.Random(0)
    told, promised = os.pipe()
    for attempt in range(10):

        def adding(attempt=attempt):
            own = Library(library.path, base=BASE)
            for number in range(10_000):
                expert = make_expert(f"x{attempt}-{number:04d}", number)
                own.add(expert)
                os.write(promised, f"{expert.name}\n".encode())

        child = in_child(adding)
        time.sleep(moments.uniform(0.01, 0.15))
        os.kill(child, signal.SIGKILL)
        assert wait_for(child) == -signal.SIGKILL
        assert library.verify() == {}
        library.add(make_expert(f"after-{attempt}", attempt))
    os.close(promised)
    with os.fdopen(told) as lines:
        added = lines.read().split()
    assert added, "no child added anything in time"
    assert set(added) <= set(library.names())
    assert {f"after-{attempt}" for attempt in range(10)} <= set(library.names())
    assert [each for each in library.path.iterdir() if each.name.startswith(files.STAGING_PREFIX)] == []


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


@pytest.mark.parametrize("text", ['["../../etc", "experts/../../x", "routers/", "models/x"]', "{", "3", '[["x"]]'])
def test_a_hostile_removal_leads_nowhere(library, text):
    (library.path.parent / "x").mkdir()
    (library.path / ".removing.json").write_text(text)
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


def test_a_folder_nobody_may_write_to_is_told(library, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files.tempfile, "mkdtemp", refuse)
    with pytest.raises(ResourceError, match="cannot be written"):
        library.add(make_expert("new"))


def test_a_writer_without_care_is_caught(library):
    """Written in place, an add that fails half-way leaves a library that is not clean: the checks above see it."""

    def careless():
        folder = library.path / "experts" / "new"
        folder.mkdir()
        (folder / "card.json").write_text("{}")
        raise full()

    with pytest.raises(OSError, match="No space"):
        careless()
    assert not is_clean(library.path)
