"""What the experiment on a library of private experts is made of: settings, who learns what, and mixed windows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from collegium.claims.small_growth import some_rows
from collegium.claims.small_setup import Materials, SmallSettings
from collegium.core.errors import DataError
from collegium.data import Document
from collegium.infer import HeldOut

_SIZES = SmallSettings(steps=12, rates=(2e-3,), pool=48, eval_tokens=1536, dev_tokens=384, scoring_batch=8)


@dataclass(frozen=True)
class PrivateSettings:
    """Sizes of the experiment; every method is given the same.

    sizes:   as in the small experiment, with one learning rate: the one that all of its families chose.
    parts:   private experts of a domain. top_k: experts that keep weight at a token of a layer, under every gate.
    gate_steps:  of the gates of one expert; a gate that is fitted for all takes as many times as there are experts.
    gate_tokens: of an expert's documents that a fit of gates may read.
    searches:    evaluations of one search of weights; search_windows: of each domain, when all are searched for.
    drawn:   random assignments that clusters are compared with.
    """

    sizes: SmallSettings = _SIZES
    parts: int = 3
    top_k: int = 3
    gate_steps: int = 6
    gate_tokens: int = 4096
    searches: int = 28
    search_windows: int = 2
    drawn: int = 1000

    @property
    def middle(self) -> int:
        """Where a mixed window changes its domain: half way through what is scored."""
        return (self.sizes.context + self.sizes.window) // 2


def private_names(domain: str, parts: int) -> tuple[str, ...]:
    """Return the names of a domain's private experts."""
    return tuple(f"{domain}-{part}" for part in range(parts))


def family_of(expert: str) -> str:
    """Return the domain of a private expert.

    >>> family_of("drama-2")
    'drama'
    """
    return expert.rpartition("-")[0]


def own_passages(found: Materials, expert: str, parts: int) -> tuple[Document, ...]:
    """Return the passages of one private expert: one of equal runs of its domain's, which share none."""
    domain, part = family_of(expert), int(expert.rpartition("-")[2])
    passages = found.passages[domain]
    many = len(passages) // parts
    if not many:
        raise DataError(f"domain {domain!r} has {len(passages)} passages, too few for {parts} private experts.")
    return passages[part * many : (part + 1) * many]


def judged_text(found: Materials, domains: Sequence[str], unseen: Sequence[str], *, middle: int) -> HeldOut:
    """Return the held-out windows of all domains, and one mixed window for each ordered pair of those trained on."""
    kept = (*domains, *unseen)
    own = some_rows(found.text, [row for row, domain in enumerate(found.text.domains) if domain in kept])
    return _joined(own, mixed_windows(own, domains, middle=middle))


def mixed_name(first: str, second: str) -> str:
    """Return the domain that a window of two domains is scored under."""
    return f"{first}+{second}"


def pairs(domains: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return every ordered pair of two domains."""
    return tuple((first, second) for first in domains for second in domains if first != second)


def mixed_windows(text: HeldOut, domains: Sequence[str], *, middle: int) -> HeldOut:
    """Return windows that begin in one domain and go on in another from position `middle` on, one for each pair.

    They are cut from windows of the text, the longest first; raises DataError for a domain whose windows are too short.
    """
    order = text.lengths.argsort(descending=True, stable=True)
    order = order[text.lengths[order] > middle]
    rows = {domain: order[text.of(domain)[order]].tolist() for domain in domains}
    empty = [domain for domain in domains if not rows[domain]]
    if empty:
        raise DataError(f"{', '.join(empty)}: no held-out window has over {middle} tokens; give longer documents.")
    chosen = [
        (rows[first][number % len(rows[first])], rows[second][number % len(rows[second])])
        for number, (first, second) in enumerate(pairs(domains))
    ]
    before, after = (torch.tensor(each) for each in zip(*chosen, strict=True))

    def halves(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values[before, :middle], values[after, middle:]], dim=1)

    return HeldOut(
        halves(text.tokens),
        text.lengths[after],
        halves(text.counted),
        halves(text.bytes),
        text.context[before],
        tuple(mixed_name(first, second) for first, second in pairs(domains)),
    )


def _joined(first: HeldOut, second: HeldOut) -> HeldOut:
    return HeldOut(
        torch.cat([first.tokens, second.tokens]),
        torch.cat([first.lengths, second.lengths]),
        torch.cat([first.counted, second.counted]),
        torch.cat([first.bytes, second.bytes]),
        torch.cat([first.context, second.context]),
        (*first.domains, *second.domains),
    )
