"""Domains of pairs written as a folder: one `DOMAIN.jsonl` each, and `sources.json`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from collegium.core.files import write_new
from collegium.data.preferences import Pair, PairCorpus, Text
from collegium.data.reading import SOURCES_FILE


def fill_folder(aside: Path, corpus: PairCorpus, *, asked: Mapping[str, Any]) -> None:
    """Write the domains into a staging folder: rows of prompt, chosen, rejected and, where known, margin and group.

    `sources.json` says where each domain comes from, what kind its preferences are, and what was asked for.
    """
    for domain in corpus:
        write_new(aside / f"{domain.name}.jsonl", _lines(domain.pairs).encode())
    listed = {
        "domains": {domain.name: [asdict(source) for source in domain.sources] for domain in corpus},
        "kinds": {domain.name: domain.kind for domain in corpus},
        "asked": asked,
    }
    write_new(aside / SOURCES_FILE, (json.dumps(listed, indent=2) + "\n").encode())


def _lines(pairs: Sequence[Pair]) -> str:
    return "".join(json.dumps(_row(each), ensure_ascii=False) + "\n" for each in pairs)


def _row(pair: Pair) -> dict[str, Any]:
    row: dict[str, Any] = {name: _value(getattr(pair, name)) for name in ("prompt", "chosen", "rejected")}
    return (
        row | ({} if pair.margin is None else {"margin": pair.margin}) | ({"group": pair.group} if pair.group else {})
    )


def _value(text: Text) -> Any:  # noqa: ANN401 - what JSON holds
    return text if isinstance(text, str) else [asdict(each) for each in text]
