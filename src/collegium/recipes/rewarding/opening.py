"""From a model reference to a reward model, and what its members were fitted on."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from collegium.core.errors import ConfigError
from collegium.experts.payloads import Expert
from collegium.library import Library
from collegium.models import Base
from collegium.recipes.common import Common
from collegium.recipes.opening import open_library
from collegium.recipes.reference import parse_reference
from collegium.rewards import RewardConfig, RewardModel, RewardRecord, Seen, open_reward
from collegium.rewards.model import Route


@dataclass(frozen=True)
class OpenedReward:
    """A reward model with its base and library; `members` are the experts that belong to it."""

    base: Base
    library: Library
    name: str
    model: RewardModel
    members: tuple[str, ...]


def open_reward_reference(
    text: str, common: Common, *, route: Route = "router", writable: bool = False
) -> OpenedReward:
    """Return the reward model that LIB#NAME names; raises ConfigError for a reference that names none."""
    reference = parse_reference(text)
    if reference.library is None or reference.member is None:
        raise ConfigError(f"a reward model is named LIB#NAME, as `collegium reward fit` kept it; got {text!r}.")
    base, library = open_library(Path(reference.library), common)
    if writable:
        library = Library(reference.library, base=base)
    model = open_reward(base, library, reference.member)
    single = reference.member in library
    members = (reference.member,) if single else RewardRecord.load(library, reference.member).members
    return OpenedReward(base, library, reference.member, replace(model, route=route), members)


def seen_by(opened: OpenedReward) -> Seen:
    """Return the prompts that a reward model's members were fitted on."""
    cards = [opened.library.card(name) for name in opened.members]
    parts = {
        part: frozenset(each for card in cards for each in card.documents.get(part, ())) for part in ("train", "dev")
    }
    limits = [int(card.recipe.get("train_pairs", 0)) for card in cards if card.task == "reward"]
    return Seen(parts["train"], parts["dev"], max(limits, default=0) or None)


def settings_of(expert: Expert) -> RewardConfig:
    """Return the settings a judge was fitted with, so that others can be fitted alike; raises ConfigError."""
    recipe = expert.card.recipe
    known = {each.name for each in fields(RewardConfig)} - {"threads"}
    missing = sorted(known - recipe.keys())
    if missing:
        raise ConfigError(
            f"the card of {expert.name!r} does not say how it was fitted ({', '.join(missing[:3])} ...), so nothing "
            "can be fitted alike."
        )
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value := recipe[name], list) else value for name in known
    }
    return RewardConfig(**values)
