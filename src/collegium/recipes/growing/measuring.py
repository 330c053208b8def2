"""What a library's default composition makes of every domain, before it grows and after."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.compose import SeparateVoices, Voices, assemble
from collegium.core.routing import BASE
from collegium.data import Document, Domain
from collegium.infer import HeldOut, TokenTable, ensemble_scores, fill_table, nats_per_token
from collegium.library import Library
from collegium.models import Base
from collegium.recipes.growing.deciding import Reading, speakers
from collegium.recipes.held_out import seen_hashes, windows_of
from collegium.routers import cached_sequences, default


def judged_text(
    base: Base, library: Library, domains: Mapping[str, Domain], *, reading: Reading
) -> tuple[HeldOut | None, dict[str, str]]:
    """Return held-out text of every domain that there is any of, and where each one's is from.

    `test`: documents that no expert lists, of the texts at hand. `remembered`: for an expert without texts, the dev
    windows of it that the cached prior keeps in the library.
    """
    seen = seen_hashes(library)
    kept = {name: _unseen(domain, seen) for name, domain in domains.items()}
    kept = {name: documents for name, documents in kept.items() if documents}
    told = dict.fromkeys(kept, "test")
    parts = []
    if kept:
        parts.append(
            windows_of(
                kept,
                base.tokenizer,
                window=reading.window,
                context=reading.context,
                budget_tokens=reading.tokens,
            )
        )
    remembered = _remembered(library, without=frozenset(domains), context=reading.context)
    if remembered is not None:
        parts.append(remembered)
        told |= dict.fromkeys(remembered.domain_names, "remembered")
    return (_stacked(parts) if parts else None), told


def _unseen(domain: Domain, seen: frozenset[str]) -> tuple[Document, ...]:
    return tuple(document for document in domain.split().test if document.hash not in seen)


def _remembered(library: Library, *, without: frozenset[str], context: int) -> HeldOut | None:
    """Return the windows of the cached prior's texts that are of other domains, None where it keeps none."""
    if "cached_prior" not in library.router_names():
        return None
    if "tokens" not in library.load_router("cached_prior")[0]:
        return None
    found = cached_sequences(library)
    place = torch.arange(found.tokens.shape[1])
    counted = (place >= max(context, 1)) & (place < found.lengths[:, None])
    chosen = [row for row, name in enumerate(found.domains) if name not in without and bool(counted[row].any())]
    if not chosen:
        return None
    rows = torch.tensor(chosen)
    return HeldOut(
        found.tokens[rows],
        found.lengths[rows],
        counted[rows],
        counted[rows].long(),
        torch.full((len(chosen),), max(context, 1)),
        tuple(found.domains[row] for row in chosen),
    )


def _stacked(parts: list[HeldOut]) -> HeldOut:
    """Return windows under each other, padded to the widest."""
    width = max(part.tokens.shape[1] for part in parts)

    def wide(tensors: list[Tensor]) -> Tensor:
        return torch.cat([torch.nn.functional.pad(each, (0, width - each.shape[1])) for each in tensors])

    return HeldOut(
        wide([part.tokens for part in parts]),
        torch.cat([part.lengths for part in parts]),
        wide([part.counted for part in parts]),
        wide([part.bytes for part in parts]),
        torch.cat([part.context for part in parts]),
        tuple(name for part in parts for name in part.domains),
    )


class Judge:
    """Perplexities of the default ensemble; what an expert said of the text once is not computed again."""

    def __init__(self, base: Base, text: HeldOut) -> None:
        """Keep the text; nothing is known yet."""
        self.base, self.text = base, text
        self._known: dict[str, Float[Tensor, "window seq"]] = {}

    def perplexities(self, library: Library | None) -> dict[str, float]:
        """Return those of a library as it is now, by domain; None, or one without experts, stands for the base."""
        if library is None or not speakers(library):
            self._read(SeparateVoices({BASE: self.base}), {BASE: BASE})
            return self._by_domain(self._known[BASE])
        cast = assemble(self.base, library)
        keys = {BASE: BASE, **{name: f"{name}@{library.expert_digest(name)}" for name in cast.names}}
        self._read(cast.voices(), keys)
        table = TokenTable(self.text, tuple(keys), torch.stack([self._known[key] for key in keys.values()], dim=-1))
        router = default().bind(cast.names, shelf=library, tokenizer=self.base.tokenizer)
        return self._by_domain(ensemble_scores(table, router, tokenizer=self.base.tokenizer)[0])

    def _read(self, voices: Voices, keys: Mapping[str, str]) -> None:
        missing = [name for name, key in keys.items() if key not in self._known]
        if missing:
            table = fill_table(voices, self.text, missing)
            self._known |= {keys[name]: table.column(name) for name in missing}

    def _by_domain(self, scores: Float[Tensor, "window seq"]) -> dict[str, float]:
        return {name: math.exp(nats_per_token(scores, self.text, name)) for name in self.text.domain_names}
