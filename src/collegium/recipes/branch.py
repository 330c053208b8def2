"""Where a new expert begins, as the posterior on its domain's dev text says.

Whole models branch from the posterior-weighted average of earlier ones  [Branch-Train-Merge, li2022btm]; a small expert
is a copy of the one with the highest posterior  [DEMix-DAPT, gururangan2022demix].
"""

from collections.abc import Sequence

from collegium.compose import Choice, SeparateVoices, SlotVoices, Voices, attach_expert
from collegium.core.errors import LibraryError
from collegium.data import Domain, cut
from collegium.experts import Branch, Expert, open_whole
from collegium.experts.recipe import AdapterKind
from collegium.infer import held_out
from collegium.library import Library
from collegium.models import Base
from collegium.recipes.building.parts import Parts
from collegium.recipes.watch import Watch
from collegium.routers import average_posterior

PRIOR_WINDOWS = 16
"""Dev windows the weights of a branch are estimated on."""
FRESH, NEAREST = "base", "nearest"
"""What `--from` can say besides the name of an expert."""


def branch_weights(base: Base, parents: Sequence[Expert], domain: Domain, *, window: int) -> dict[str, float]:
    """Return each parent's average posterior on a domain's dev text: the weights of a new branch."""
    return _shares(SeparateVoices({parent.name: open_whole(parent, base) for parent in parents}), base, domain, window)


def posterior_of(base: Base, experts: Sequence[Expert], domain: Domain, *, window: int) -> dict[str, float]:
    """Return each small expert's average posterior on a domain's dev text."""
    return _shares(SlotVoices(base, {each.name: attach_expert(base, each) for each in experts}), base, domain, window)


def _shares(voices: Voices, base: Base, domain: Domain, window: int) -> dict[str, float]:
    windows = cut(domain.split().dev, base.tokenizer, window=window, budget_tokens=PRIOR_WINDOWS * window)
    text = held_out({domain.name: windows}, context=1)
    scores = voices.score(text.tokens, Choice(voices.names), lengths=text.lengths)
    shares = average_posterior(scores.float().cpu().sum(1))
    return dict(zip(voices.names, shares.tolist(), strict=True))


def branch_of(base: Base, parents: Sequence[Expert], domain: Domain, *, window: int, watch: Watch) -> Branch:
    """Return where a domain's whole model begins, and say it: at its parents, at the base when there are none."""
    if not parents:
        return Branch()
    weights = branch_weights(base, parents, domain, window=window)
    told = ", ".join(f"{share:.2f} {name}" for name, share in weights.items())
    watch.say(f"{domain.name}: branches from {told} (average posterior on its dev text)")
    return Branch(tuple(parents), weights)


def nearest_expert(
    base: Base, library: Library, domain: Domain, *, kind: AdapterKind, window: int, watch: Watch
) -> str:
    """Return the expert of a kind with the highest posterior on a domain's dev text, and say it.

    Raises LibraryError when the library has none of that kind.
    """
    cards = {name: library.card(name) for name in library.names(task="language")}
    names = [name for name, card in cards.items() if card.kind == kind and name != domain.name and not card.context]
    if not names:
        there = ", ".join(sorted({card.kind for card in cards.values()})) or "no experts at all"
        raise LibraryError(
            f"--from nearest copies an expert of kind {kind!r}, and {library.path} has none to copy; it has: {there}. "
            "Give --kind as theirs, or leave --from out."
        )
    shares = posterior_of(base, [library[name] for name in names], domain, window=window)
    told = ", ".join(f"{share:.2f} {name}" for name, share in shares.items())
    watch.say(f"{domain.name}: nearest by average posterior on its dev text ({told})")
    return max(shares, key=lambda name: shares[name])


def begin_of(
    start: str,
    base: Base,
    library: Library,
    domain: Domain,
    *,
    kind: AdapterKind,
    window: int,
    parts: Parts,
    watch: Watch,
) -> Expert | None:
    """Return the expert whose copy a domain's small expert begins with, None for fresh weights.

    start: `base`, `nearest`, or the name of an expert; which one was the nearest is remembered in `parts`.
    """
    if start == FRESH:
        return None
    if start != NEAREST:
        return library[start]
    inputs = [kind, window, base.fingerprint.short, str(base.dtype), domain.split().hashes]

    def find() -> str:
        return nearest_expert(base, library, domain, kind=kind, window=window, watch=watch)

    return library[parts.values(f"from-{domain.name}", inputs=inputs, compute=find)]
