"""From a target's text to its factors: features of texts, reward models, labels, the user's own functions."""

from collections.abc import Callable
from pathlib import Path

from collegium.align.judges import RewardFeature, classifier, lexicon, probability, python
from collegium.align.syntax import FEATURES, Vocabulary, parse_target
from collegium.align.target import Part
from collegium.core.errors import ConfigError
from collegium.core.protocols import Feature
from collegium.recipes.common import Common
from collegium.recipes.rewarding.opening import open_reward_reference


def read_target(text: str, common: Common, *, allow_code: bool) -> tuple[Part, ...]:
    """Return the factors of a target.

    allow_code: whether functions of the user's own are run. Raises ConfigError that points into the text.
    """
    if not text.strip():
        raise ConfigError("a target is expected, such as --target 'contains(\"she\")'; `collegium align run --help`.")
    features = {
        **FEATURES,
        "classifier": classifier,
        "probability": probability,
        "lexicon": lexicon,
        "python": python if allow_code else _not_allowed,
    }
    return parse_target(text, Vocabulary(features, _rewards(common)))


def _not_allowed(place: str) -> Feature:
    raise ConfigError(f"python({place!r}) runs code of a file; say --allow-code if it is yours or you have read it.")


def _rewards(common: Common) -> Callable[[str], Feature]:
    """Return what opens a reward model, each once."""
    opened: dict[str, Feature] = {}

    def reward(reference: str) -> Feature:
        if reference not in opened:
            model = open_reward_reference(reference, common).model
            name = f'reward("{Path(reference.partition("#")[0]).name}#{model.name}")'
            opened[reference] = RewardFeature(name, model)
        return opened[reference]

    return reward
