"""Tables of experiments: kept once, found again, and refused when they are not what was measured."""

import pytest

from collegium.claims import RESULTS, read_results
from collegium.claims.tables import keep_table, means, read_table, table_lines
from collegium.core.errors import ConfigError

ROWS = [
    {"model": "a", "seed": 0, "tokens": 1000, "perplexity": {"law": 2.0, "sea": 4.0}},
    {"model": "a", "seed": 1, "tokens": 3000, "perplexity": {"law": 3.0, "sea": 5.0}},
    {"model": "b", "seed": 0, "tokens": 0, "perplexity": {"law": 7.0}},
]


def test_equal_tables_are_kept_once(tmp_path):
    first = keep_table(ROWS, label="toy", folder=tmp_path)
    assert keep_table([dict(row) for row in ROWS], label="toy", folder=tmp_path) == first
    assert keep_table(ROWS[:2], label="toy", folder=tmp_path) != first
    assert len(list((tmp_path / "tables").iterdir())) == 2
    assert list(read_table(first, folder=tmp_path)) == ROWS
    assert keep_table([], label="toy", folder=tmp_path) == ""


def test_a_table_that_is_missing_or_was_changed_is_refused(tmp_path):
    name = keep_table(ROWS, label="toy", folder=tmp_path)
    with pytest.raises(ConfigError, match=r"other\.json is not among"):
        read_table("other", folder=tmp_path)
    path = tmp_path / "tables" / f"{name}.json"
    path.write_text(path.read_text().replace("7.0", "6.0"))
    with pytest.raises(ConfigError, match="another hash"):
        read_table(name, folder=tmp_path)


def test_numbers_are_averaged_over_seeds_and_a_missing_one_is_a_dash():
    assert means(ROWS)[0] == {"model": "a", "tokens": 2000.0, "law": 2.5, "sea": 4.5}
    assert table_lines(ROWS)[2:] == ["| a | 2,000 | 2.5 | 4.5 |", "| b | 0 | 7 | - |"]


def test_every_committed_table_is_used_and_there():
    used = {each.table for each in read_results().values() if each.table}
    assert {path.stem for path in (RESULTS / "tables").glob("*.json")} == used
    assert all(read_table(name, folder=RESULTS) for name in used)
