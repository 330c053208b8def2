"""Every form of preferences is read alike from every kind of file; everything else says what is wrong."""

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from preference_forms import FORMS, Row, Write, answer, said, said_of, turn, user, write_rows

from collegium.core.cards import Source
from collegium.core.errors import DataError
from collegium.data import (
    Message,
    Pair,
    PairCorpus,
    holds_preferences,
    preferences_from_dataset,
    preferences_from_rows,
    read_domains,
    read_preferences,
)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_says_the_same_in_every_file_in_memory_and_as_a_data_set(tmp_path: Path, form: str) -> None:
    from datasets import Dataset, DatasetDict

    rows = FORMS[form]
    wanted = said(preferences_from_rows(rows, name="sums").pairs)
    assert len(wanted) == (2 if form == "extras" else 3)
    for suffix in (".jsonl", ".csv", ".parquet"):
        (domain,) = read_preferences(write_rows(tmp_path / suffix[1:] / f"sums{suffix}", rows))
        assert (domain.name, said(domain.pairs)) == ("sums", wanted), suffix
    held = Dataset.from_list(rows)
    for dataset in (held, DatasetDict({"train": held, "test": held.select([0])}), DatasetDict({"dev": held}), rows):
        assert said(preferences_from_dataset(dataset, name="sums")["sums"].pairs) == wanted


def test_what_each_form_says() -> None:
    def first(form: str) -> Pair:
        return preferences_from_rows(FORMS[form], name="sums").pairs[0]

    chat = (Message("user", "0+1?"),), (Message("assistant", "1"),), (Message("assistant", "no"),)
    assert said([first("explicit")]) == [("0+1=", "1", "no, none", None, "")]
    assert said([first("implicit")]) == [("0+1 is", " 1", " none", None, "")]
    assert said([first("chats")]) == said([first("implicit chats")]) == [(*chat, None, "")]
    assert said([first("labels")]) == [("0+1=", "1", "2", None, "")]
    assert said([first("ratings")]) == [("0+1=", "1", "2", 2.25, "")]
    assert said([first("extras")]) == [("1", 'a "quoted", one', "b\nc", 0.5, "chat 1")]


def test_a_pair_says_where_it_was_read(write: Write) -> None:
    rows = [json.dumps(row) for row in FORMS["labels"]]
    root = write({"a.jsonl": "\n" + "\n".join(rows), "b.jsonl": json.dumps(FORMS["explicit"][0])})
    first, second = read_preferences(root)
    assert first.pairs[0].origin == f"{root}/a.jsonl:2 over {root}/a.jsonl:3"
    assert second.pairs[0].origin == f"{root}/b.jsonl:1"


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1, max_size=20).filter(str.strip)


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS).filter(lambda each: each[1] != each[2]), min_size=1, max_size=5))
def test_texts_of_any_kind_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str, str]]
) -> None:
    root = tmp_path_factory.mktemp("any")
    rows = [dict(zip(("prompt", "chosen", "rejected"), each, strict=True)) for each in texts]
    chats = [
        {"prompt": user(prompt), "chosen": answer(chosen), "rejected": answer(rejected)}
        for prompt, chosen, rejected in texts
    ]
    distinct = list(dict.fromkeys(texts))
    for suffix in (".jsonl", ".csv", ".parquet"):
        (domain,) = read_preferences(write_rows(root / f"plain{suffix}", rows))
        assert [(each.prompt, each.chosen, each.rejected) for each in domain.pairs] == distinct
        assert domain.duplicates == len(texts) - len(distinct)
        (domain,) = read_preferences(write_rows(root / f"chats{suffix}", chats))
        assert [(each.prompt[0].content, each.chosen[0].content) for each in domain.pairs] == [
            each[:2] for each in distinct
        ]


def test_a_domain_is_a_file_or_a_folder_of_files(tmp_path: Path) -> None:
    labels = FORMS["labels"]
    write_rows(tmp_path / "code.csv", FORMS["explicit"])
    write_rows(tmp_path / "law" / "good.jsonl", [row for row in labels if row["label"]])
    write_rows(tmp_path / "law" / "bad" / "rows.parquet", [row for row in labels if not row["label"]])
    (tmp_path / "law" / ".notes.txt").write_text("not looked at")
    (tmp_path / "sources.json").write_text(
        json.dumps({"domains": {"law": [{"name": "court", "licence": "CC0"}]}, "kinds": {"law": "checked answers"}})
    )
    code, law = read_preferences(tmp_path)
    assert (code.name, len(code.pairs), code.sources, code.kind) == ("code", 3, (), "")
    assert (law.name, len(law.pairs), law.sources, law.kind) == ("law", 3, (Source("court", "CC0"),), "checked answers")


def test_a_column_may_name_the_domain(tmp_path: Path) -> None:
    rows = [{**row, "topic": ("law", "code")[n % 2]} for n, row in enumerate(FORMS["explicit"])]
    for suffix in (".jsonl", ".csv", ".parquet"):
        path = write_rows(tmp_path / suffix[1:] / f"all{suffix}", rows)
        write_rows(tmp_path / suffix[1:] / "more" / "rows.jsonl", [{**FORMS["labels"][0], "topic": 7}])
        write_rows(tmp_path / suffix[1:] / "more" / "rest.csv", [{**FORMS["labels"][1], "topic": 7}])
        assert {each.name: len(each.pairs) for each in read_preferences(path, domain_column="topic")} == {
            "law": 2,
            "code": 1,
        }
        corpus = read_preferences(path.parent, domain_column="topic")
        assert {each.name: len(each.pairs) for each in corpus} == {"law": 2, "code": 1, "7": 1}
    assert preferences_from_dataset(rows, domain_column="topic").names == ("law", "code")


def test_columns_are_renamed_and_decide_before_ours(tmp_path: Path) -> None:
    rows = [{"q": "1", "better": "a", "worse": "b", "chosen": "x", "rejected": "y", "by": 2, "chat": 12}]
    columns = {"prompt": "q", "chosen": "better", "rejected": "worse", "margin": "by", "group": "chat"}
    for suffix in (".jsonl", ".csv", ".parquet"):
        (domain,) = read_preferences(write_rows(tmp_path / f"a{suffix}", rows), columns=columns)
        assert said(domain.pairs) == [("1", "a", "b", 2.0, "12")]
    rows = [{"prompt": "1", "completion": k, "good": k == "a", "label": k == "b", "rating": 1} for k in "ab"]
    assert preferences_from_rows(rows, name="a", columns={"label": "good"}).pairs[0].chosen == "a"
    assert preferences_from_rows(rows, name="a", columns={"label": "label"}).pairs[0].chosen == "b"
    both = [{**row, "q": "2", "chosen": "x", "rejected": "y"} for row in rows]
    (pair,) = preferences_from_rows(both, name="a", columns={"label": "good", "prompt": "q"}).pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == ("2", "a", "b")


def test_a_table_of_several_forms_leaves_cells_empty(tmp_path: Path) -> None:
    rows = [*FORMS["explicit"], *FORMS["labels"], *FORMS["ratings"]]
    names = sorted({name for row in rows for name in row})
    for suffix in (".jsonl", ".csv", ".parquet"):
        path = write_rows(tmp_path / f"a{suffix}", [{name: row.get(name) for name in names} for row in rows])
        (domain,) = read_preferences(path)
        assert (len(domain.pairs), domain.duplicates) == (6, 3)  # ratings and labels say the same


def test_copies_are_left_out_and_counted() -> None:
    rows = [*FORMS["explicit"], FORMS["explicit"][0], {**FORMS["explicit"][1], "margin": 3}]
    domain = preferences_from_rows(rows, name="sums")
    assert (len(domain.pairs), domain.duplicates) == (3, 2)
    labels = preferences_from_rows([*FORMS["labels"], FORMS["labels"][0]], name="sums")
    assert (len(labels.pairs), labels.duplicates) == (3, 1)


GOOD = {"prompt": "1+1=", "chosen": "2", "rejected": "3"}
USELESS = [
    ({"prompt": "1+1=", "chosen": "2", "rejected": "2"}, "`chosen` equals `rejected`"),
    ({"prompt": " \n", "chosen": "2", "rejected": "3"}, "`prompt` is empty"),
    ({"prompt": "1+1=", "chosen": "", "rejected": "3"}, "`chosen` is empty"),
    ({"prompt": "1+1=", "chosen": "2", "rejected": "\t"}, "`rejected` is empty"),
    ({"prompt": None, "chosen": "2", "rejected": "3"}, "`prompt` is empty"),
    ({"prompt": "1+1=", "chosen": "2", "rejected": None}, "`rejected` is empty"),
    ({"prompt": [], "chosen": answer("a"), "rejected": answer("b")}, "`prompt` is empty"),
    ({"prompt": user("a"), "chosen": answer(" "), "rejected": answer("b")}, "`chosen` is empty"),
    ({"chosen": "yes", "rejected": "no"}, "no beginning in common"),
    ({"chosen": answer("a"), "rejected": answer("b")}, "no beginning in common"),
    ({"chosen": "I say ", "rejected": "I say no"}, "here one has none"),
    ({"chosen": user("a"), "rejected": user("a") + answer("b")}, "here one has none"),
    ({"prompt": "1+1=", "completion": " ", "label": True}, "`completion` is empty"),
    ({"prompt": "", "completion": "2", "rating": 3}, "`prompt` is empty"),
]


@pytest.mark.parametrize(("row", "reason"), USELESS)
def test_what_teaches_nothing_is_an_error_or_is_left_out_and_counted(write: Write, row: Row, reason: str) -> None:
    root = write({"sums.jsonl": "\n".join(map(json.dumps, [GOOD, row]))})
    with pytest.raises(DataError, match=rf"sums\.jsonl:2: .*{reason}.*--drop-unusable.*drop_unusable=True"):
        read_preferences(root)
    (domain,) = read_preferences(root, drop_unusable=True)
    assert (len(domain.pairs), domain.unusable) == (1, 1)
    with pytest.raises(DataError, match=rf"sums: none of its rows can be used \(1 unusable.*{reason}"):
        preferences_from_rows([row], name="sums", drop_unusable=True)


def test_an_answer_labelled_two_ways_is_an_error_or_left_out(write: Write) -> None:
    rows = [{"prompt": "1", "completion": "a", "rating": n} for n in (4, 2)]
    root = write({"sums.jsonl": "\n".join(map(json.dumps, [GOOD, *rows]))})
    with pytest.raises(
        DataError, match=r"jsonl:3: .*one rating, this one has 2 here and 4 at .*jsonl:2\..*--drop-unus"
    ):
        read_preferences(root)
    (domain,) = read_preferences(root, drop_unusable=True)
    assert (len(domain.pairs), domain.unusable) == (1, 2)
    with pytest.raises(DataError, match="none of its rows can be used"):
        preferences_from_rows(rows, name="a", drop_unusable=True)


BROKEN: list[tuple[Any, str]] = [
    (
        {"prompt": "a", "chosen": "b", "rejectd": "c"},
        "no column `rejected`, .*`prompt`, `chosen`, `rejectd`. .*mean 'rejectd'",
    ),
    ({"prompt": "a", "completion": "b", "labels": True}, "no column `label`.*mean 'labels'.*--columns label=NAME"),
    ({"body": "a"}, "a row of preferences has the columns .*, this row has `body`"),
    ({}, "this row has none"),
    ({"prompt": "a", "completion": "b", "label": True, "rating": 1}, "both.*--columns label=label.*rating=rating"),
    ({"prompt": 3, "chosen": "a", "rejected": "b"}, "`prompt` holds a text or a list of messages, got a int"),
    ({"prompt": "a", "chosen": {"role": "assistant"}, "rejected": "b"}, "`chosen` holds .*got a dict"),
    ({"prompt": "a", "chosen": ["b"], "rejected": ["c"]}, "each message is .*got a str"),
    ({"prompt": "a", "chosen": [[]], "rejected": "b"}, "each message is .*got a list"),
    ({"prompt": "a", "chosen": [{"role": "assistant", "content": 1}], "rejected": "b"}, "'content': a int"),
    ({"prompt": "a", "chosen": answer("b"), "rejected": answer("c")}, "all texts or all .*`prompt` is a text"),
    ({"prompt": user("a"), "chosen": "b", "rejected": answer("c")}, "`chosen` is a text, `rejected` is messages"),
    ({"prompt": [turn("tool", "a")], "chosen": answer("b"), "rejected": answer("c")}, "system or user or.*'tool'"),
    ({"prompt": user("a"), "chosen": user("b"), "rejected": answer("c")}, "role assistant, got 'user'"),
    ({"prompt": user("a"), "chosen": answer("c"), "rejected": [turn("", "b")]}, "role assistant, got ''"),
    ({"chosen": user("a") + user("b") + answer("c"), "rejected": user("a") + answer("b")}, "role assistant"),
    ({"prompt": user("a"), "completion": user("b"), "label": True}, "role assistant, got 'user'"),
    ({"prompt": user("a"), "completion": "b", "rating": 1}, "all texts or all .*`completion` is a text"),
    ({"prompt": "a", "completion": "b", "label": "yes"}, "`label` is true or false, got 'yes'"),
    ({"prompt": "a", "completion": "b", "label": None}, "`label` is true or false, got a NoneType"),
    ({"prompt": "a", "completion": "b", "label": 2}, "`label` is true or false, got a int"),
    ({"prompt": "a", "completion": "b", "label": [True]}, "`label` is true or false, got a list"),
    ({"prompt": "a", "completion": "b", "rating": float("nan")}, "`rating` holds a finite number, got nan"),
    ({"prompt": "a", "completion": "b", "rating": float("inf")}, "`rating` holds a finite number, got inf"),
    ({"prompt": "a", "completion": "b", "rating": 10**400}, "`rating` holds a finite number, got a int"),
    ({"prompt": "a", "completion": "b", "rating": "4"}, "`rating` holds a finite number, got '4'"),
    ({"prompt": "a", "completion": "b", "rating": True}, "`rating` holds a finite number, got a bool"),
    ({"prompt": "a", "completion": "b", "rating": None}, "`rating` holds a finite number, got a NoneType"),
    ({**GOOD, "margin": float("nan")}, "`margin` holds a finite number, got nan"),
    ({**GOOD, "margin": "much"}, "`margin` holds a finite number, got 'much'"),
    ({**GOOD, "group": 1.5}, "`group` is a name or a whole number, got 1.5"),
    ({**GOOD, "group": [1]}, "`group` is a name or a whole number, got a list"),
    ({**GOOD, "group": "\ud800"}, "half of a surrogate pair"),
    ({**GOOD, "chosen": "a\ud800"}, "half of a surrogate pair"),
    ({"prompt": user("\udfff"), "chosen": answer("a"), "rejected": answer("b")}, "half of a surrogate pair"),
    ({"prompt": [turn("\udfff", "")], "chosen": answer("a"), "rejected": answer("b")}, "half of a surrogate pair"),
]


@pytest.mark.parametrize(("row", "message"), BROKEN)
def test_a_broken_row_says_where_and_why(write: Write, row: Any, message: str) -> None:
    root = write({"sums.jsonl": "\n".join(map(json.dumps, [GOOD, row]))})
    for drop in (False, True):  # what is malformed is never passed over
        with pytest.raises(DataError, match=rf"sums\.jsonl:2: .*{message}") as found:
            read_preferences(root, drop_unusable=drop)
        assert len(str(found.value)) < 700 + len(str(root))


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("prompt,completion,label\na,b,perhaps\n", "`label` is true or false, got 'perhaps'"),
        ("prompt,completion,rating\na,b,nan\n", "`rating` holds a finite number, got 'nan'"),
        ("prompt,completion,rating\na,b,\n", "`rating` holds a finite number, got ''"),
        ("prompt,chosen,rejected,margin\na,b,c,much\n", "`margin` holds a finite number, got 'much'"),
        (
            "prompt,chosen,rejected\n\"[{'role': 'user', 'content': 'a'}]\",b,c\n",
            "`prompt` in a csv file is a JSON list",
        ),
        ('prompt,chosen,rejected\n"[{""role"": ""user""}]",b,c\n', "each message is"),
    ],
)
def test_a_broken_cell_of_a_table_says_where_and_why(write: Write, cells: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"sums\.csv:1: .*{message}"):
        read_preferences(write({"sums.csv": cells}))


def test_words_and_numbers_of_a_table_are_read(write: Write) -> None:
    table = "prompt,completion,label\na,one,TRUE\na,two,0\nb,one,1\nb,two,False\n[b],[1],true\n[b],[],false\n"
    (domain,) = read_preferences(write({"sums.csv": table}))
    assert [(each.prompt, each.chosen) for each in domain.pairs] == [("a", "one"), ("b", "one"), ("[b]", "[1]")]


def test_cells_of_arrays_are_read() -> None:
    chats = {"prompt": numpy.array(user("a")), "chosen": tuple(answer("b")), "rejected": numpy.array(answer("c"))}
    labels = [{"prompt": "a", "completion": str(k), "label": numpy.bool_(k)} for k in (True, False)]
    ratings = [{"prompt": "a", "completion": str(k), "rating": numpy.float32(k)} for k in (1, 2)]
    found = preferences_from_rows([chats, *labels, *ratings], name="a").pairs
    assert [each.margin for each in found] == [None, None, 1.0]


@pytest.mark.parametrize(
    ("files", "path", "options", "message"),
    [
        ({"a.txt": "x"}, "nowhere", {}, "nowhere does not exist"),
        ({".keep": ""}, ".", {}, r"is empty; a domain is a sub-folder or one \.jsonl, \.csv or \.parquet file"),
        ({"law.txt": "x"}, ".", {}, r"law\.txt: preferences are rows of .*got '\.txt'"),
        ({"law/README": "x"}, ".", {}, "README: preferences are rows of .*got 'no suffix'"),
        ({"law.jsonl": ""}, ".", {}, r"law\.jsonl holds no rows"),
        ({"law/.keep": ""}, ".", {}, "law holds no rows"),
        ({"law.csv": "prompt,chosen,rejected\n"}, ".", {}, r"law\.csv holds no rows"),
        ({"law.csv": "prompt,chosen,rejected\n"}, ".", {"domain_column": "topic"}, "holds no rows; give at least one"),
        ({"law.jsonl": "{}", "law.csv": ""}, ".", {}, "are both 'law'"),
        ({"base.jsonl": json.dumps(GOOD)}, ".", {}, "'base'.*another"),
        ({"law.jsonl": json.dumps(GOOD)}, ".", {"columns": {"chosn": "a"}}, "got 'chosn'. Did you mean 'chosen'"),
        (
            {"law.jsonl": json.dumps(GOOD)},
            ".",
            {"columns": {"group": "a"}},
            "no column `a`, .*`prompt`.*--columns group",
        ),
        ({"law.jsonl": json.dumps(GOOD)}, ".", {"columns": {"prompt": "promt"}}, "`promt`.*mean 'prompt'"),
        ({"law.jsonl": json.dumps(GOOD)}, ".", {"domain_column": "promt"}, "no column `promt`.*mean 'prompt'"),
        (
            {"law.jsonl": json.dumps(GOOD)},
            ".",
            {"domain_column": "prompt"},
            r"jsonl:1: the name of every domain.*'1\+1='",
        ),
        ({"law.jsonl": json.dumps({**GOOD, "a": 1.5})}, ".", {"domain_column": "a"}, "name is a text, got a float"),
        ({"law.jsonl": json.dumps({**GOOD, "a": "\ud800"})}, ".", {"domain_column": "a"}, "the name of every domain"),
        ({"law.jsonl": json.dumps({"prompt": "a", "completion": "b", "label": True})}, ".", {}, "give no pair"),
        ({"law.jsonl": json.dumps(GOOD), "sources.json": '{"domains": {}, "kinds": {"law": 1}}'}, ".", {}, "kinds"),
        ({"law.jsonl": json.dumps(GOOD), "sources.json": '{"domains": {}, "kinds": []}'}, ".", {}, "sources.json"),
        ({"law.jsonl": "[" * 100_000}, ".", {}, r"law\.jsonl:1: .*one JSON object"),
        ({"law.jsonl": '{"prompt": ' + "[" * 500 + "]" * 500 + ', "chosen": 1, "rejected": 1}'}, ".", {}, "message is"),
        ({"law.parquet": b"PAR1 cut"}, ".", {}, "not a whole parquet file"),
    ],
)
def test_what_cannot_be_read_says_why(
    write: Write, files: dict[str, str | bytes], path: str, options: dict[str, Any], message: str
) -> None:
    root = write(files)
    with pytest.raises(DataError, match=message):
        read_preferences(root / path, **options)


def test_a_data_set_has_a_name_or_a_column_and_rows() -> None:
    for options, message in (({}, "got neither"), ({"name": "a", "domain_column": "b"}, "got both")):
        with pytest.raises(DataError, match=message):
            preferences_from_dataset([GOOD], **options)
    for rows, message in ((["a"], "a:1: .*got a str"), ("a", "got a str"), (None, "got a NoneType"), ([], "no rows")):
        with pytest.raises(DataError, match=message):
            preferences_from_dataset(rows, name="a")
    with pytest.raises(DataError, match=r"this data set has dev, test\."):
        preferences_from_dataset({"dev": [GOOD], "test": [GOOD]}, name="a")


def test_of_very_many_columns_some_are_named() -> None:
    row = {f"column {n} \ud800 {'x' * 1000}": n for n in range(1000)}
    for options, named in (({"name": "a"}, "`column 19"), ({"domain_column": "b"}, "`column 19")):
        with pytest.raises(DataError, match=rf"{named} .* and 980 more") as found:
            preferences_from_dataset([row], **options)
        said_of(found.value)


def test_a_huge_line_is_read(write: Write) -> None:
    row = {"chosen": "word " * 400_000 + "good", "rejected": "word " * 400_000 + "bad"}
    (domain,) = read_preferences(write({"a.jsonl": json.dumps(row)}))
    assert (len(domain.pairs[0].prompt), domain.pairs[0].chosen) == (5 * 400_000 - 1, " good")


def test_preferences_are_told_from_texts(write: Write, tmp_path: Path) -> None:
    for form, rows in FORMS.items():
        for suffix in (".jsonl", ".csv", ".parquet"):
            assert holds_preferences(write_rows(tmp_path / form / f"a{suffix}", rows)), (form, suffix)
    texts: list[dict[str, Any]] = [
        {"text": "a", "label": True},
        {"prompt": "a", "completion": "b"},
        {"prompt": "a", "completion": "b", "label": "sport"},
        {"prompt": "a", "completion": "b", "rating": "good"},
        {"messages": answer("b"), "rejected": False},
        {"body": "a"},
    ]
    for row in texts:
        assert not holds_preferences(write({"a.jsonl": json.dumps(row)})), row
        assert not holds_preferences(write({"a.jsonl": "", "b.txt": "a"}))
    renamed = write({"a.jsonl": json.dumps({"better": "a b", "worse": "a c"})})
    (renamed / "b.txt").unlink()
    assert holds_preferences(renamed, columns={"chosen": "better", "rejected": "worse"})
    assert holds_preferences(renamed, columns={"chosen": "better"})


def test_a_folder_of_texts_and_preferences_is_refused(write: Write) -> None:
    root = write({"law/a.jsonl": json.dumps(GOOD), "code/b.txt": "x"})
    with pytest.raises(DataError, match=r"b\.txt has texts and .*a\.jsonl has preferences"):
        holds_preferences(root)


def test_texts_are_read_beside_kinds_of_preferences(write: Write) -> None:
    listed = {"domains": {"law": [{"name": "court"}]}, "kinds": {"law": "synthetic"}}
    (law,) = read_domains(write({"law.txt": "a", "sources.json": json.dumps(listed)}))
    assert law.sources == (Source("court"),)


def test_a_corpus_keeps_the_order_of_files(tmp_path: Path) -> None:
    for name in "bca":
        write_rows(tmp_path / f"{name}.jsonl", FORMS["explicit"])
    corpus: PairCorpus = read_preferences(tmp_path)
    assert corpus.names == ("a", "b", "c")
