"""`align prefer`: move a model to preference pairs directly (DPO), and keep the policy as an expert."""

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor
from tyro.conf import OmitArgPrefixes, Positional, arg

from collegium.align.config import AlignConfig
from collegium.align.diversity import distinct_each, self_bleu_each
from collegium.align.dpo import PairDraws, fit_preferences, margins, pair_draws
from collegium.align.draws import Prompt
from collegium.align.metrics import general_perplexity, plain_intervals
from collegium.align.policy import AdapterPolicy
from collegium.core.cards import content_hash
from collegium.core.files import write_text
from collegium.core.samples import plain_text
from collegium.data.preferences import PairDomain, take_pairs
from collegium.experts import FitConfig
from collegium.experts.recipe import resolve
from collegium.infer import HeldOut
from collegium.models import memory_errors
from collegium.ops.intervals import Interval, bootstrap_interval
from collegium.ops.preferences import bradley_terry
from collegium.recipes.aligning.general import general_text
from collegium.recipes.aligning.keeping import check_free, made_on, opened_library, policy_expert
from collegium.recipes.aligning.opening import Original, open_original
from collegium.recipes.aligning.page import metric_rows, series
from collegium.recipes.aligning.run import PROGRESS, draws_of, read_progress
from collegium.recipes.building.training import StepBar
from collegium.recipes.common import Common
from collegium.recipes.opening import DEFAULT_BASE
from collegium.recipes.report import Report, line_chart, render
from collegium.recipes.rewarding.fit import chosen_pairs
from collegium.recipes.run_card import RunCard, make_card, make_folder, run_folder, save_card
from collegium.recipes.watch import Watch
from collegium.train import Checkpoints, JsonlLogger, LoopConfig, SeveralLoggers, check_rules

_LOOKS = 4
"""How often a fit looks at dev pairs."""


@dataclass(frozen=True)
class AlignPreferConfig:
    """Move a model to preference pairs without a reward model (DPO), and keep the policy as an expert of a library."""

    data: Positional[Path]
    """A folder or file of pairs, one sub-folder or file per domain; one policy learns from all of them."""
    library: Path = field(kw_only=True)
    """Where the policy goes; made when it is not there."""
    name: Annotated[str, arg(name="as")] = field(kw_only=True)
    """What the policy is called in the library."""
    model: str = DEFAULT_BASE
    """The original model: a base, LIB#NAME, or LIB?router=...&compose=... of the same library."""
    domains: tuple[str, ...] = ()
    """Only these domains."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the columns: chosen=better."""
    domain_column: str = ""
    """A column that names each row's domain, in place of files and folders."""
    drop_unusable: bool = False
    """Leave out and count pairs with equal answers or without text."""
    train_pairs: int = 96
    """Pairs of each domain that are learnt from; 0 = all."""
    dev_pairs: int = 32
    """Pairs of each domain by which the best weights are chosen; 0 = all."""
    test_pairs: int = 60
    """Pairs of each domain that the policy is measured on; 0 = all."""
    passes: float = 2.0
    """How often the training pairs are read."""
    batch: int = 8
    """Pairs in an update."""
    learning_rate: float = 5e-4
    """AdamW's, falling to a tenth after the warm-up."""
    beta: float = 0.1
    """What a nat of distance from the original costs; smaller goes farther."""
    text_tokens: int = 96
    """Tokens of prompt and answer that are read."""
    rank: int = 16
    """Rank of the policy's adapter."""
    layers: str = "top:10"
    """`all`, `top:K` or block numbers that the adapter changes; what lies below is shared with the original."""
    fresh: int = 64
    """Texts, going on from test prompts, by which drift and diversity are measured."""
    tokens: int = 32
    """New tokens in such a text at most."""
    general: Path | None = None
    """Texts by whose perplexity is seen what is forgotten; default = the four demo domains."""
    out: Path | None = None
    """Where report, curves and an interrupted run lie; default runs/align-prefer-HASH."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""

    def __post_init__(self) -> None:
        """Raise ConfigError with every setting out of its bounds."""
        rules = [
            *((name, getattr(self, name), getattr(self, name) >= 0, "is not negative") for name in _COUNTS),
            ("passes", self.passes, 0 < self.passes < math.inf, "is positive and finite"),
            ("batch", self.batch, self.batch >= 1, "is at least 1"),
            ("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf, "is positive and finite"),
            ("beta", self.beta, 0 < self.beta < math.inf, "is positive and finite"),
            ("fresh", self.fresh, self.fresh >= 2, "is at least 2"),
        ]
        check_rules(rules, what="settings of DPO")


_COUNTS = ("train_pairs", "dev_pairs", "test_pairs")


@dataclass(frozen=True, eq=False)
class Lesson:
    """Everything that is there before the first update. test: by domain."""

    original: Original
    train: PairDraws
    dev: PairDraws
    test: Mapping[str, PairDraws]
    documents: Mapping[str, tuple[str, ...]]
    general: HeldOut | None

    @property
    def prompts(self) -> list[Prompt]:
        """What fresh texts go on from: the test pairs' prompts, each once, of all domains in turn."""
        found: dict[tuple[int, ...], Prompt] = {}
        for number in range(max(map(len, self.test.values()))):
            for draws in (each.chosen for each in self.test.values() if number < len(each)):
                ids = tuple(draws.tokens[number, : int(draws.context[number])].tolist())
                found.setdefault(ids, Prompt(plain_text(draws.samples[number].prompt), ids))
        return list(found.values())


def run(config: AlignPreferConfig, *, watch: Watch) -> RunCard:
    """Return the run's card; its result is the object of `align prefer --json`."""
    start = time.perf_counter()
    check_free(config.library, config.name)
    domains = list(chosen_pairs(config))
    original = open_original(config.model, config.library, config.common, watch=watch)
    with memory_errors("--batch or --text-tokens"):
        lesson = lesson_of(config, domains, original, watch=watch)
        adapter = resolve(FitConfig(rank=config.rank, layers=config.layers, seed=config.common.seed))
        folder = make_folder(run_folder("align prefer", config, config.out))
        return _moved(config, lesson, adapter, folder, watch=watch, start=start)


def lesson_of(config: AlignPreferConfig, domains: list[PairDomain], original: Original, *, watch: Watch) -> Lesson:
    """Return the pairs to learn from, to choose by and to measure on, as tokens."""
    base, splits = original.opened.base, {domain.name: domain.split() for domain in domains}

    def tokens(part: str, names: list[str], count: int) -> PairDraws:
        pairs = [each for name in names for each in take_pairs(getattr(splits[name], part), count or None)]
        return pair_draws(base, pairs, text_tokens=config.text_tokens)

    names = list(splits)
    documents: dict[str, tuple[str, ...]] = {}
    for split in splits.values():
        documents = {part: (*documents.get(part, ()), *hashes) for part, hashes in split.hashes.items()}
    lesson = Lesson(
        original,
        tokens("train", names, config.train_pairs),
        tokens("dev", names, config.dev_pairs),
        {name: tokens("test", [name], config.test_pairs) for name in names},
        documents,
        general_text(config.general, base.tokenizer, watch=watch),
    )
    watch.say(f"{len(lesson.train)} pairs of {', '.join(names)} to learn from, {len(lesson.dev)} to choose by")
    return lesson


def _moved(
    config: AlignPreferConfig, lesson: Lesson, adapter: FitConfig, folder: Path, *, watch: Watch, start: float
) -> RunCard:
    """Measure, move, measure again, keep."""
    model = lesson.original.model
    policy = AdapterPolicy.fresh(model, adapter)
    before = measured(config, lesson, None, watch=watch)
    steps = max(1, round(config.passes * len(lesson.train) / min(config.batch, len(lesson.train))))
    loop = LoopConfig(
        steps, config.learning_rate, warmup_steps=round(0.1 * steps), evaluate_every=max(1, steps // _LOOKS)
    )
    logger = SeveralLoggers([StepBar(watch.begin("moving the policy", steps)), JsonlLogger(folder / PROGRESS)])
    try:
        history = fit_preferences(
            policy,
            model,
            lesson.train,
            dev=lesson.dev,
            config=loop,
            batch=config.batch,
            beta=config.beta,
            seed=config.common.seed,
            checkpoints=Checkpoints(folder / "checkpoints", identity_of(config, lesson, adapter), every=8),
            logger=logger,
        )
    finally:
        logger.close()
    after = measured(config, lesson, policy, watch=watch)
    pairs_seen = steps * min(config.batch, len(lesson.train))
    expert = policy_expert(
        config.name,
        policy,
        lesson.original,
        adapter,
        recipe={"method": "align dpo", "beta": config.beta, "dpo": asdict(loop), "text_tokens": config.text_tokens},
        tokens_seen=pairs_seen * 2 * config.text_tokens,
        documents=lesson.documents,
    )
    opened_library(config.library, config.model, lesson.original).add(expert)
    policy.close()
    seconds = time.perf_counter() - start
    result: dict[str, Any] = {
        "name": config.name,
        "method": "dpo",
        "original": config.model,
        "library": str(config.library),
        "before": plain_intervals(before),
        "after": plain_intervals(after),
        "dev_loss": [[each.step, each.loss] for each in history.evaluations],
        "pairs_seen": pairs_seen,
        "seconds": round(seconds, 3),
        "report": str(folder / "report.html"),
    }
    write_text(folder / "report.html", page(result, read_progress(folder / PROGRESS)))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    card = make_card("align prefer", config, result, seconds)
    save_card(card, folder)
    return card


def measured(
    config: AlignPreferConfig, lesson: Lesson, policy: AdapterPolicy | None, *, watch: Watch
) -> dict[str, Interval | dict[str, Interval]]:
    """Return what a policy, or the original model, is like: accuracy, loss, drift, diversity, and what it forgot.

    accuracy: by domain, the share of test pairs whose chosen answer has gained more than the other; half where neither
    has.
    """
    model, label = (lesson.original.model, "before") if policy is None else (policy.speaker(), "after")
    gained = {name: gains_of(config, lesson, policy, pairs) for name, pairs in lesson.test.items()}
    every = torch.cat(list(gained.values()))
    settings = AlignConfig(
        samples=config.fresh, batch=min(64, config.fresh), tokens=config.tokens, seed=config.common.seed
    )
    fresh = draws_of(model, lesson.prompts, config.fresh, settings, label=label, watch=watch)
    texts = [plain_text(each.completion) for each in fresh.samples]
    found: dict[str, Interval | dict[str, Interval]] = {
        "accuracy": {name: bootstrap_interval((each.sign() + 1) / 2) for name, each in gained.items()},
        "loss": bootstrap_interval(bradley_terry(every, torch.zeros_like(every))),
        "kl_pi_a": bootstrap_interval(fresh.log_prob(model) - fresh.log_prob(lesson.original.model)),
        "distinct_2": bootstrap_interval(torch.tensor(distinct_each(texts, 2))),
        "self_bleu_5": bootstrap_interval(torch.tensor(self_bleu_each(texts))),
    }
    if lesson.general is not None:
        found["general_perplexity"] = general_perplexity(model, lesson.general)
    return found


@torch.no_grad()
def gains_of(
    config: AlignPreferConfig, lesson: Lesson, policy: AdapterPolicy | None, pairs: PairDraws
) -> Float[Tensor, " pair"]:
    """Return beta times how much more the chosen answers have gained; 0 for the original model itself."""
    if policy is None:
        return torch.zeros(len(pairs), dtype=torch.float64)
    parts = torch.arange(len(pairs)).split(config.batch)
    return torch.cat([margins(policy, lesson.original.model, pairs.take(rows), beta=config.beta) for rows in parts])


def identity_of(config: AlignPreferConfig, lesson: Lesson, adapter: FitConfig) -> str:
    """Return what decides a run's weights; a checkpoint of another one is refused."""
    return content_hash(
        {
            "train": lesson.train.chosen.tokens.tolist(),
            "against": lesson.train.rejected.tokens.tolist(),
            "dev": [each.tokens.tolist() for each in (lesson.dev.chosen, lesson.dev.rejected)],
            "settings": [config.passes, config.batch, config.learning_rate, config.beta, config.common.seed],
            **made_on(lesson.original, adapter, "lora"),
        }
    )


def page(found: Mapping[str, Any], progress: Mapping[int, Mapping[str, float]]) -> str:
    """Return the report of `align prefer` as one HTML file."""
    curves = {
        "learnt from": series(progress, "loss"),
        "dev pairs": [(float(step), loss) for step, loss in found["dev_loss"]],
    }
    chart = line_chart(curves, x="updates", y="nats a pair", title="loss")
    accuracy = "; ".join(
        f"{name} {found['before']['accuracy'][name]:.2f} to {value:.2f}"
        for name, value in found["after"]["accuracy"].items()
    )
    return render(
        Report(
            title=f"Policy {found['name']}",
            summary=f"{found['original']} moved to {found['pairs_seen']:,} preference pairs by DPO.",
            facts={"Chosen answers gain more": accuracy, "Minutes": f"{found['seconds'] / 60:.1f}"},
            charts=[("Loss", "ln 2 is a policy that has not moved; the weights with the lowest dev loss stay.", chart)],
            texts=[],
            tables=[
                (
                    "Before and after",
                    "On test pairs and fresh texts that go on from their prompts, each with its 95 % interval.",
                    ("", "before", "after"),
                    metric_rows(found),
                )
            ],
            commands=[f"collegium generate '...' --model {found['library']}#{found['name']}"],
        )
    )
