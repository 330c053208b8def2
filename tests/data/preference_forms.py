"""Every form of preferences as rows, written to every kind of file."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from collegium.core.errors import DataError
from collegium.data import Pair

Write = Callable[[dict[str, str | bytes]], Path]
Row = Mapping[str, Any]


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def user(content: str) -> list[dict[str, str]]:
    return [turn("user", content)]


def answer(content: str) -> list[dict[str, str]]:
    return [turn("assistant", content)]


FORMS: dict[str, list[dict[str, Any]]] = {
    "explicit": [{"prompt": f"{n}+1=", "chosen": f"{n + 1}", "rejected": "no, none"} for n in range(3)],
    "implicit": [{"chosen": f"{n}+1 is {n + 1}", "rejected": f"{n}+1 is none"} for n in range(3)],
    "chats": [{"prompt": user(f"{n}+1?"), "chosen": answer(f"{n + 1}"), "rejected": answer("no")} for n in range(3)],
    "implicit chats": [
        {"chosen": user(f"{n}+1?") + answer(f"{n + 1}"), "rejected": user(f"{n}+1?") + answer("no")} for n in range(3)
    ],
    "labels": [{"prompt": f"{n}+1=", "completion": f"{n + k}", "label": k == 1} for n in range(3) for k in (1, 2)],
    "chats with labels": [
        {"prompt": user(f"{n}?"), "completion": answer(f"{n + k}"), "label": k == 1} for n in range(3) for k in (1, 2)
    ],
    "ratings": [{"prompt": f"{n}+1=", "completion": f"{n + k}", "rating": 4.5 / k} for n in range(3) for k in (1, 2)],
    "extras": [
        {"prompt": "1", "chosen": 'a "quoted", one', "rejected": "b\nc", "margin": 0.5, "group": "chat 1"},
        {"prompt": "2", "chosen": "a", "rejected": "b", "margin": None, "group": None},
    ],
}


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows as the suffix says."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    else:
        spelled = [{name: as_cell(value) for name, value in row.items()} for row in rows]
        pyarrow.csv.write_csv(pyarrow.Table.from_pylist(spelled), path)
    return path


def as_cell(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def said(pairs: Sequence[Pair]) -> list[tuple[object, ...]]:
    return [(each.prompt, each.chosen, each.rejected, each.margin, each.group) for each in pairs]


def said_of(error: DataError) -> None:
    """Check that a message can be shown."""
    assert len(str(error).encode()) < 2000
