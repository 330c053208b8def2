"""`align run`: move a model to a target by a row of the table, and keep the policy as an expert."""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, arg

from collegium.align.config import AlignConfig
from collegium.align.draws import Drawing, Draws, Prompt, draw
from collegium.align.fit import Moved, align, check_method
from collegium.align.metrics import Metrics, kl_to_target, measure
from collegium.align.policy import AdapterPolicy, Policy, noted
from collegium.align.target import Target
from collegium.align.whole import WholePolicy
from collegium.core.cards import content_hash
from collegium.core.errors import ConfigError
from collegium.core.files import write_text
from collegium.core.protocols import LanguageModel
from collegium.core.randomness import generator
from collegium.core.samples import plain_text
from collegium.experts import FitConfig
from collegium.experts.recipe import resolve
from collegium.infer import HeldOut
from collegium.models import Base, memory_errors
from collegium.recipes.aligning.general import general_text
from collegium.recipes.aligning.keeping import check_free, made_on, opened_library, policy_expert
from collegium.recipes.aligning.opening import Original, open_original, open_proposal, read_prompts
from collegium.recipes.aligning.page import align_page
from collegium.recipes.aligning.preflight import Preflight, check_reach, look_ahead
from collegium.recipes.aligning.wishes import read_target
from collegium.recipes.building.training import StepBar
from collegium.recipes.common import Common
from collegium.recipes.opening import DEFAULT_BASE
from collegium.recipes.run_card import RunCard, make_card, make_folder, run_folder, save_card
from collegium.recipes.watch import Watch
from collegium.train import Checkpoints, JsonlLogger, Logger, SeveralLoggers, TensorBoardLogger

SHOWN = 8
"""Texts that the report shows side by side."""
PROGRESS = "progress.jsonl"
"""What was seen of each update, a line a time."""


@dataclass(frozen=True)
class AlignRunConfig:
    """Move a model to a reward or to a distribution, and keep the policy as an expert of a library."""

    target: str = field(kw_only=True)
    """What is wanted: 'contains("she")', 'moment(female()) == 0.5', 'reward("LIB#NAME", beta=0.1)', products by *."""
    library: Path = field(kw_only=True)
    """Where the policy goes; made when it is not there."""
    name: Annotated[str, arg(name="as")] = field(kw_only=True)
    """What the policy is called in the library."""
    model: str = DEFAULT_BASE
    """The original model: a base, LIB#NAME, or LIB?router=...&compose=... of the same library."""
    prompt: str = ""
    """What texts go on from."""
    prompts: Path | None = None
    """In place of one prompt, a file with one a line."""
    proposal: str = ""
    """gdc, gdc++: who writes the first texts in place of the original, such as an expert that is likelier to reach a
    rare target; what is learnt is weighed by it, and the original stays the original."""
    pool: int = 640
    """Texts of the original model, or of the proposal, that the target is looked at on first."""
    fresh: int = 256
    """Texts that a policy is measured on."""
    whole: bool = False
    """Move a copy of all weights in place of an adapter; the original is a base then."""
    rank: int = 16
    """Rank of the policy's adapter."""
    layers: str = "top:10"
    """`all`, `top:K` or block numbers that the adapter changes; what lies below is shared with the original."""
    general: Path | None = None
    """Texts by whose perplexity is seen what is forgotten; default = the four demo domains."""
    curve_every: int = 4
    """Updates between two looks at the distance from the target."""
    allow_code: bool = False
    """Run functions of your own that the target names: python("module:function")."""
    force: bool = False
    """Begin where the budget is hopelessly small for the target."""
    tensorboard: bool = False
    """Write TensorBoard files into the run's folder."""
    out: Path | None = None
    """Where report, curves and an interrupted run lie; default runs/align-run-HASH."""
    dry_run: bool = False
    """Look at the target and the budget, then stop."""
    align: OmitArgPrefixes[AlignConfig] = field(default_factory=AlignConfig)
    """The method and its settings."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


@dataclass(frozen=True, eq=False)
class Setting:
    """Everything that is there before the first update."""

    original: Original
    prompts: list[Prompt]
    config: AlignConfig
    adapter: FitConfig
    ahead: Preflight
    proposal: LanguageModel | None
    general: HeldOut | None
    folder: Path

    @property
    def target(self) -> Target:
        """The target with its tilts."""
        return self.ahead.solved.target


def run(config: AlignRunConfig, *, watch: Watch) -> RunCard:
    """Return the run's card; its result is the object of `align run --json`."""
    start = time.perf_counter()
    check_config(config)
    original = open_original(config.model, config.library, config.common, watch=watch)
    parts = read_target(config.target, config.common, allow_code=config.allow_code)
    prompts = read_prompts(config.prompt, config.prompts, original.model)
    if config.whole and (not isinstance(original.model, Base) or original.model.worn):
        raise ConfigError(f"a whole policy is a copy of a base, {config.model} is more than one; leave --whole out.")
    settings = replace(config.align, seed=config.common.seed)
    proposal = open_proposal(config.proposal, original, config.common, watch=watch)
    with memory_errors("--batch or --pool"):
        pool = draws_of(proposal or original.model, prompts, config.pool, settings, label="pool", watch=watch)
        ahead = look_ahead(Target(original.model, parts), pool)
        for line in ahead.lines():
            watch.say(line)
        check_method(settings.method, ahead.solved, proposal=proposal is not None)
        check_reach(ahead, settings, force=config.force, say=watch.say)
        if config.dry_run:
            return make_card("align run", config, {"plan": ahead.to_json()}, time.perf_counter() - start)
        general = general_text(config.general, original.opened.base.tokenizer, watch=watch)
        trained = FitConfig(seed=settings.seed)
        if not config.whole:
            trained = replace(trained, rank=config.rank, layers=config.layers)
        adapter = resolve(trained, "whole" if config.whole else "lora")
        folder = make_folder(run_folder("align run", config, config.out))
        setting = Setting(original, prompts, settings, adapter, ahead, proposal, general, folder)
        return _moved(config, setting, watch=watch, start=start)


def _moved(config: AlignRunConfig, setting: Setting, *, watch: Watch, start: float) -> RunCard:
    """Measure, move, measure again, keep."""
    model, ahead = setting.original.model, setting.ahead
    fresh = draws_of(model, setting.prompts, config.fresh, setting.config, label="before", watch=watch)
    before = measure(model, setting.target, ahead.pool, fresh, general=setting.general)
    policy = fresh_policy(config, setting)
    logger = loggers(config, setting, policy, watch=watch)
    try:
        moved = align(
            policy,
            ahead.solved,
            setting.prompts,
            config=setting.config,
            proposal=setting.proposal,
            checkpoints=Checkpoints(setting.folder / "checkpoints", identity_of(config, setting), every=4),
            logger=logger,
        )
    finally:
        logger.close()
    speaker = policy.speaker()
    said = draws_of(speaker, setting.prompts, config.fresh, setting.config, label="after", watch=watch)
    after = measure(speaker, setting.target, ahead.pool, said, general=setting.general)
    expert = policy_expert(
        config.name,
        policy,
        setting.original,
        setting.adapter,
        recipe=policy_recipe(config, setting, moved),
        tokens_seen=setting.config.samples * setting.config.tokens,
    )
    opened_library(config.library, config.model, setting.original).add(expert)
    policy.close()
    seconds = time.perf_counter() - start
    result = result_of(config, setting, moved, before, after, seconds=seconds)
    page = align_page(result, read_progress(setting.folder / PROGRESS), samples=shown_samples(fresh, said))
    write_text(setting.folder / "report.html", page)
    shutil.rmtree(setting.folder / "checkpoints", ignore_errors=True)
    card = make_card("align run", config, {**result, "report": str(setting.folder / "report.html")}, seconds)
    save_card(card, setting.folder)
    return card


def check_config(config: AlignRunConfig) -> None:
    """Raise ConfigError for impossible numbers, NameTaken for a name that is taken."""
    check_free(config.library, config.name)
    few = [flag for flag in ("pool", "fresh") if getattr(config, flag) < 2]
    if few or config.curve_every < 1:
        raise ConfigError(
            f"--pool and --fresh are at least 2, --curve-every at least 1; got {config.pool}, {config.fresh} and "
            f"{config.curve_every}."
        )


def fresh_policy(config: AlignRunConfig, setting: Setting) -> AdapterPolicy | WholePolicy:
    """Return a policy that says what the original does; which checks made sure is a base for a whole one."""
    model = setting.original.model
    if not config.whole:
        return AdapterPolicy.fresh(model, setting.adapter)
    assert isinstance(model, Base)
    return WholePolicy.fresh(model)


def draws_of(
    model: LanguageModel, prompts: list[Prompt], many: int, settings: AlignConfig, *, label: str, watch: Watch
) -> Draws:
    """Return texts of a model at temperature 1, of all prompts in turn."""
    update = watch.begin(f"drawing {label}", many)
    chosen = [prompts[number % len(prompts)] for number in range(many)]
    drawing = Drawing(settings.tokens, 1.0, settings.batch)
    return draw(model, chosen, drawing=drawing, random=generator(settings.seed, label), progress=update)


class Curve:
    """A logger that looks, every so many updates, how far the policy is from the target."""

    def __init__(self, every: int, setting: Setting, policy: Policy, sink: Logger) -> None:
        """Keep what is looked at, and where it is noted."""
        self.every, self.policy, self.sink = every, policy, sink
        pool = setting.ahead.pool.kept
        self.pool = replace(pool, draws=noted(policy, pool.draws))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Look at the policy after an update."""
        if "loss" in values and step % self.every == 0:
            with self.policy.reading(self.pool.draws):
                found = kl_to_target(self.policy.speaker(), self.pool)
            self.sink.log(step, {"kl_p_pi": found.estimate, "kl_p_pi_low": found.low, "kl_p_pi_high": found.high})

    def close(self) -> None:
        """Nothing is held back."""


def loggers(config: AlignRunConfig, setting: Setting, policy: Policy, *, watch: Watch) -> SeveralLoggers:
    """Return where progress goes: a bar, a file of lines, TensorBoard where it is wanted."""
    sinks: list[Logger] = [JsonlLogger(setting.folder / PROGRESS)]
    if config.tensorboard:
        sinks.append(TensorBoardLogger(setting.folder / "tensorboard"))
    curve = Curve(config.curve_every, setting, policy, SeveralLoggers(sinks))
    return SeveralLoggers([StepBar(watch.begin("moving the policy", setting.config.updates)), *sinks, curve])


def read_progress(path: Path) -> dict[int, dict[str, float]]:
    """Return step -> values of a run's lines; of a step that was made again, the later ones."""
    found: dict[int, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        found.setdefault(values.pop("step"), {}).update(values)
    return found


def identity_of(config: AlignRunConfig, setting: Setting) -> str:
    """Return what decides a run's weights; a checkpoint of another one is refused."""
    return content_hash(
        {
            "target": config.target,
            "prompts": [prompt.text for prompt in setting.prompts],
            "proposal": config.proposal,
            "settings": asdict(setting.config),
            **made_on(setting.original, setting.adapter, "whole" if config.whole else "lora"),
            "log_z": setting.ahead.solved.log_z,
        }
    )


def policy_recipe(config: AlignRunConfig, setting: Setting, moved: Moved) -> dict[str, Any]:
    """Return what the policy's card says of how it was made."""
    return {
        "method": f"align {setting.config.method}",
        "target": config.target,
        "prompts": [prompt.text for prompt in setting.prompts[:SHOWN]],
        "proposal": config.proposal,
        "align": asdict(setting.config),
        "tilts": {
            part.feature.name: weight for part in setting.target.parts if (weight := getattr(part, "weight", None))
        },
        "log_z": moved.log_z,
        "beta": moved.beta,
    }


def result_of(
    config: AlignRunConfig, setting: Setting, moved: Moved, before: Metrics, after: Metrics, *, seconds: float
) -> dict[str, Any]:
    """Return the object of `align run --json`."""
    return {
        "name": config.name,
        "method": setting.config.method,
        "target": config.target,
        "original": config.model,
        "library": str(config.library),
        "before": before.to_dict(),
        "after": after.to_dict(),
        "ahead": setting.ahead.to_json(),
        "log_z": moved.log_z,
        "beta": moved.beta,
        "samples_seen": setting.config.rounds * setting.config.batch,
        "seconds": round(seconds, 3),
    }


def shown_samples(before: Draws, after: Draws) -> list[tuple[str, str]]:
    """Return some texts of the original and of the policy, side by side."""
    pairs = zip(before.samples[:SHOWN], after.samples[:SHOWN], strict=False)
    return [(plain_text(one.completion), plain_text(other.completion)) for one, other in pairs]
