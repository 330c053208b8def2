"""`collegium train` killed without warning at random moments: nothing is lost, nothing is half there."""

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collegium.core.files import STAGING_PREFIX
from collegium.library import Library

pytestmark = [pytest.mark.recipe]


class Trainer:
    """A process that runs `collegium train` in one child after the other."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def begin(self, library: Path) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{library}\n".encode())
        self.process.stdin.flush()
        return self.heard("began")

    def heard(self, word: str) -> int:
        assert self.process.stdout is not None
        said, number = self.process.stdout.readline().split()
        assert said == word.encode()
        return int(number)

    def ends_within(self, seconds: float) -> bool:
        return bool(select.select([self.process.stdout], [], [], seconds)[0])


@contextmanager
def trainer(texts: Path, base: Path, *flags: str) -> Iterator[Trainer]:
    script = Path(__file__).with_name("train_again.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(texts), str(base), *flags]
    # Unbuffered: `select` must see what was not yet read.
    with subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as child:
        yield Trainer(child)
        assert child.stdin is not None
        child.stdin.close()


def contents(path: Path) -> dict[str, object]:
    """Return everything that training leaves in a library, down to the checksums of all tensors."""
    library = Library(path)
    assert library.verify() == {}
    assert [each.name for each in path.iterdir() if each.name.startswith(STAGING_PREFIX)] == []
    experts = {name: (library.card(name).payload, library.metrics(name)) for name in library}
    routers = {name: (path / "routers" / name / "card.json").read_text() for name in library.router_names()}
    return {"experts": experts, "routers": routers}


@pytest.mark.parametrize(("workers", "most", "share"), [(1, 3, 0.25), (2, 1, 0.7)])
def test_killed_at_random_moments_the_command_leaves_what_an_unbroken_run_leaves(
    texts, pico_folder, tmp_path, workers, most, share
):
    """With two workers the parent alone is killed: they leave by themselves, and the next command waits for them."""
    moments = random.Random(0)
    with trainer(texts, pico_folder, "--workers", str(workers)) as run:
        started = time.monotonic()
        run.begin(tmp_path / "unbroken")
        assert run.heard("ended") == 0
        longest = share * (time.monotonic() - started)
        expected = contents(tmp_path / "unbroken")
        kills, tried = 0, 0
        while kills < most:
            library = tmp_path / f"broken-{tried}"
            child = run.begin(library)
            if not run.ends_within(moments.uniform(0, longest)):
                os.kill(child, signal.SIGKILL)
            ended = run.heard("ended")
            if ended == 0:  # done before it was killed: once more from the beginning
                assert contents(library) == expected
                tried += 1
                continue
            assert ended == signal.SIGKILL
            kills += 1
            if (library / "collegium.json").exists():
                assert Library(library).verify() == {}
        run.begin(library)
        assert run.heard("ended") == 0
    assert contents(library) == expected
    assert not list(Path(f"{library}-out").glob("*/checkpoints"))
