"""Folders and files of every allowed form are read; everything else says what is wrong and what to do."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collegium.core.cards import Source
from collegium.core.errors import DataError
from collegium.data import Corpus, read_domains
from collegium.data.texts import cut_at_blank_lines

Write = Callable[[dict[str, str | bytes]], Path]
PARAGRAPH = "A sentence of the law that goes on for a while. " * 25


def plain(corpus: Corpus) -> dict[str, list[str]]:
    return {domain.name: [document.plain for document in domain.documents] for domain in corpus}


def test_a_folder_is_a_domain_with_a_document_a_file(write: Write) -> None:
    root = write({"law/a.txt": "one", "law/deep/b.py": "two", "law/.git/c": "no", ".hidden.txt": "no", "code/x": "y"})
    assert plain(read_domains(root)) == {"code": ["y"], "law": ["one", "two"]}


def test_every_kind_of_file_is_a_domain(write: Write, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"text": "one"}, {"text": "two\nlines"}]
    root = write(
        {
            "a.txt": "one",
            "b.md": "# one",
            "c.jsonl": "\n".join(map(json.dumps, rows)) + "\n\n",
            "d.csv": 'text,id\none,1\n"two\nlines",2\n',
            "f/rows.JSONL": json.dumps(rows[0]),
        }
    )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "e.parquet")
    both = ["one", "two\nlines"]
    assert plain(read_domains(root)) == {"a": ["one"], "b": ["# one"], "c": both, "d": both, "e": both, "f": ["one"]}
    assert plain(read_domains(root / "d.csv")) == {"d": both}
    assert plain(read_domains(str(root / "f"))) == {"rows": ["one"]}


def test_rows_may_be_pairs_and_chats(write: Write) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    listed = json.dumps(messages).replace('"', '""')
    root = write(
        {
            "pairs.jsonl": json.dumps({"prompt": "2+2=", "completion": "4", "id": 7}),
            "chats.jsonl": json.dumps({"messages": messages}),
            "table.csv": f'messages\n"{listed}"\n',
        }
    )
    corpus = read_domains(root)
    (pair,), (chat,), (same) = (corpus[name].documents for name in ("pairs", "chats", "table"))
    assert (pair.kind, pair.prompt, pair.completion) == ("pair", "2+2=", "4")
    assert (chat.kind, chat.plain) == ("chat", "hi\nho")
    assert same == (chat,)


def test_columns_are_renamed(write: Write) -> None:
    root = write({"a.jsonl": json.dumps({"body": "mine", "text": "not this"}), "b.csv": "body\nhers\n"})
    assert plain(read_domains(root, columns={"text": "body"})) == {"a": ["mine"], "b": ["hers"]}


def test_copies_and_empty_documents_are_left_out_and_counted(write: Write) -> None:
    root = write({"law/1": "same", "law/2": "same", "law/3": "other", "law/4": " \n", "rows.csv": 'text\na\n""\na\n'})
    law, rows = read_domains(root)
    assert (law.duplicates, law.empty, len(law.documents)) == (1, 1, 2)
    assert (rows.duplicates, rows.empty, len(rows.documents)) == (1, 1, 1)
    assert law.documents[0].origin.endswith("law/1")


def test_pairs_without_a_prompt_or_a_completion_are_left_out_and_counted(write: Write) -> None:
    pairs = [("2+2=", "4"), ("", "4"), (" ", "5"), ("3+3=", "")]
    rows = [json.dumps({"prompt": prompt, "completion": completion}) for prompt, completion in pairs]
    (domain,) = read_domains(write({"sums.jsonl": "\n".join(rows)}))
    assert (domain.empty, [document.prompt for document in domain.documents]) == (3, ["2+2="])


def test_line_breaks_of_other_systems_and_a_byte_order_mark_change_nothing(write: Write) -> None:
    root = write({"a.txt": b"one\ntwo", "b.txt": b"\xef\xbb\xbfone\r\ntwo", "c.txt": b"one\rtwo"})
    a, b, c = (domain.documents[0].hash for domain in read_domains(root))
    assert a == b == c


def test_sources_are_picked_up(write: Write) -> None:
    listed = {"domains": {"law": [{"name": "court", "licence": "CC0", "digest": "ab"}]}}
    law, other = read_domains(write({"law.txt": "a", "other.txt": "b", "sources.json": json.dumps(listed)}))
    assert law.sources == (Source("court", "CC0", "ab"),)
    assert other.sources == ()


def no_minimum(text: str) -> list[str]:
    """The broken cut: every blank line begins a document."""
    return [piece for piece in text.split("\n\n") if piece.strip()]


def cuts_well(cut: Callable[[str], list[str]]) -> bool:
    """Whether nothing is lost, all documents are long enough, and none could have been shorter."""
    text = "\n \n\n".join(f"{number} {PARAGRAPH}" for number in range(9)) + "\n\nshort end\n"
    pieces = cut(text)
    kept = "".join(pieces).split() == text.split()
    return kept and len(pieces) == 4 and all(len(piece) >= 2000 for piece in pieces)


def test_a_long_text_is_cut_at_blank_lines() -> None:
    assert cuts_well(cut_at_blank_lines)
    assert not cuts_well(no_minimum)


@given(st.lists(st.sampled_from(["ab", "\n\n", "\n", " ", "c"]), max_size=40), st.integers(1, 6))
def test_cutting_loses_no_character_but_blank_lines(parts: list[str], minimum: int) -> None:
    text = "".join(parts)
    pieces = cut_at_blank_lines(text, minimum=minimum)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(len(piece.strip()) >= minimum for piece in pieces) or len(pieces) == 1


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        ({"a.txt": "x"}, "nowhere", r"nowhere does not exist"),
        ({".keep": ""}, ".", r"is empty; a domain is a sub-folder or one \.txt.* or \.parquet file"),
        ({"law.txt": ""}, ".", r"law\.txt is empty"),
        ({"law.txt": " \n"}, "law.txt", r"law\.txt is empty"),
        ({"law.csv": ""}, ".", r"law\.csv is empty"),
        ({"law/a": ""}, ".", r"law holds no text"),
        ({"law.txt": b"PK\x03\x04\x00\x00"}, ".", r"byte 4 is zero.*binary"),
        (
            {"law.txt": b"a line\ncaf\xe9 ol\xe9"},
            ".",
            r"byte 10 \(line 2\) is 0xe9.*iconv -f WINDOWS-1252 -t UTF-8",
        ),
        ({"law.txt": b"caf\xe9 \x81"}, ".", r"ISO-8859-1"),
        ({"law.txt": "a".encode("utf-16")}, ".", r"mark of UTF-16"),
        ({"law/a.txt": b"\xe9"}, ".", r"law/a\.txt.*byte 0"),
        ({"law.txt": "a", "law/a": "b"}, ".", r"law and law\.txt are both 'law'"),
        ({"law.md": "a", "law.txt": "b"}, ".", r"law\.md and law\.txt are both 'law'"),
        ({"base.txt": "a"}, ".", r"'base'.*another"),
        ({"two words.txt": "a"}, ".", r"'two words'"),
        ({"law.docx": "a"}, ".", r"law\.docx.*is \.txt.*got '\.docx'"),
        ({"law": "a"}, ".", r"got 'no suffix'"),
        (
            {"law.jsonl": '{"text": "a"}\n{"text": oops}\n'},
            ".",
            r"law\.jsonl:2: .*Expecting value at character 10",
        ),
        ({"law.jsonl": '{"text": "a"}\n["a"]\n'}, ".", r"law\.jsonl:2: .*got a list"),
        (
            {"law.jsonl": '{"body": "a", "id": 1}\n'},
            ".",
            r"law\.jsonl:1: .*`text`; .*`body`, `id`.*--columns",
        ),
        ({"law.jsonl": '{"text": "a\\ud800"}\n'}, ".", r"law\.jsonl:1: .*half of a surrogate pair"),
        ({"law.jsonl": '{"text": 3}\n'}, ".", r"law\.jsonl:1: `text` holds text, got a int"),
        ({"law.jsonl": "[" * 200_000}, ".", r"law\.jsonl:1: .*one JSON object, .*recursion"),
        ({"law.jsonl": '{"text": "a", "id": ' + "1" * 5000 + "}"}, ".", r"law\.jsonl:1: .*JSON object, .*5000 digits"),
        ({"law.csv": "messages\n" + "[" * 200_000}, ".", r"law\.csv:1: `messages`.*a JSON list, .*recursion"),
        (
            {"law.jsonl": '{"messages": [{"role": "\\ud800", "content": "a"}, {"role": "assistant", "content": "b"}]}'},
            ".",
            r"law\.jsonl:1: .*half of a surrogate pair",
        ),
        ({"law.csv": 'text\n"a\n'}, ".", r"law\.csv: a csv file has each double quote"),
        ({"law.csv": "text\na,b\nc,d\n"}, ".", r"law\.csv: a csv file has.*Expected 1 columns, got 2"),
        ({"law.csv": "body\na\n"}, ".", r"law\.csv:1: .*this one has `body`"),
        ({"law.parquet": b"PAR1 cut"}, ".", r"not a whole parquet file"),
        ({"law.jsonl": '{"messages": [{"role": "user"}]}'}, ".", r"law\.jsonl:1: each message is"),
        ({"law.jsonl": '{"messages": [{"role": "user", "content": "a"}]}'}, ".", r"no role is `assistant`"),
        ({"law.csv": "messages\nhello\n"}, ".", r"law\.csv:1: `messages` in a csv file is a JSON list"),
        ({"law.txt": "a", "sources.json": "[]"}, ".", r"sources\.json says where"),
    ],
)
def test_what_cannot_be_read_says_why(write: Write, files: dict[str, str | bytes], path: str, message: str) -> None:
    root = write(files)
    with pytest.raises(DataError, match=message):
        read_domains(root / path)


def write_parquet(path: Path, columns: dict[str, Any]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def wrongly_encoded() -> Any:
    """Return a column of texts whose second is Latin-1."""
    import pyarrow

    content = pyarrow.array([b"good", b"caf\xe9 hello"], pyarrow.binary())
    return pyarrow.StringArray.from_buffers(2, *content.buffers()[1:])


def test_of_a_parquet_file_only_our_columns_are_read(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "law.parquet", {"note": wrongly_encoded(), "body": ["one", "two"]})
    assert plain(read_domains(path, columns={"text": "body"})) == {"law": ["one", "two"]}
    with pytest.raises(DataError, match=r"law\.parquet:1: .*`text`; this one has `note`, `body`"):
        read_domains(path)


def test_a_parquet_row_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "law.parquet", {"text": wrongly_encoded()})
    with pytest.raises(DataError, match=r"law\.parquet:2: .*can't decode byte 0xe9.*UTF-8"):
        read_domains(path)


@pytest.mark.parametrize("name", ["law/pipe", "law.txt", "law.jsonl"])
def test_a_pipe_is_refused_and_not_waited_for(write: Write, name: str) -> None:
    root = write({"code/a": "x"})
    (root / name).parent.mkdir(exist_ok=True)
    os.mkfifo(root / name)
    with pytest.raises(DataError, match=f"{name} must be a plain file"):
        read_domains(root)


def test_columns_that_are_not_ours_name_the_nearest(write: Write) -> None:
    with pytest.raises(DataError, match=r"got 'txt'\. Did you mean 'text'"):
        read_domains(write({"a.txt": "x"}), columns={"txt": "body"})


def test_links_in_a_circle_and_into_nowhere_are_named(write: Write) -> None:
    root = write({"law/a": "x"})
    (root / "law" / "again").symlink_to(root / "law")
    with pytest.raises(DataError, match="again is a link back"):
        read_domains(root)
    (root / "law" / "again").unlink()
    (root / "law" / "gone").symlink_to(root / "nothing")
    with pytest.raises(DataError, match="link to a file that does not exist"):
        read_domains(root)


def test_a_link_to_a_folder_elsewhere_is_followed(write: Write, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a").write_text("x")
    root = write({"law/b": "y"})
    (root / "code").symlink_to(tmp_path / "elsewhere")
    assert plain(read_domains(root)) == {"code": ["x"], "law": ["y"]}


def test_a_one_line_file_is_read_but_cannot_be_split(write: Write) -> None:
    (domain,) = read_domains(write({"law.txt": "One line."}))
    with pytest.raises(DataError, match="'law' has 1 document; at least 3"):
        domain.split()
