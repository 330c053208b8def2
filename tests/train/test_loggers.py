"""Every place progress can go."""

import json
import sys

import pytest
from toy import Toy

from collegium.core.errors import ResourceError
from collegium.train import JsonlLogger, LoopConfig, MemoryLogger, NullLogger, SeveralLoggers, TensorBoardLogger

CONFIG = LoopConfig(4, 0.05, evaluate_every=2)


def test_memory_and_jsonl_hold_the_same_rows(tmp_path):
    memory, file = MemoryLogger(), JsonlLogger(tmp_path / "runs" / "log.jsonl")
    both = SeveralLoggers([memory, file, NullLogger()])
    done = Toy().fit(CONFIG, logger=both)
    both.close()
    rows = [json.loads(line) for line in (tmp_path / "runs" / "log.jsonl").read_text().splitlines()]
    assert rows == [{"step": step, **values} for step, values in memory.rows]
    assert [row["loss"] for row in rows if "loss" in row] == [each.loss for each in done.history.steps]
    assert [row["held_out_loss"] for row in rows if "held_out_loss" in row] == [
        each.loss for each in done.history.evaluations
    ]


def test_logging_changes_nothing():
    assert Toy().fit(CONFIG, logger=MemoryLogger()) == Toy().fit(CONFIG)


def test_jsonl_in_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((ResourceError, NotADirectoryError, FileExistsError)):
        JsonlLogger(tmp_path / "file" / "log.jsonl")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_writes_event_files(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    Toy().fit(CONFIG, logger=logger)
    logger.close()
    assert any(path.stat().st_size > 100 for path in tmp_path.glob("events.*"))


def test_without_tensorboard_the_install_line_is_given(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ResourceError, match=r"pip install 'collegium\[track\]'"):
        TensorBoardLogger(tmp_path)
