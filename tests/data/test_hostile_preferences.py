"""Whatever stands in rows of preferences is read, or refused in words."""

import contextlib
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from preference_forms import answer, said_of, turn, user

from collegium.core.errors import DataError
from collegium.data import (
    describe_preferences,
    preferences_from_dataset,
    read_preferences,
)

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=5),
    st.just([turn("user", "a")]),
)
VALUES = st.recursive(
    LEAVES | st.sampled_from([user("a"), answer("b"), '[{"role": 1', "[{'role':", "[]", "Assistant:"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "a"]), inner),
    max_leaves=6,
)
FIELDS = ["prompt", "chosen", "rejected", "completion", "label", "rating", "margin", "group", "topic"]
NAMES = st.sampled_from(FIELDS) | st.text(st.characters(), max_size=50)
ROWS = st.lists(st.dictionaries(NAMES, VALUES, max_size=6), max_size=6)


@hypothesis.settings(max_examples=400)
@given(ROWS, st.booleans(), st.sampled_from([{}, {"name": "a"}, {"domain_column": "topic"}]))
def test_whatever_stands_in_rows_is_read_or_refused_in_words(
    rows: list[dict[str, Any]], drop: bool, options: dict[str, str]
) -> None:
    try:
        corpus = preferences_from_dataset(rows, drop_unusable=drop, **options)
    except DataError as error:
        said_of(error)
    else:
        describe_preferences(corpus)
        for pair in (pair for domain in corpus for pair in domain.pairs):
            pair.identity.encode()
            pair.hash.encode()
            assert pair.chosen != pair.rejected


@given(st.lists(st.tuples(*[st.text(st.characters(codec="utf-8"), max_size=9)] * 4), max_size=4))
def test_whatever_stands_in_a_table_is_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, ...]]
) -> None:
    path = tmp_path_factory.mktemp("table") / "a.csv"
    for names in (("prompt", "chosen", "rejected", "margin"), ("prompt", "completion", "rating", "group")):
        quoted = ['"' + cell.replace('"', '""') + '"' for row in (names, *cells) for cell in row]
        path.write_bytes("\n".join(",".join(quoted[n : n + 4]) for n in range(0, len(quoted), 4)).encode())
        with contextlib.suppress(DataError):
            describe_preferences(read_preferences(path, drop_unusable=True))
