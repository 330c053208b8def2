"""The experiments on reward models: every design fitted once a seed on the same pairs, on a base and its partner.

toy:    four synthetic domains on PicoLlama, with a wider Llama as the larger base; two that conflict.
small:  four domains of real text on the default base, with the small encoder as the smaller one; six on the encoder.

The last domain comes later: RODOS and ARLISS are made of the others and grow, joint models are fitted again on all
domains and, from one of the old domains, continued on the new one alone.
"""

import functools
from collections.abc import Callable
from typing import Any

from collegium.claims.experiment import Experiment
from collegium.claims.reward_measure import conflict, measured, rows
from collegium.claims.reward_setup import CONTINUED, GROWING, RewardSettings
from collegium.claims.reward_work import RewardWork
from collegium.core.cache import cache_folder
from collegium.core.randomness import derive_seed
from collegium.data.preference_pull import pull_preferences
from collegium.data.preference_reading import read_preferences
from collegium.data.preferences import PairCorpus
from collegium.data.synthetic_preferences import conflicting_domains, toy_domains
from collegium.models import Base, load_base
from collegium.rewards import RewardConfig
from collegium.testing.pico import byte_tokenizer, pico_base

TOY_PAIRS = 500
TOY_RATES = {"adapter": (1e-3, 3e-3, 9e-3), "whole": (1e-3 / 3, 1e-3, 3e-3)}
_PICO = RewardConfig(passes=4.0, layers="all", threads=1)
_WIDE = {"vocab_size": 258, "hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 6}

TOY = RewardSettings(
    ("salt", "gold", "wind", "moon"),
    TOY_PAIRS,
    config=_PICO,
    rates=TOY_RATES,
    partner="larger",
    bases=("pico", "wide pico"),
)
CONFLICT = RewardSettings(
    ("longer", "shorter"),
    TOY_PAIRS,
    config=_PICO,
    rates=TOY_RATES,
    models=("joint", "joint-whole", "more", "arliss", "rodos", "joint-whole-long"),
    grows=False,
    bases=("pico",),
)
_REAL = ("checked", "code", "film", "headline", "ratings", "turn")
_MOST = ("checked", "code", "film", "headline")
"""The four of them with most pairs; six would take five hours on two cores, by estimate."""
SMALL_REWARDS = RewardSettings(_MOST, 1000, partner="smaller", bases=("smollm2-135m", "minilm-l6"))
ENCODER_REWARDS = RewardSettings(_REAL, 1000, bases=("minilm-l6",))


def reward_experiment(
    settings: RewardSettings,
    *,
    base: Callable[[int], Base],
    corpus: Callable[[int], PairCorpus],
    other: Callable[[int], Base] | None = None,
) -> Experiment:
    """Return the experiment with these settings; bases and pairs are opened when the first piece needs them."""
    kept = [functools.lru_cache(maxsize=1)(each) for each in (base, other or base)]
    work = RewardWork(settings, kept[0], kept[1], functools.lru_cache(maxsize=1)(corpus))
    return Experiment(
        pieces=pieces_of(settings),
        once=tuple(f"rate.{name}.{number}" for name in settings.tuned for number in work.numbers(name)),
        run=work.run,
        measure=functools.partial(measured, settings=settings) if settings.grows else conflict,
        rows=functools.partial(rows, settings=settings),
        settings=settings.plain(),
    )


def pieces_of(settings: RewardSettings) -> tuple[str, ...]:
    """Return the names of a seed's pieces in order."""
    fitted = [f"fit.{name}" for name in settings.fitted]
    grown = GROWING if settings.grows else ()
    made = [piece for name in grown for piece in _grown(name, settings.old)]
    again = [f"continue.{name}" for name in CONTINUED] if settings.grows else []
    return (*fitted, *made, *again, *(f"judge.{name}" for name in (*settings.models, *settings.others)))


def _grown(name: str, old: tuple[str, ...]) -> tuple[str, ...]:
    return (*(f"member.{name}.{domain}" for domain in old), f"found.{name}", f"grow.{name}")


def wide_pico(seed: int) -> Base:
    """Return a byte-level Llama with random weights, three times as wide as PicoLlama."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    shape: dict[str, Any] = {**_WIDE, "num_key_value_heads": 3, "intermediate_size": 384, "tie_word_embeddings": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "wide pico"))
        model = AutoModelForCausalLM.from_config(LlamaConfig(**shape, bos_token_id=256, eos_token_id=257))
    return Base.from_model(model, byte_tokenizer(), name="wide-pico", source=f"a wide PicoLlama (seed {seed})")


def _decoder(seed: int) -> Base:
    del seed
    return load_base("smollm2-135m", dtype="auto")


def _encoder(seed: int, *, dtype: str = "float32") -> Base:
    del seed
    return load_base("minilm-l6", dtype=dtype)


@functools.cache
def _real_pairs() -> PairCorpus:
    return read_preferences(pull_preferences(cache_folder() / "claims-pairs"), drop_unusable=True)


def _real(seed: int) -> PairCorpus:
    del seed
    return _real_pairs()


REWARDS = {
    "toy_rewards": reward_experiment(
        TOY, base=pico_base, corpus=lambda seed: toy_domains(len(TOY.domains), TOY_PAIRS, seed), other=wide_pico
    ),
    "toy_conflict": reward_experiment(
        CONFLICT, base=pico_base, corpus=lambda seed: conflicting_domains(TOY_PAIRS, seed)
    ),
    "small_rewards": reward_experiment(SMALL_REWARDS, base=_decoder, corpus=_real, other=_encoder),
    "encoder_rewards": reward_experiment(ENCODER_REWARDS, base=functools.partial(_encoder, dtype="auto"), corpus=_real),
}
