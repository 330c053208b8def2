"""Whether an arriving domain gets an expert of its own, or extends the nearest one."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch

from collegium.compose import assemble
from collegium.core.cards import ExpertCard
from collegium.core.errors import ConfigError
from collegium.core.routing import BASE
from collegium.data import Domain
from collegium.experts import FitConfig
from collegium.experts.fit import FURTHER
from collegium.infer import fill_table, nats_per_token
from collegium.library import Library
from collegium.models import Base
from collegium.ops.posterior import posterior
from collegium.recipes.held_out import windows_of

_CANNOT = (
    "{name} cannot go on: its own texts are not at hand (--texts FOLDER with a domain named {name}), or it was not "
    "fitted on texts"
)

Policy = Literal["auto", "new", "extend"]
"""What becomes of a domain that arrives."""


@dataclass(frozen=True)
class Reading:
    """How much held-out text is read for each domain, in windows of which the first tokens are not scored."""

    tokens: int
    window: int
    context: int


@dataclass(frozen=True)
class Nearness:
    """What a library's experts make of an arriving domain's dev text.

    nearest:  the expert of the largest posterior, None where the library has none. shares: each one's posterior, the
              mean over windows that begin undecided.
    gain:     nats a token that the nearest brings against the base here. own_gain: on dev text of its own, None where
              that is not at hand.
    """

    nearest: str | None = None
    shares: Mapping[str, float] | None = None
    gain: float = 0.0
    own_gain: float | None = None

    @property
    def ratio(self) -> float | None:
        """The gain here as a share of that at home; None where either is unknown, or there is none at home."""
        return None if self.own_gain is None or self.own_gain <= 0 else self.gain / self.own_gain

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "nearest": self.nearest,
            "posterior": dict(self.shares or {}),
            "gain_nats": self.gain,
            "own_gain_nats": self.own_gain,
            "gain_ratio": self.ratio,
        }


@dataclass(frozen=True)
class Decision:
    """What is done with a domain, and why."""

    way: Literal["new", "extend"]
    reason: str


def nearness(base: Base, library: Library, domain: Domain, *, own: Mapping[str, Domain], reading: Reading) -> Nearness:
    """Return how near a library's experts are to a domain; superseded ones are not asked.

    own: texts by expert.
    """
    names = tuple(name for name in speakers(library) if name not in superseded(library))
    if not names:
        return Nearness()
    voices = assemble(base, library).voices()
    text = _dev_text(base, domain, reading)
    table = fill_table(voices, text, (BASE, *names))
    likelihood = table.columns(names).sum(1)
    shares = posterior(torch.zeros(len(names)), likelihood).exp().mean(0)
    nearest = names[int(shares.argmax())]
    gain = nats_per_token(table.column(BASE), text, domain.name) - nats_per_token(
        table.column(nearest), text, domain.name
    )
    own_gain = None
    if nearest in own:
        home = _dev_text(base, own[nearest], reading)
        found = fill_table(voices, home, (BASE, nearest))
        own_gain = nats_per_token(found.column(BASE), home, own[nearest].name) - nats_per_token(
            found.column(nearest), home, own[nearest].name
        )
    return Nearness(nearest, dict(zip(names, shares.tolist(), strict=True)), gain, own_gain)


def _dev_text(base: Base, domain: Domain, reading: Reading):  # noqa: ANN202 - held-out windows
    return windows_of(
        {domain.name: domain.split().dev},
        base.tokenizer,
        window=reading.window,
        context=reading.context,
        budget_tokens=reading.tokens,
    )


def decide(policy: Policy, near: Nearness, *, least: float, extendable: Collection[str]) -> Decision:
    """Return what becomes of a domain: under `auto` the nearest is extended where its gain is near enough to home's.

    least: how much of its gain at home. extendable: experts that were fitted on texts, and whose texts are at hand.
    Raises ConfigError where the nearest is to be extended and cannot be.

    >>> decide("auto", Nearness("law", {"law": 1.0}, gain=0.3, own_gain=0.4), least=0.5, extendable=("law",)).way
    'extend'
    >>> decide("auto", Nearness("law", {"law": 1.0}, gain=0.1, own_gain=0.4), least=0.5, extendable=("law",)).way
    'new'
    """
    nearest = near.nearest
    if policy == "new" or nearest is None:
        return Decision("new", "an expert of its own was asked for" if nearest else "the library has no expert yet")
    cannot = "" if nearest in extendable else _CANNOT.format(name=nearest)
    if policy == "extend":
        if cannot:
            raise ConfigError(f"--policy extend: {cannot}. Give them, or --policy new.")
        return Decision("extend", f"{nearest} is the nearest, and extending was asked for")
    told = f"{nearest} is the nearest and brings {near.gain:+.3f} nats a token here"
    if cannot:
        return Decision("new", f"{told}, but {cannot}")
    home = f"{told}, {near.own_gain or 0.0:+.3f} on its own texts"
    if near.ratio is not None and near.ratio >= least:
        return Decision("extend", f"{home}: at least {least:g} of it")
    return Decision("new", f"{home}: less than {least:g} of it")


def speakers(library: Library) -> tuple[str, ...]:
    """Return the experts that take part when the library is composed."""
    return tuple(name for name in library.names(task="language") if "reference" not in library.card(name).context)


def superseded(library: Library) -> frozenset[str]:
    """Return the experts of which another in the library is the continuation, of the same domain."""
    cards = [library.card(name) for name in library.names(task="language")]
    parents = [
        (name, digest, card.domain)
        for card in cards
        if str(card.recipe.get("method", "")).startswith(FURTHER)
        for name, digest in card.parents.items()
    ]
    return frozenset(
        name
        for name, digest, domain in parents
        if library.expert_digest(name) == digest and library.card(name).domain == domain
    )


def settings_like(card: ExpertCard) -> FitConfig | None:
    """Return the settings that an expert was fitted with, so that others are made alike; None where it was not.

    Seed and threads are not taken over.
    """
    if card.kind in ("whole", "mta") or card.recipe.get("method") not in (f"fit {card.kind}", f"{FURTHER} {card.kind}"):
        return None
    known = {each.name for each in fields(FitConfig)} - {"kind", "seed", "threads"}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in card.recipe.items() if name in known
    }
    return FitConfig(kind=card.kind, **values)
