"""The small experiment on alignment: the default base, a word that must appear, and a half of texts about a woman."""

import functools

from collegium.align.draws import Prompt, as_prompt
from collegium.align.features import contains, female
from collegium.align.target import Constraint, Moment
from collegium.claims.align_measure import HALF, measured
from collegium.claims.align_setup import AlignSettings, Plan
from collegium.claims.align_work import AlignWorld, align_experiment
from collegium.core.errors import ResourceError
from collegium.experts import FitConfig
from collegium.experts.recipe import resolve
from collegium.infer import HeldOut
from collegium.models import Base, load_base
from collegium.recipes.aligning.general import general_text
from collegium.recipes.watch import Silent

PROMPT = "Once upon a time"
PLANS = {
    "gdc she 64": Plan("gdc", "she"),
    "gdc++ she 64": Plan("gdc++", "she"),
    "reinforce she": Plan("reinforce", "she"),
    "gdc++ gender 0": Plan("gdc++", "gender"),
    "reinforce gender": Plan("reinforce", "gender"),
}
TARGETS = {"she": Constraint(contains("she")), "gender": Moment(female(), HALF)}
SMALL = AlignSettings(
    PLANS,
    samples=1920,
    pool=640,
    fresh=128,
    looks=5,
    tokens=32,
    batch=32,
    rate=1e-3,
    adapter=resolve(FitConfig(rank=16, layers="top:10")),
    drawn=64,
    spread=128,
    level=0.5,
)


def _base(seed: int) -> Base:
    del seed
    return load_base("smollm2-135m", dtype="auto")


def _prompts(base: Base, several: bool) -> list[Prompt]:
    del several
    return [as_prompt(PROMPT, base)]


@functools.lru_cache(maxsize=1)
def _general(base: Base, seed: int) -> HeldOut:
    """Return windows of the four demo domains, half as many as a command looks at."""
    del seed
    text = general_text(None, base.tokenizer, watch=Silent(), windows=8)
    if text is None:
        raise ResourceError("the demo texts could not be fetched: claim D14 looks at what is forgotten of them.")
    return text


SMALL_ALIGN = align_experiment(
    SMALL, AlignWorld(TARGETS, _base, _prompts, _general), measure=functools.partial(measured, settings=SMALL)
)
