"""Judging answers: metrics by hand, code only when allowed."""

import pytest
import torch

from collegium.core.errors import ConfigError
from collegium.data import Document
from collegium.infer.answers import AnswerConfig, exact_match, judge_answers, load_metric, word_f1
from collegium.testing.pico import pico_base
from collegium.testing.tiny import LetterTokenizer, TinyLM


def parrot() -> TinyLM:
    """Always says b."""
    logits = torch.zeros(3, 3)
    logits[:, 2] = 50.0
    return TinyLM(logits, 1, eos=None, tokenizer=LetterTokenizer("\nab"))


def test_metrics_by_hand():
    assert exact_match("The Cat.", "cat") == 1.0
    assert exact_match("dog", "cat") == 0.0
    assert word_f1("red cat", "cat") == pytest.approx(2 / 3)
    assert word_f1("", "cat") == 0.0


def test_answers_are_judged_per_domain_with_intervals():
    rows = [Document(prompt="a", completion="bb"), Document(prompt="ab", completion="ba")]
    found = judge_answers(parrot(), {"x": rows}, AnswerConfig(answer_tokens=2), seed=0)
    assert found["x"]["exact_match"]["mean"] == 0.5
    assert found["x"]["rows"] == 2


def test_prompts_that_leave_no_room_are_counted_and_cost_no_other_row():
    rows = [Document(prompt="a" * size, completion="b") for size in (600, 490, 512, 2)]
    found = judge_answers(pico_base(), {"x": rows, "y": rows[:1]}, AnswerConfig(), seed=0)
    assert (found["x"]["rows"], found["x"]["too_long"]) == (2, 2)
    assert 0 <= found["x"]["f1"]["mean"] <= 1
    assert found["y"] == {"rows": 0, "too_long": 1}


def test_nothing_is_generated_unless_asked():
    assert (
        judge_answers(parrot(), {"x": [Document(prompt="a", completion="b")]}, AnswerConfig(answers=False), seed=0)
        == {}
    )


def test_a_metric_runs_only_when_code_is_allowed():
    with pytest.raises(ConfigError, match="--allow-code"):
        load_metric("operator:eq", allow_code=False)
    assert load_metric("operator:eq", allow_code=True)("a", "a")


@pytest.mark.parametrize(
    "name", ["operator", "operator:nothing", "no_such_module_here:f", "os;system:f", ".operator:eq"]
)
def test_a_metric_that_is_not_there_is_told(name):
    with pytest.raises(ConfigError, match="--metric"):
        load_metric(name, allow_code=True)


def test_a_metric_of_the_working_directory_is_found_and_its_failure_told(tmp_path, monkeypatch):
    (tmp_path / "my_metric.py").write_text("def same(answer, reference):\n    return 1 / len(answer.strip('b'))\n")
    monkeypatch.chdir(tmp_path)
    config = AnswerConfig(metric="my_metric:same", allow_code=True, answer_tokens=2)
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        judge_answers(parrot(), {"x": [Document(prompt="a", completion="b")]}, config, seed=0)


def test_a_metric_gives_finite_numbers(tmp_path, monkeypatch):
    (tmp_path / "nan_metric.py").write_text("def same(answer, reference):\n    return float('nan')\n")
    monkeypatch.chdir(tmp_path)
    config = AnswerConfig(metric="nan_metric:same", allow_code=True, answer_tokens=2)
    with pytest.raises(ConfigError, match="finite number"):
        judge_answers(parrot(), {"x": [Document(prompt="a", completion="b")]}, config, seed=0)


def test_a_metric_that_fails_while_imported_is_told(tmp_path, monkeypatch):
    (tmp_path / "failing_metric.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="cannot be imported: ZeroDivisionError"):
        load_metric("failing_metric:same", allow_code=True)


def test_a_metric_with_a_syntax_error_is_told(tmp_path, monkeypatch):
    (tmp_path / "bad_metric.py").write_text("def same(:\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="cannot be imported"):
        load_metric("bad_metric:same", allow_code=True)
