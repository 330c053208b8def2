"""Words in, exit code out: mistakes are answered in a sentence, programs get JSON alone."""

import errno
import json
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass

import pytest
import torch

from collegium.cli.command import Command
from collegium.cli.console import Screen
from collegium.cli.main import COMMANDS, main
from collegium.cli.output import Outcome
from collegium.core.errors import DataError


@dataclass(frozen=True)
class Act:
    """Do what the test says."""

    times: int = 1
    """How often."""


def table(action, **options):
    return {
        "act": Command(Act, action, **options),
        "other": Command(Act, lambda config, screen: Outcome({"other": True})),
    }


def speak(config, screen):
    screen.say("for people [not markup]")
    screen.table(("name", "value"), [("a", 1.5), ("b", None)])
    return Outcome({"times": config.times}, [{"row": number} for number in range(config.times)])


def test_people_read_standard_output(capsys):
    assert main(["act"], table=table(speak)) == 0
    shown = capsys.readouterr()
    assert "for people [not markup]" in shown.out
    assert "1.5" in shown.out
    assert shown.err == ""


def test_long_work_in_a_log_tells_the_time_left(capsys, monkeypatch):
    clock = iter([100.0, 110.0, 140.0, 150.0, 400.0])
    monkeypatch.setattr("collegium.cli.console.time.monotonic", lambda: next(clock))
    update = Screen().begin("scoring", 5000)
    for done in (1000, 1100, 1400, 1500, 5000):  # an earlier run did the first thousand
        update(done)
    assert capsys.readouterr().err == "scoring: 1,400 of 5,000, 6 minutes left\n"


def test_json_is_the_last_line_and_alone(capsys):
    assert main(["act", "--json", "--times", "2"], table=table(speak)) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"times": 2}
    assert shown.out.count("\n") == 1
    assert "for people" in shown.err


def test_jsonl_is_a_line_for_each_row(capsys):
    assert main(["act", "--jsonl", "--times", "2"], table=table(speak)) == 0
    assert capsys.readouterr().out == '{"row": 0}\n{"row": 1}\n'
    assert main(["act", "--jsonl", "--json", "--times", "1"], table=table(speak)) == 0
    assert capsys.readouterr().out == '{"row": 0}\n{"times": 1}\n'
    assert main(["other", "--jsonl"], table=table(speak)) == 0
    assert capsys.readouterr().out == '{"other": true}\n'


def raising(error):
    def action(config, screen):
        raise error

    return table(action, memory_flag="--batch")


@pytest.mark.parametrize(
    ("error", "code", "lesson"),
    [
        (DataError("the texts are empty; fill them."), 2, "error: the texts are empty; fill them."),
        (OSError(errno.EACCES, "Permission denied", "/some/where"), 2, "error: /some/where: Permission denied"),
        (MemoryError(), 2, "lower --batch"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "lower --batch"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), 2, "lower --batch"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_mistakes_are_answered_without_a_traceback(capsys, error, code, lesson):
    assert main(["act"], table=raising(error)) == code
    shown = capsys.readouterr()
    assert lesson in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("resumes", [True, False])
def test_only_what_resumes_says_so_when_it_is_interrupted(capsys, resumes):
    def action(config, screen):
        raise KeyboardInterrupt

    assert main(["act"], table=table(action, resumes=resumes)) == 130
    assert ("run the same command again to go on" in capsys.readouterr().err) == resumes


def test_our_own_mistakes_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        main(["act"], table=raising(ZeroDivisionError("ours")))


def test_debug_lets_the_traceback_through(monkeypatch):
    monkeypatch.setenv("COLLEGIUM_DEBUG", "1")
    with pytest.raises(DataError):
        main(["act"], table=raising(DataError("x")))


def test_warnings_are_one_line(capsys):
    def action(config, screen):
        warnings.warn("the base is [unverified]", UserWarning, stacklevel=1)
        return Outcome({})

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["act"], table=table(action)) == 0
    assert capsys.readouterr().err == "warning: the base is [unverified]\n"


def test_an_outcome_has_its_own_exit_code():
    assert main(["act"], table=table(lambda config, screen: Outcome({}, code=1))) == 1


@pytest.mark.parametrize("words", [["act", "--tims", "2"], ["act", "--times", "x"], ["atc"], ["act", "extra"]])
def test_wrong_words_end_with_2(capsys, words):
    assert main(words, table=table(speak)) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_help_ends_with_0(capsys):
    assert main(["act", "--help"], table=table(speak)) == 0
    assert "How often." in capsys.readouterr().out
    assert main([], table=table(speak)) == 0


def test_completion_is_printed_for_known_shells(capsys):
    assert main(["--print-completion", "bash"], table=table(speak)) == 0
    assert "complete" in capsys.readouterr().out
    assert main(["--print-completion", "dos"], table=table(speak)) == 2


def collegium(*words, **changes):
    environment = {**os.environ, "NO_COLOR": "1", **changes}
    command = [sys.executable, "-m", "collegium.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_the_program_as_a_process(tmp_path):
    missing = collegium("library", "list", "--library", str(tmp_path / "absent"), "--json")
    assert missing.returncode == 2
    assert missing.stdout == ""
    assert missing.stderr.startswith("error: there is no library at")
    assert "Traceback" not in missing.stderr


def test_a_reader_that_leaves_is_no_error():
    script = "import sys; from collegium.cli.main import main; sys.exit(main())"
    claims = subprocess.Popen(
        [sys.executable, "-c", script, "claims", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert claims.stdout is not None
    assert claims.stderr is not None
    claims.stdout.close()
    assert claims.stderr.read() == ""
    claims.stderr.close()
    assert claims.wait(60) == 1


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("collegium ")


def test_every_command_parses_its_help_without_conflicts(capsys):
    for name, entry in COMMANDS.items():
        for words in [[name], *([name, verb] for verb in getattr(entry, "verbs", ()))]:
            assert main([*words, "--help"]) == 0, words
    assert "usage" in capsys.readouterr().out


def test_json_to_a_reader_that_leaves_is_no_error():
    words = ["claims", "list", "--json"]
    script = f"import sys; from collegium.cli.main import main; sys.exit(main({words}))"
    claims = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert claims.stdout is not None
    assert claims.stderr is not None
    claims.stdout.close()
    assert "BrokenPipe" not in claims.stderr.read()
    claims.stderr.close()
    assert claims.wait(60) == 1
