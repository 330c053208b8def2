"""The texts of both sides: the same documents to learn from and to choose by, the same excerpts to judge by."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from settings import Settings

import collegium as cg
from collegium.core.protocols import Tokenizer

MOST_DOCUMENTS = 8


@dataclass(frozen=True)
class Prepared:
    """Where texts lie, and what speed is measured on: a window and a prompt of each domain.

    texts: as Collegium reads them, which splits them itself; data: the same split, as files for the peer.
    """

    texts: Path
    data: Path
    held_out: Path
    windows: tuple[tuple[int, ...], ...]
    prompts: tuple[str, ...]
    train_documents: dict[str, int]


def prepare(texts: Path, folder: Path, tokenizer: Tokenizer, *, settings: Settings, tokens: int) -> Prepared:
    """Return both sides' texts, written under `folder`.

    Held-out excerpts lie in the middle of documents that Collegium's split calls test, `tokens` a domain.
    """
    held_out, windows, prompts, counts = folder / "held-out", [], [], {}
    corpus = cg.read_domains(texts)
    for domain in corpus:
        split = domain.split()
        counts[domain.name] = len(split.train)
        write_texts(folder / "data" / "train" / f"{domain.name}.jsonl", [each.plain for each in split.train])
        write_texts(folder / "data" / "dev" / f"{domain.name}.jsonl", [each.plain for each in split.dev])
        chosen = excerpts([each.plain for each in split.test], tokenizer, window=settings.window, tokens=tokens)
        write_texts(held_out / f"{domain.name}.jsonl", chosen)
        window = tokenizer.encode(max(chosen, key=len))[: settings.window]
        windows.append(tuple(window))
        prompts.append(tokenizer.decode(window[: settings.context]))
    return Prepared(texts, folder / "data", held_out, tuple(windows), tuple(prompts), counts)


def excerpts(texts: Sequence[str], tokenizer: Tokenizer, *, window: int, tokens: int) -> list[str]:
    """Return stretches from the middle of the longest texts, whole windows as far as they go, about `tokens` in all."""
    longest = sorted(texts, key=len, reverse=True)[:MOST_DOCUMENTS]
    each = max(1, tokens // (len(longest) * window)) * window
    return [excerpt(text, tokenizer, window=window, tokens=each) for text in longest]


def excerpt(text: str, tokenizer: Tokenizer, *, window: int, tokens: int) -> str:
    """Return a stretch of a text, never of one token more than whole windows: nothing would predict that token."""
    read = tokenizer.encode(text)
    start = max(0, (len(read) - tokens) // 2)
    for end in range(start + tokens, start, -1):
        found = tokenizer.decode(read[start:end])
        if len(tokenizer.encode(found)) % window != 1:
            return found
    raise ValueError(f"no stretch of {text!r:.40} has another length than whole windows and one token.")


def write_texts(path: Path, texts: Sequence[str]) -> None:
    """Write texts as jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
