"""Tasks of prompts and completions: what is read, how it is split, and what is refused."""

import json
import random

import pytest

from collegium.core.errors import DataError
from collegium.data import Document, TaskRow, read_tasks, text_task
from collegium.data.preference_sources.chats import Chat
from collegium.data.task_pull import pull_tasks
from collegium.data.task_sources import code, drama
from collegium.data.task_sources.chat import tasks_of_chats
from collegium.data.task_sources.rows import SourceRow, some_rows


def write(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def sums(many=40, **more):
    return [{"prompt": f"{n} + 1 =", "completion": f" {n + 1}", **more} for n in range(many)]


def moods(many=40):
    return [{"text": f"day {number}", "label": "glad" if number % 2 else "sad"} for number in range(many)]


def test_rows_of_both_forms_are_tasks(tmp_path):
    write(tmp_path / "sum.jsonl", sums())
    write(tmp_path / "mood.jsonl", moods())
    mood, total = read_tasks(tmp_path)
    assert (mood.name, mood.chooses, mood.choices) == ("mood", True, (" glad", " sad"))
    assert mood.train[0].prompt.endswith("\nLabel:")
    assert (total.name, total.chooses, total.choices) == ("sum", False, ())
    assert len(total.train) + len(total.test) == 40
    assert [task.name for task in read_tasks(tmp_path, order=["sum"])] == ["sum"]


def test_cards_list_rows_by_the_hash_that_documents_have(tmp_path):
    write(tmp_path / "sum.jsonl", sums())
    write(tmp_path / "mood.jsonl", moods())
    mood, total = read_tasks(tmp_path)
    one = total.train[0]
    assert one.document == Document(prompt=one.prompt, completion=one.completion).hash
    assert mood.train[0].document == Document(text=mood.train[0].prompt.removesuffix("\nLabel:")).hash


def test_a_prompts_part_depends_on_it_alone_and_it_counts_once():
    few, many = (text_task("t", [TaskRow(**row) for row in sums(count)]) for count in (30, 40))
    assert {row.prompt for row in few.test} <= {row.prompt for row in many.test}
    doubled = text_task("t", [*(TaskRow(**row) for row in sums()), TaskRow("1 + 1 =", " 3")])
    assert doubled.dropped == 1
    assert " 3" not in {row.completion for row in (*doubled.train, *doubled.test) if row.prompt == "1 + 1 ="}


def test_a_test_file_wins(tmp_path):
    write(tmp_path / "sum.jsonl", sums())
    write(tmp_path / "sum.test.jsonl", sums(5))
    (task,) = read_tasks(tmp_path)
    assert (len(task.test), len(task.train), task.dropped) == (5, 35, 5)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"prompt": "a"}], "prompt and completion, or text and label"),
        ([{"prompt": "a", "completion": " "}], "a text with something in it"),
        ([{"prompt": "a", "completion": 3}], "a text with something in it"),
        (sums(choices=[" 1"]), "two or more different texts"),
        (sums(choices=[" x", " y"]), "the completion among them"),
        ([*sums(), *moods()], "these differ"),
        ([{"prompt": f"{n}", "completion": " one"} for n in range(40)], "has one answer"),
        ([{"text": f"{n}", "label": "one"} for n in range(40)], "has 1 label"),
        (sums(1), "has no row"),
    ],
)
def test_what_is_no_task_is_refused(tmp_path, rows, says):
    write(tmp_path / "odd.jsonl", rows)
    with pytest.raises(DataError, match=says):
        read_tasks(tmp_path)


def test_two_files_of_one_task_are_refused(tmp_path):
    write(tmp_path / "sum.jsonl", sums())
    (tmp_path / "sum.csv").write_text("prompt,completion\na,b\n")
    with pytest.raises(DataError, match="two files of task 'sum'"):
        read_tasks(tmp_path)
    with pytest.raises(DataError, match="each task comes once"):
        read_tasks(tmp_path / "sum.jsonl", order=["sum", "sum"])


def test_choices_come_from_any_table(tmp_path):
    pandas = pytest.importorskip("pandas")
    rows = [{**row, "choices": [row["completion"], " x"]} for row in sums()]
    pandas.DataFrame(rows).to_parquet(tmp_path / "sum.parquet")
    (task,) = read_tasks(tmp_path / "sum.parquet")
    assert task.chooses
    assert task.train[0].choices == (task.train[0].completion, " x")


MODULE = '''
def total(rows):
    """Return the sum of the prices of all rows."""
    found = [row.price for row in rows]
    return sum(found)
'''


def test_functions_become_three_tasks_and_names_are_no_hint():
    modules = [(f"m{n}.py", "".join(MODULE.replace("total", f"work_{n}_{k}") for k in range(4))) for n in range(8)]
    found = code.tasks_of_modules(modules, seed=0)
    assert set(found) == {"completion", "docstring", "name"}
    assert found["docstring"][0].completion == " Return the sum of the prices of all rows."
    row = found["name"][0]
    assert row.completion in row.choices
    assert row.completion.strip() not in row.prompt
    assert len(row.choices) == 4


PLAY = "\n\n".join(
    f"ACT {act}.\n\n" + "\n\n".join(f"{name}.\nI say {word} in {act}." for word in range(15) for name in ("Ann", "Bo"))
    for act in ("I", "2", "THIRD")
)


def test_plays_become_three_tasks():
    speeches = list(drama.speeches_of(PLAY))
    assert {each.act for each in speeches} == {1, 2, 3}
    assert speeches[0] == drama.Speech(1, "Ann", "I say 0 in I.")
    found = drama.tasks_of_plays({"one": PLAY, "two": PLAY + PLAY}, seed=0)
    assert set(found) == {"act", "continuation", "speaker"}
    assert all(row.completion in row.choices for row in (*found["act"], *found["speaker"]))
    assert not drama.tasks_of_plays({"short": "ACT I.\n\nAnn.\nOh."}, seed=0)["act"]


def test_chats_become_three_tasks_and_other_replies_are_of_the_same_part():
    chats = [
        Chat(
            str(n),
            (("A", f"hello to you {n}"), ("B", f"and how are you {n}"), ("A", f"I am well, {n}")),
            {"interesting": r},
        )
        for n, r in enumerate([9, 2] * 60)
    ]
    found = tasks_of_chats(chats, seed=0)
    assert {row.completion for row in found["rating"]} == {" interesting", " dull"}
    tested = {row.completion: row.tested for row in found["reply-choice"]}
    for row in found["reply-choice"]:
        assert row.completion in row.choices
        assert all(tested.get(each, row.tested) is row.tested for each in row.choices)


def test_rows_of_one_group_are_all_of_one_part():
    rows = some_rows([SourceRow(f"g{n % 7}", f"p{n}", " a") for n in range(70)], random.Random(0))
    parts = {row.group: {each.tested for each in rows if each.group == row.group} for row in rows}
    assert all(len(part) == 1 for part in parts.values())


def test_a_domain_is_pulled_once_and_others_are_named(tmp_path):
    folder = pull_tasks(tmp_path / "code", "code")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {
        "sources.json",
        *(f"{name}{end}.jsonl" for name in ("name", "docstring", "completion") for end in ("", ".test")),
    }
    tasks = read_tasks(folder)
    assert [task.chooses for task in tasks] == [False, False, True]
    assert pull_tasks(folder, "code") == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(DataError, match="does not hold the tasks of chat"):
        pull_tasks(folder, "chat")
    with pytest.raises(DataError, match="Did you mean 'drama'"):
        pull_tasks(tmp_path / "new", "drma")
