"""Fitting judges: an adapter with a head on a frozen base, or a whole model, on one domain's pairs or on several's."""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collegium.core.cards import ExpertCard, Kind, content_hash
from collegium.core.errors import DataError
from collegium.core.names import check_name
from collegium.core.randomness import derive_seed, generator
from collegium.data.preferences import PairDomain, take_pairs
from collegium.experts import Expert, adapter_payload
from collegium.experts.fit import ALIKE
from collegium.experts.fresh import fresh_adapter, with_tensors
from collegium.experts.payloads import AdapterPayload, WholePayload
from collegium.experts.recipe import using_threads
from collegium.models import BASE_ROWS, Adapter, Base, HeadWeights, RowPlan, memory_errors
from collegium.rewards.config import RewardConfig, Trained
from collegium.rewards.pairs import EncodedPairs, PairObjective, Penalty, encode_pairs
from collegium.rewards.reading import Reading
from collegium.rewards.sequence import classifier_of, head_of
from collegium.rewards.states import kept_states
from collegium.rewards.texts import Encoder
from collegium.train import Checkpoints, Epochs, Fit, History, Logger, fit

BEING_FITTED = ".being-fitted"
"""The name a new judge is attached under while it is trained; no name of an expert can begin with a dot."""

HEAD_DEVIATION = 1e-3
"""Of a head's first weights."""

_MEMORY_FLAGS = "--batch or --text-tokens, or --layers to top:K"


@dataclass(frozen=True)
class FittedJudge:
    """A new judge with its learning curve; `cut` texts did not fit whole, `equal` pairs did not differ in what fits."""

    expert: Expert
    history: History
    pairs: int
    cut: int
    equal: int

    @property
    def curve(self) -> dict[str, Any]:
        """The learning curve as plain values: what is kept beside the card."""
        counts = {"pairs": self.pairs, "cut_texts": self.cut, "equal_after_cut": self.equal}
        return {**curve_of(self.history), **counts}


def curve_of(history: History) -> dict[str, Any]:
    """Return a learning curve as plain values."""
    return {
        "kind": "training",
        "held_out": [[each.step, each.loss] for each in history.evaluations],
        "loss": [[each.step, each.loss] for each in history.steps],
    }


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a judge is fitted on: encoded pairs of some domains, and what its card says of them."""

    domains: tuple[str, ...]
    train: EncodedPairs
    dev: EncodedPairs
    documents: Mapping[str, tuple[str, ...]]
    sources: tuple[Any, ...]

    @staticmethod
    def of(domains: Sequence[PairDomain], encoder: Encoder, config: RewardConfig) -> "Lesson":
        """Return the lesson of these domains; raises DataError for one that cannot be learnt from."""
        splits = {each.name: each.split() for each in domains}
        train = {name: take_pairs(split.train, config.train_pairs or None) for name, split in splits.items()}
        dev = {name: take_pairs(split.dev, config.dev_pairs or None) for name, split in splits.items()}
        return Lesson(
            tuple(splits),
            encode_pairs(train, encoder),
            encode_pairs(dev, encoder),
            hashes_of(domains),
            tuple(chain.from_iterable(each.sources for each in domains)),
        )


def fit_judge(
    base: Base,
    domains: Sequence[PairDomain],
    *,
    config: RewardConfig = RewardConfig(),  # noqa: B008 - frozen
    name: str,
    outputs: int = 1,
    checkpoint: Path | None = None,
    logger: Logger | None = None,
) -> FittedJudge:
    """Return an adapter with a head, trained on the pairs of one domain or of several together.

    outputs: 1, or the number of domains: then each domain has an output of its own.

    Raises DataError for pairs that cannot be learnt from, TrainingError when the fit diverges.
    """
    check_name(name)
    settings = config.adapter(len(base.blocks))
    with using_threads(config.threads or torch.get_num_threads()), memory_errors(_MEMORY_FLAGS):
        reading = Reading.of(base, text_tokens=config.text_tokens, pooling=config.pooled_by())
        lesson = Lesson.of(domains, Encoder(base, config.text_tokens), config)
        adapter = fresh_adapter(base, settings, ALIKE, tokens=torch.zeros(1, 1, dtype=torch.long))
        head = fresh_head(base, outputs, seed=config.seed)
        base.attach(BEING_FITTED, adapter)
        try:
            plan = RowPlan.one(BEING_FITTED)
            objective = objective_of(base, plan, head, lesson=lesson, reading=reading, config=config, adapter=adapter)
            weights = adapter_weights(adapter) | {"head": head.weight}
            card = judge_card(base, "lora", lesson, name=name, config=config, trained="adapter")
            done = run(objective, weights, card, config=config, trained="adapter", folder=checkpoint, logger=logger)
            constants = {**reading.to_constants(), **standards(objective)}
            tokens = objective.tokens_read(len(done.history.steps))
        finally:
            base.detach(BEING_FITTED)
    payload = kept_payload(base, adapter, head)
    return _fitted(
        Expert(finished(card, done, tokens=tokens, parameters=payload.parameters, constants=constants), payload),
        done,
        lesson,
    )


def fit_whole_judge(
    base: Base,
    domains: Sequence[PairDomain],
    *,
    config: RewardConfig = RewardConfig(),  # noqa: B008 - frozen
    name: str,
    checkpoint: Path | None = None,
    logger: Logger | None = None,
) -> FittedJudge:
    """Return a whole model with a head, branched from the base and trained with all its weights.

    Weights and AdamW's means are float32, products are computed in the base's dtype. Raises what `fit_judge` raises,
    and BaseModelError for an architecture of which transformers has no sequence classification model.
    """
    check_name(name)
    with using_threads(config.threads or torch.get_num_threads()), memory_errors("--batch or --text-tokens"):
        reading = Reading.of(base, text_tokens=config.text_tokens, pooling=config.pooled_by())
        lesson = Lesson.of(domains, Encoder(base, config.text_tokens), config)
        model = classifier_of(base, pad_token=reading.pad_token, head=fresh_head(base, 1, seed=config.seed), name=name)
        model.model.requires_grad_(True)
        head = head_of(model)
        weights = dict(model.model.named_parameters())
        objective = objective_of(
            model, BASE_ROWS, head, lesson=lesson, reading=reading, config=config, dtype=base.dtype
        )
        card = judge_card(base, "whole", lesson, name=name, config=config, trained="whole")
        done = run(objective, weights, card, config=config, trained="whole", folder=checkpoint, logger=logger)
        model.model.requires_grad_(False)
        constants = {**reading.to_constants(), **standards(objective)}
    tokens = objective.tokens_read(len(done.history.steps))
    count = sum(each.numel() for each in weights.values())
    return _fitted(
        Expert(finished(card, done, tokens=tokens, parameters=count, constants=constants), WholePayload(model.model)),
        done,
        lesson,
    )


def fresh_head(base: Base, outputs: int, *, seed: int) -> HeadWeights:
    """Return a new head, ready to be trained: normal numbers so small that all texts are worth almost the same.

    As large as transformers draws them (deviation 0.02), rewards would differ by one before anything is learnt.
    """
    hidden = int(base.config.hidden_size)
    weight = HEAD_DEVIATION * torch.randn(outputs, hidden, generator=generator(seed, "head"))
    return HeadWeights(weight.to(base.device).requires_grad_())


def adapter_weights(adapter: Adapter) -> dict[str, Tensor]:
    """Return an adapter's tensors by a name each."""
    return {f"{path}.{key}": each for path, part in adapter.items() for key, each in part.tensors.items()}


def objective_of(
    base: Base,
    plan: RowPlan,
    head: HeadWeights,
    *,
    lesson: Lesson,
    reading: Reading,
    config: RewardConfig,
    adapter: Adapter | None = None,
    dtype: torch.dtype | None = None,
    penalty: Penalty | None = None,
) -> PairObjective:
    """Return the objective of a judge on a lesson; adapter: what of the base is changed, None = all of it."""
    epochs = Epochs(len(lesson.train), config.batch, derive_seed(config.seed, "pairs", *lesson.domains))
    states = (None, None)
    if adapter is not None:
        limit = config.states_mb
        states = (
            kept_states(base, adapter, lesson.train.texts, plan=plan, limit_mb=limit),
            kept_states(base, adapter, lesson.dev.texts, plan=plan, limit_mb=limit),
        )
    return PairObjective(
        base,
        plan,
        head,
        reading,
        lesson.train,
        lesson.dev,
        epochs,
        dtype or base.dtype,
        config.smoothing,
        config.margin_scale,
        states,
        penalty,
    )


def judge_card(
    base: Base, kind: Kind, lesson: Lesson, *, name: str, config: RewardConfig, trained: Trained
) -> ExpertCard:
    """Return the card of a judge before its first step."""
    recipe = {
        "method": f"fit reward {kind}",
        **config.recipe(),
        "domains": list(lesson.domains),
        "dtype": str(base.dtype).removeprefix("torch."),
        "device": base.device.type,
        "learning_rate": config.loop(len(lesson.train), kind=trained).learning_rate,
    }
    return ExpertCard(
        name=name,
        kind=kind,
        task="reward",
        base=base.fingerprint,
        domain=lesson.domains[0] if len(lesson.domains) == 1 else None,
        sources=lesson.sources,
        documents=lesson.documents,
        recipe=recipe,
        recipe_hash=content_hash(recipe),
    )


def run(
    objective: PairObjective,
    weights: Mapping[str, Tensor],
    card: ExpertCard,
    *,
    config: RewardConfig,
    trained: Trained,
    folder: Path | None,
    logger: Logger | None,
    rates: Mapping[str, float] | None = None,
) -> Fit:
    """Return the fit of a judge; its weights end at their best dev loss."""
    loop = config.loop(len(objective.train), kind=trained)
    identity = content_hash(
        {
            "recipe": card.recipe,
            "base": None if card.base is None else card.base.short,
            "texts": [texts_hash(each) for each in (objective.train, objective.dev)],
        }
    )
    checkpoints = None if folder is None else Checkpoints(folder, identity, every=loop.evaluate_every)
    heads = [name for name, each in weights.items() if each is objective.head.weight or each is objective.head.bias]
    return fit(
        weights,
        objective.loss,
        config=loop,
        evaluate=objective.held_out,
        checkpoints=checkpoints,
        logger=logger,
        rates={**dict.fromkeys(heads, config.head_rate(trained)), **(rates or {})},
    )


def texts_hash(pairs: EncodedPairs) -> str:
    """Return the sha256 of everything in pairs that a loss depends on."""
    return content_hash([pairs.texts.tokens.tolist(), pairs.texts.lengths.tolist(), pairs.margins.tolist()])


@torch.no_grad()
def standards(objective: PairObjective) -> dict[str, Any]:
    """Return mean and deviation of the rewards of all dev answers, for each output of the head.

    They make rewards of different judges comparable: (reward - mean) / deviation. Answers that are all worth the same
    have deviation 1.
    """
    rows = [torch.arange(i, min(i + 8, len(objective.dev))) for i in range(0, len(objective.dev), 8)]
    found = torch.cat([objective.rewards(objective.dev, each, objective.states[1]) for each in rows]).double()
    outputs = objective.head.weight.shape[0]
    owned = [
        found[objective.dev.domains.to(found.device) == number] if outputs > 1 else found for number in range(outputs)
    ]
    if any(not len(each) for each in owned):
        raise DataError("each domain needs a dev pair whose answers differ in what fits; raise --text-tokens.")
    deviations = [float(each.std(unbiased=False)) for each in owned]
    return {
        "mean": [float(each.mean()) for each in owned],
        "deviation": [each if each > 0 else 1.0 for each in deviations],
    }


def kept_payload(base: Base, adapter: Adapter, head: HeadWeights) -> AdapterPayload:
    """Return what was trained as an expert's payload, in memory of its own."""

    def copied(tensor: Tensor) -> Tensor:
        return tensor.detach().to("cpu", copy=True)

    bias = None if head.bias is None else copied(head.bias)
    return adapter_payload(
        base, with_tensors(adapter, copied), head=HeadWeights(copied(head.weight), bias, head.module)
    )


def finished(card: ExpertCard, done: Fit, *, tokens: int, parameters: int, constants: Mapping[str, Any]) -> ExpertCard:
    """Return the card completed with what the fit went through; says so when nothing was gained."""
    start, best = done.history.evaluations[0], done.history.best
    warnings = card.warnings
    if best is None or best.loss >= start.loss:
        lowest = min((each.loss for each in done.history.evaluations[1:]), default=start.loss)
        warnings += (
            f"does not beat what it started from on its dev pairs: a loss of {start.loss:.4f} before training, "
            f"{lowest:.4f} at best after it (a coin's is 0.6931). Give the domain more pairs, or lower the learning "
            "rate.",
        )
    return dataclasses.replace(
        card,
        tokens_seen=tokens,
        trained_parameters=parameters,
        constants=constants,
        warnings=warnings,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def hashes_of(domains: Sequence[PairDomain]) -> dict[str, tuple[str, ...]]:
    """Return what the card of a judge of these domains lists: the hashes of all their train and dev prompts."""
    found = [each.split().hashes for each in domains]
    return {part: tuple(chain.from_iterable(each[part] for each in found)) for part in ("train", "dev")}


def _fitted(expert: Expert, done: Fit, lesson: Lesson) -> FittedJudge:
    cut, equal = lesson.train.cut + lesson.dev.cut, lesson.train.equal + lesson.dev.equal
    return FittedJudge(expert, done.history, len(lesson.train), cut, equal)
