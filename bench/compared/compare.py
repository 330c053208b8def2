"""Both sides on the same texts, taking turns: quality, minutes, milliseconds, memory, lines. Writes result.json.

python bench/compared/compare.py [--help]
"""

import json
import os
import shlex
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import tyro
from contest import OURS, PEER, Contest, measure
from lines import count_lines
from settings import Settings
from side import Side
from texts import Prepared, prepare
from tyro.conf import OmitArgPrefixes

from collegium.core.machine import machine_line, today, versions
from collegium.data import pull
from collegium.models import BASES
from collegium.models.convert import fetch_pinned
from collegium.models.device import choose_device, choose_dtype
from collegium.models.sources import load_tokenizer

HERE = Path(__file__).resolve().parent
FILES = ("with_peft.py", "with_collegium.py", "with_collegium.sh")
FEWEST_DOMAINS = 3
PACKAGES = ("collegium", "torch", "transformers", "peft", "accelerate", "datasets", "scikit-learn")


@dataclass(frozen=True)
class Config:
    """Compare one LoRA per domain, a router and a loop of one's own with Collegium, side by side."""

    work: Path = Path("runs/compared")
    """Where texts, adapters and the library go; what an earlier comparison left there is taken away."""
    out: Path = HERE / "result.json"
    """The result."""
    base: str = "smollm2-135m"
    """A base by name, or a transformers folder."""
    texts: Path | None = None
    """A folder of texts, one sub-folder or file per domain; default = the demo's four domains."""
    held_out_tokens: int = 3072
    """Tokens of each domain that perplexity is measured on."""
    new_tokens: int = 16
    """Tokens that each prompt is continued by."""
    repeats: int = 3
    """How often each speed is measured, after one turn that is not counted."""
    settings: OmitArgPrefixes[Settings] = field(default_factory=lambda: Settings(dtype="auto", threads=0))
    """What both sides are told; dtype auto = the faster one here, threads 0 = all cores."""


def main(config: Config) -> None:
    """Compare, and write what was found."""
    began = time.perf_counter()
    settings = resolved(config.settings)
    for name in ("held-out", "data", "peft", "library", "checkpoints", "aside"):
        shutil.rmtree(config.work / name, ignore_errors=True)
    source = pull(config.work / "texts", progress=say) if config.texts is None else config.texts
    tokenizer = load_tokenizer(config.base)
    assert tokenizer is not None, "the comparison reads text"
    texts = prepare(source, config.work, tokenizer, settings=settings, tokens=config.held_out_tokens)
    if len(texts.train_documents) < FEWEST_DOMAINS:
        raise SystemExit(
            f"a domain is dropped, and the peer's router needs two that stay: give at least {FEWEST_DOMAINS} domains, "
            f"got {', '.join(texts.train_documents)}."
        )
    sides = opened(config, texts, settings)
    contest = Contest(sides, texts, config.work, say)
    found = measure(contest, tokenizer, new_tokens=config.new_tokens, repeats=config.repeats)
    for side in sides.values():
        side.close()
    result = {
        "date": today(),
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine_line(),
        "versions": versions(PACKAGES),
        "settings": asdict(settings),
        "lines": {name: count_lines(HERE / name) for name in FILES},
        "train_documents": texts.train_documents,
        **found,
        "seconds_in_all": time.perf_counter() - began,
    }
    config.out.write_text(json.dumps(result, indent=2) + "\n")
    say(f"{config.out}: {result['seconds_in_all'] / 60:.1f} minutes in all")


def resolved(settings: Settings) -> Settings:
    """Return the settings with this machine's dtype and threads; sets torch's own threads alike."""
    import torch

    threads = settings.threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    dtype = str(choose_dtype(settings.dtype, choose_device("cpu"))).removeprefix("torch.")
    return replace(settings, threads=threads, dtype=dtype)


def opened(config: Config, texts: Prepared, settings: Settings) -> dict[str, Side]:
    """Return both sides, each in a process of its own."""
    peer_base = str(fetch_pinned(config.base, BASES[config.base], say)) if config.base in BASES else config.base
    say("starting both sides")
    return {
        PEER: Side("with_peft", peer_base, texts.data, config.work / "peft", settings=settings),
        OURS: Side("with_collegium", config.base, texts.texts, config.work / "library", settings=settings),
    }


def say(line: str) -> None:
    """Show what is being done."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")


if __name__ == "__main__":
    main(tyro.cli(Config))
