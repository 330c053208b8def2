"""An expert that comes and goes: answers before and after, changed files, seconds."""

import hashlib
import time
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.claims.small_setup import domain_prefix
from collegium.compose import Choice, Voices, ensemble
from collegium.core.errors import DataError
from collegium.core.protocols import RouterRecipe
from collegium.infer import HeldOut
from collegium.library import Library
from collegium.models import Base
from collegium.routers import posterior


def some_rows(text: HeldOut, rows: Sequence[int]) -> HeldOut:
    """Return these windows of the text alone."""
    kept = list(rows)
    return HeldOut(
        text.tokens[kept],
        text.lengths[kept],
        text.counted[kept],
        text.bytes[kept],
        text.context[kept],
        tuple(text.domains[row] for row in kept),
    )


def first_of_each(text: HeldOut, domains: Sequence[str]) -> HeldOut:
    """Return the first window of each of these domains."""
    return some_rows(text, [text.domains.index(domain) for domain in domains])


def answers(
    base: Base, library: Library, text: HeldOut, *, router: RouterRecipe | None = None
) -> Float[Tensor, "window seq"]:
    """Return an ensemble's scores (default: the posterior's), the library composed anew."""
    return ensemble(base, library, router=router or posterior()).score(text.tokens, lengths=text.lengths)


def same_answers(before: Float[Tensor, "window seq"], after: Float[Tensor, "window seq"]) -> float:
    """Return the largest difference of two runs' scores."""
    return float((before - after).abs().max())


def digests(library: Library) -> dict[str, str]:
    """Return the sha256 of every file of every expert."""
    files = sorted(path for path in (library.path / "experts").rglob("*") if path.is_file())
    return {str(path.relative_to(library.path)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that something took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def token_scores(
    voices: Voices, text: HeldOut, domains: Sequence[str], *, batch: int, voice: str = "dense-token"
) -> Float[Tensor, "window seq"]:
    """Return the scores of the model that is told the domain, of the same tokens; 0 for domains it has no token of.

    The token is read before the window and not scored.
    """
    if voices.tokenizer is None:
        raise DataError("a domain token is text, and this base has no tokenizer.")
    scores = torch.zeros(text.tokens.shape)
    for domain in domains:
        prefix = torch.tensor(voices.tokenizer.encode(domain_prefix(domain)))
        for rows in torch.nonzero(text.of(domain)).flatten().split(batch):
            tokens = torch.cat([prefix.expand(len(rows), -1), text.tokens[rows]], dim=1)
            found = voices.score(tokens, Choice((voice,)), lengths=text.lengths[rows] + len(prefix))
            scores[rows] = found[:, len(prefix) :, 0].float().cpu()
    return scores
