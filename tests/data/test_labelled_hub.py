"""Streams of the hub: rows in the published shapes become labelled texts; what cannot be fetched says what else is."""

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from collegium.core.errors import DataError, ResourceError
from collegium.data.labelled import read_labelled
from collegium.data.labelled_hub import LABELLED_HUB, read_labelled_hub
from collegium.data.labelled_pull import pull_labelled_hub

ROWS = {
    "fancyzhx/ag_news": [{"text": f"News {n} of the day.", "label": n % 4} for n in range(40)],
    "SetFit/amazon_reviews_multi_en": [{"id": "a", "text": f"Box {n}", "label": n % 5} for n in range(40)],
    "fancyzhx/dbpedia_14": [{"label": n % 14, "title": f"Thing {n}", "content": "It is."} for n in range(40)],
    "community-datasets/yahoo_answers_topics": [
        {"id": n, "topic": n % 10, "question_title": f"Why {n}?", "question_content": "", "best_answer": "So."}
        for n in range(40)
    ],
    "Yelp/yelp_review_full": [{"label": n % 5, "text": f"Meal {n}"} for n in range(40)],
    "HDLTex/web_of_science": [
        {"input_data": f"Paper {n}", "label": n, "label_level_1": n % 7, "label_level_2": n % 3} for n in range(140)
    ],
    "shmuhammad/AfriSenti-twitter-sentiment": [{"tweet": f"Habari {n}", "label": n % 3} for n in range(40)],
    "Muennighoff/natural-instructions": [
        {"task_name": name, "id": "i", "definition": "Tell.", "inputs": f"{name} {n}", "targets": ("a", "b")[n % 2]}
        for n in range(30)
        for name in (
            "task363_sst2_polarity_classification", "task875_emotion_classification",
            "task1687_sentiment140_classification", "task073_commonsenseqa_answer_generation",
        )
    ],
}  # fmt: skip


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Stand in for the hub with files of the published columns; a change of the rows changes what it gives."""
    rows = dict(ROWS)

    def fetched(repository, *, repo_type, revision, allow_patterns):
        assert repo_type == "dataset"
        folder = tmp_path / "hub" / repository / "abc123"
        for pattern in allow_patterns:
            file = folder / pattern.replace("*", "0000")
            file.parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[repository]), file)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    return rows


@pytest.mark.parametrize(
    ("name", "tasks"),
    [("mtl5", 5), ("wos", 7), ("afrisenti", 12), ("superni", 3)],
)
def test_each_stream_becomes_tasks_that_can_be_learnt(hub, tmp_path, name, tasks):
    folder = pull_labelled_hub(tmp_path / "tasks", name)
    found = read_labelled(folder)
    assert len(found) == tasks
    assert all(len(task.labels) >= 2 and task.test for task in found)


def test_labels_are_words_and_columns_stand_behind_each_other(hub):
    found, sources = read_labelled_hub("mtl5", rows=3)
    assert [(row.text, row.label) for row in found["agnews"]] == [
        ("News 0 of the day.", "world"), ("News 1 of the day.", "sports"), ("News 2 of the day.", "business"),
    ]  # fmt: skip
    assert found["yahoo"][1].text == "Why 1? So."
    assert {source.digest for source in sources} == {"abc123"}


def test_other_columns_are_told(hub):
    hub["fancyzhx/ag_news"] = [{"body": "News", "label": 0}]
    with pytest.raises(DataError, match="row 1: the columns are not those"):
        read_labelled_hub("mtl5")


def test_an_unknown_stream_and_an_unreachable_hub_are_told(monkeypatch):
    with pytest.raises(DataError, match="no stream of the hub is called 'mtl'"):
        read_labelled_hub("mtl")

    def nowhere(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nowhere)
    with pytest.raises(ResourceError, match="data pull FOLDER --labelled"):
        read_labelled_hub("wos")


def test_a_folder_that_is_there_is_left_alone(hub, tmp_path):
    (tmp_path / "tasks").mkdir()
    with pytest.raises(DataError, match="exists"):
        pull_labelled_hub(tmp_path / "tasks", "wos")
    assert set(LABELLED_HUB) == {"mtl5", "wos", "afrisenti", "superni"}
