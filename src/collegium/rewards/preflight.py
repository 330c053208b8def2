"""What is looked at before anything of a reward model is made, so that a mistake leaves nothing behind."""

from collections.abc import Mapping

from collegium.data.preferences import PairCorpus
from collegium.experts.fresh import places_of
from collegium.models import Base
from collegium.rewards.config import RewardConfig
from collegium.rewards.designs import DESIGNS
from collegium.rewards.fit import Lesson
from collegium.rewards.making import DesignOptions, check_domains
from collegium.rewards.records import Design
from collegium.rewards.texts import Encoder


def lessons_of(
    base: Base,
    corpus: PairCorpus,
    *,
    name: str,
    design: Design,
    config: RewardConfig,
    options: DesignOptions,
) -> Mapping[str, Lesson]:
    """Return domain -> what its judge would be fitted on, all of it encoded.

    Raises what making the reward model would raise: DataError for pairs or names of domains, ConfigError for settings
    that do not go with domains or base, BaseModelError for a base that cannot read so far.
    """
    check_domains(corpus, name)
    DESIGNS[design].check(corpus, options)
    places_of(base, config.adapter(len(base.blocks)))
    encoder = Encoder(base, config.text_tokens)
    return {each.name: Lesson.of([each], encoder, config) for each in corpus}
