"""Faults: a full disk, a killed process, many processes at once, Ctrl-C. Nothing is lost, nothing is half done."""

import errno
import os
import random
import resource
import shutil
import signal
import sys
import time

import pytest
import torch
from tiny_library import BASE, in_child, make_expert, wait_for

from collegium.core import files
from collegium.core.cards import ExpertCard
from collegium.core.errors import ResourceError
from collegium.experts import AdapterPayload, Expert, WholePayload
from collegium.library import Library, replace_expert
from collegium.models import LoraWeights
from collegium.testing.library import snapshot
from collegium.testing.pico import random_base

LAW = make_expert("law", 1).digest
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


def replace(library):
    """Put an expert in the place of `law`, as it is trained further from the one of the fixture."""
    replace_expert(library, make_expert("law", 7, parents={"law": LAW}))


def actions():
    """What is done to the library of the fixture, and what is there once it is done."""
    return {
        "add": (lambda library: library.add(make_expert("new", 7)), lambda library: "new" in library),
        "add measured": (
            lambda library: library.add(make_expert("new", 7), measured={"loss": 1.5}),
            lambda library: "new" in library and library.metrics("new") == [{"loss": 1.5}],
        ),
        "remove": (lambda library: library.remove("law"), lambda library: "law" not in library),
        "replace": (
            replace,
            lambda library: "law" in library and library["law"].digest == make_expert("law", 7).digest,
        ),
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
    wide = AdapterPayload({"model.layers.0.up": LoraWeights(torch.ones(8, 1024), torch.ones(1024, 8), 1.0)})
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
