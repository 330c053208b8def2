"""Labelled tasks: what is read, how it is split, and what is refused."""

import json
from pathlib import Path

import pytest

from collegium.core.errors import DataError
from collegium.data import LabelledText, labelled_task, read_labelled


def write(file: Path, rows: list[dict]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def moods(many: int = 60, word: str = "day") -> list[dict]:
    return [{"text": f"{word} {number}", "label": "glad" if number % 2 else "sad"} for number in range(many)]


def test_a_folder_is_its_files_in_order_each_split_by_its_own_texts(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", moods())
    write(tmp_path / "a.jsonl", moods(40, "night"))
    tasks = read_labelled(tmp_path)
    assert [task.name for task in tasks] == ["a", "b"]
    assert [len(task.train) + len(task.test) for task in tasks] == [40, 60]
    assert 0.08 < len(tasks[1].test) / 60 < 0.35
    assert [task.name for task in read_labelled(tmp_path, order=["b", "a"])] == ["b", "a"]


def test_a_rows_part_depends_on_its_text_alone(tmp_path: Path) -> None:
    few, many = (labelled_task("t", [LabelledText(**row) for row in moods(count)]) for count in (40, 60))
    assert {row.text for row in few.test} == {row.text for row in many.test} & {row["text"] for row in moods(40)}
    backwards = labelled_task("t", [LabelledText(**row) for row in moods()[::-1]])
    assert {row.text for row in backwards.test} == {row.text for row in many.test}


def test_a_test_file_wins_and_what_stands_in_it_is_not_learnt(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", moods())
    write(tmp_path / "a.test.jsonl", [*moods(10), {"text": "new", "label": "glad"}])
    (task,) = read_labelled(tmp_path)
    assert len(task.test) == 11
    assert len(task.train) == 50
    assert task.dropped == 10


def test_a_text_counts_once_by_its_first_label() -> None:
    rows = [LabelledText(**row) for row in moods()]
    task = labelled_task("t", [*rows, LabelledText(rows[0].text, "glad")])
    assert task.dropped == 1
    assert [row.label for row in (*task.train, *task.test) if row.text == rows[0].text] == ["sad"]
    assert task.labels == ("glad", "sad")


def test_columns_are_renamed_and_labels_may_be_numbers(tmp_path: Path) -> None:
    rows = [{"body": row["text"], "class": int(row["label"] == "glad")} for row in moods()]
    (task,) = read_labelled(write(tmp_path / "a.jsonl", rows), columns={"text": "body", "label": "class"})
    assert task.labels == ("0", "1")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a"}], "lacks 'label'"),
        ([{"text": " ", "label": "x"}], "a text with something in it"),
        ([{"text": "a", "label": True}], "a label is a text or a whole number"),
        ([{"text": f"{n}", "label": "x"} for n in range(30)], "has 1 label to learn"),
        ([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}], "row in its test part|1 label"),
        ([], "has 0 label"),
    ],
)
def test_what_is_no_task_is_refused(rows: list[dict], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_labelled(write(tmp_path / "a.jsonl", rows))


def test_places_and_orders_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a folder nor a file"):
        read_labelled(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no task"):
        read_labelled(tmp_path)
    write(tmp_path / "law.jsonl", moods())
    with pytest.raises(DataError, match="Did you mean 'law'"):
        read_labelled(tmp_path, order=["lw"])
    with pytest.raises(DataError, match="each task comes once"):
        read_labelled(tmp_path, order=["law", "law"])
    with pytest.raises(DataError, match="renames text and label"):
        read_labelled(tmp_path, columns={"lable": "x"})
    (tmp_path / "law.csv").write_text("text,label\na,b\n")
    with pytest.raises(DataError, match="two files of task"):
        read_labelled(tmp_path)
