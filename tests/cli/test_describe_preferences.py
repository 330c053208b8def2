"""`data describe` of preference pairs: what is counted, shown and refused."""

import json

import pytest


def rows(name, count=20):
    return [{"prompt": f"{name} {n}?", "chosen": f"good {n} indeed", "rejected": f"bad {n}"} for n in range(count)]


def write(path, listed):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in listed))
    return path


@pytest.fixture
def pairs(tmp_path):
    root = tmp_path / "pairs"
    chats = [
        {
            "chosen": [{"role": "user", "content": f"ask {n}"}, {"role": "assistant", "content": "yes"}],
            "rejected": [{"role": "user", "content": f"ask {n}"}, {"role": "assistant", "content": "never"}],
        }
        for n in range(5)
    ]
    answers = [{"prompt": f"q {n % 2}", "completion": f"a {n}", "rating": n} for n in range(12)]
    write(root / "law.jsonl", [*rows("law"), rows("law")[0], {"prompt": "x", "chosen": "same", "rejected": "same"}])
    write(root / "chat" / "rows.jsonl", chats)
    write(root / "rated.jsonl", answers)
    (root / "sources.json").write_text(
        json.dumps({"domains": {"law": [{"name": "a court", "licence": "CC0"}]}, "kinds": {"law": "checked answers"}})
    )
    return root


def test_pairs_are_counted(ask, pairs, pico_folder):
    code, found, shown = ask("data", "describe", pairs, "--base", pico_folder)
    assert code == 0
    chat, law, rated = found["domains"]
    assert (law["pairs"], law["duplicates"], law["unusable"], law["kind"]) == (20, 1, 1, "checked answers")
    assert sum(law["split"].values()) == 20
    assert (law["lengths"]["rule"], law["lengths"]["rule_accuracy"]) == ("longer", 1.0)
    assert law["tokens"]["longest"] == len("law 10?good 10 indeed") + 1  # bytes, and the end of text
    assert chat["lengths"]["rule"] == "shorter"
    assert (rated["pairs"], rated["surplus"], rated["split"], rated["leaks"]) == (16, 14, None, None)
    assert found["leaks"] == []
    for said in ("checked answers", "law comes from a court", "longer 100 %", "--drop-unusable", "too few", "14 more"):
        assert said in shown


def test_leaks_are_shown(ask, pairs):
    listed = rows("law")
    for n, row in enumerate(listed):
        row["group"] = f"case {n}"
    write(
        pairs / "code.jsonl",
        [*listed, *({**row, "chosen": "no", "group": f"chat {n}"} for n, row in enumerate(listed))],
    )
    code, found, shown = ask("data", "describe", pairs)
    assert code == 0
    assert found["leaks"][0]["similarity"] == 1.0
    assert "100 % the same as" in shown
    assert "more leaks (--json has all)" in shown


def test_a_column_names_domains_and_columns_are_renamed(ask, tmp_path):
    listed = [
        {"q": row["prompt"], "good": row["chosen"], "worse": row["rejected"], "of": "ab"[n % 2]}
        for n, row in enumerate(rows("law"))
    ]
    path = write(tmp_path / "all.jsonl", listed)
    named = ("--columns", "prompt=q", "chosen=good", "rejected=worse")
    code, found, _ = ask("data", "describe", path, *named, "--domain-column", "of")
    assert (code, [(each["name"], each["pairs"]) for each in found["domains"]]) == (0, [("a", 10), ("b", 10)])
    code, _, shown = ask("data", "describe", path, "--columns", "prompt=q", "chosen=good")
    assert code == 2
    assert "no column `rejected`" in shown


def test_mixed_folders_and_columns_without_preferences_are_refused(ask, pairs, texts):
    code, _, shown = ask("data", "describe", texts, "--domain-column", "topic")
    assert code == 2
    assert "--domain-column deals rows of preferences" in shown
    (pairs / "notes.txt").write_text("some text")
    code, _, shown = ask("data", "describe", pairs)
    assert code == 2
    assert "notes.txt has texts" in shown
