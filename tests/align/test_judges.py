"""Features that are learnt or read from files: labels, lexicons, functions of the user's own."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from collegium.align.judges import RewardFeature, classifier, lexicon, probability, python
from collegium.core.errors import CollegiumError, ConfigError, DataError
from collegium.core.samples import Sample
from collegium.recipes.aligning.wishes import read_target
from collegium.recipes.common import Common

WORDS = {"sea": ("wave", "ship", "salt"), "farm": ("cow", "plough", "hay"), "town": ("street", "shop", "tram")}


def rows_of(words: dict[str, tuple[str, ...]]) -> list[dict[str, str]]:
    return [
        {"text": f"the {one} and the {other} {number}", "label": label}
        for label, own in words.items()
        for number, (one, other) in enumerate([(a, b) for a in own for b in own] * 3)
    ]


@pytest.fixture
def places(tmp_path: Path) -> Path:
    return written(tmp_path / "places.jsonl", rows_of(WORDS))


def written(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(*texts: str) -> list[Sample]:
    return [Sample("I saw", text) for text in texts]


def test_a_label_is_told_by_the_likeliest_and_by_its_probability(places: Path) -> None:
    texts = said("a ship on a wave", "hay for the cow", "the tram in the street")
    hard = torch.stack([classifier(str(places), label)(texts) for label in WORDS])
    soft = torch.stack([probability(str(places), label)(texts) for label in WORDS])
    assert hard.tolist() == torch.eye(3).tolist()
    torch.testing.assert_close(soft.sum(0), torch.ones(3).double())
    assert torch.equal(soft.argmax(0), hard.argmax(0))
    assert classifier(str(places), "sea")([]).shape == (0,)


def test_a_file_that_was_written_anew_is_learnt_anew(places: Path) -> None:
    before = probability(str(places), "sea")(said("a ship"))
    swapped = {**WORDS, "sea": WORDS["farm"], "farm": WORDS["sea"]}
    written(places, rows_of(swapped))
    os.utime(places, ns=(1, 1))
    assert float(probability(str(places), "sea")(said("a ship"))) < 0.5 < float(before)


@pytest.mark.parametrize(("label", "says"), [("see", "no label 'see'"), ("", "no label ''")], ids=["mistyped", "empty"])
def test_a_label_that_is_not_there_is_refused(places: Path, label: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        classifier(str(places), label)
    assert label != "see" or "sea" in str(caught.value)


def test_data_of_several_tasks_is_refused_and_data_that_is_not_there_too(tmp_path: Path) -> None:
    for name in ("one", "two"):
        written(tmp_path / f"{name}.jsonl", rows_of(WORDS))
    with pytest.raises(ConfigError, match="one, two"):
        classifier(str(tmp_path), "sea")
    with pytest.raises(CollegiumError, match="nowhere"):
        classifier(str(tmp_path / "nowhere.jsonl"), "sea")


def test_a_lexicon_gives_the_mean_weight_of_the_words_it_knows(tmp_path: Path) -> None:
    path = tmp_path / "joy.txt"
    path.write_text("# joy\nglad\t2\n\nSad\t-1\n")
    found = lexicon(str(path))(said("Glad, so glad and sad.", "sad", "of nothing"))
    assert found.tolist() == [1.0, -1.0, 0.0]


@pytest.mark.parametrize(
    ("content", "says"),
    [("glad 2\n", "line 1"), ("glad\tvery\n", "line 1"), ("# nothing\n", "no word"), (None, "is read as UTF-8")],
    ids=["no tab", "no number", "empty", "missing"],
)
def test_a_lexicon_that_is_none_is_refused(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "joy.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=says):
        lexicon(str(path))


def test_a_function_of_the_users_own_is_run_only_where_that_is_allowed(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "own_judges.py").write_text(
        "def longer(prompts, completions):\n"
        "    return [float(len(c) > len(p)) for p, c in zip(prompts, completions)]\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert python("own_judges:longer")(said("a", "a long text")).tolist() == [0.0, 1.0]
    (part,) = read_target('python("own_judges:longer")', Common(), allow_code=True)
    assert part.feature.name == 'python("own_judges:longer")'
    with pytest.raises(ConfigError, match="allow-code"):
        read_target('python("own_judges:longer")', Common(), allow_code=False)
    for place, says in (
        ("own_judges", "module:function"),
        ("own_judges:nobody", "nobody"),
        ("own_judges:number", "int"),
    ):
        with pytest.raises(ConfigError, match=says):
            python(place)


def test_a_text_that_ends_at_once_is_judged_as_a_blank() -> None:
    class Strict:
        name = "strict"

        def __call__(self, samples: Sequence[Sample]) -> torch.Tensor:
            assert all(each.completion for each in samples), "a judge reads one token at least"
            return torch.tensor([float(len(str(each.completion).strip())) for each in samples])

    assert RewardFeature("judge", Strict())([Sample("I saw", "it"), Sample("I saw", "")]).tolist() == [2.0, 0.0]


def test_labels_of_a_file_are_words_of_a_target(places: Path) -> None:
    text = f'(moment(classifier("{places}", "sea")) == 0.2) * (moment(probability("{places}", "farm")) == 0.4)'
    parts = read_target(text, Common(), allow_code=False)
    assert [part.feature.name.split("(")[0] for part in parts] == ["classifier", "probability"]
