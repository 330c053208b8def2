"""The table of experiments that the ledger's rows name."""

from collections.abc import Mapping

from collegium.claims.align_laws import ALIGN_LAWS
from collegium.claims.align_small import SMALL_ALIGN
from collegium.claims.align_toy import TOY_ALIGN
from collegium.claims.arithmetic import ARITHMETIC
from collegium.claims.averaging import PICO_AVERAGES
from collegium.claims.chain import TOY_CHAIN
from collegium.claims.clusters import TOY_CLUSTERS
from collegium.claims.continual import TOY_STREAM
from collegium.claims.continual_laws import CONTINUAL_LAWS
from collegium.claims.demix import TOY_DEMIX
from collegium.claims.demix_laws import DEMIX_LAWS
from collegium.claims.experiment import Experiment
from collegium.claims.gate_laws import GATE_LAWS
from collegium.claims.laws import LAWS
from collegium.claims.multitask import TOY_TASKS
from collegium.claims.private import private_experiment
from collegium.claims.private_setup import PrivateSettings
from collegium.claims.reward_counts import COUNTS
from collegium.claims.reward_laws import REWARD_LAWS
from collegium.claims.rewards import REWARDS
from collegium.claims.small import small_experiment
from collegium.claims.small_algebra import algebra_experiment
from collegium.claims.small_algebra_setup import AlgebraSettings
from collegium.claims.small_setup import SmallSettings, SmallTexts
from collegium.claims.small_texts import DOMAINS, demo_texts
from collegium.claims.splits import TOY_SPLITS
from collegium.claims.toy import TOY_BIGRAMS
from collegium.core.cache import cache_folder
from collegium.models import Base, load_base

SMALL = SmallSettings()
ALGEBRA = AlgebraSettings()


def _small_base() -> Base:
    return load_base(SMALL.base, dtype=SMALL.dtype)


def _algebra_base() -> Base:
    return load_base(ALGEBRA.base, dtype=ALGEBRA.dtype)


def _small_texts() -> SmallTexts:
    return demo_texts(cache_folder() / "claims-texts")


_LAWS = {**LAWS, **GATE_LAWS, **ARITHMETIC, **COUNTS, **REWARD_LAWS, **ALIGN_LAWS, **CONTINUAL_LAWS, **DEMIX_LAWS}

EXPERIMENTS: Mapping[str, Experiment] = {
    "toy_bigrams": TOY_BIGRAMS,
    "toy_clusters": TOY_CLUSTERS,
    "pico_averages": PICO_AVERAGES,
    "small": small_experiment(SMALL, DOMAINS, base=_small_base, texts=_small_texts),
    "private": private_experiment(PrivateSettings(), DOMAINS, base=_small_base, texts=_small_texts),
    "small_algebra": algebra_experiment(ALGEBRA, base=_algebra_base, texts=_small_texts),
    **REWARDS,
    "toy_align": TOY_ALIGN,
    "small_align": SMALL_ALIGN,
    "toy_chain": TOY_CHAIN,
    "toy_stream": TOY_STREAM,
    "toy_demix": TOY_DEMIX,
    "toy_tasks": TOY_TASKS,
    "toy_splits": TOY_SPLITS,
    **{f"law_{name}": law for name, law in _LAWS.items()},
}
