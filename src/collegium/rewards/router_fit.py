"""Fitting routers: on a small memory of each domain's prompts, so that a domain can come or go later."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from collegium.core.cards import ExpertCard, content_hash
from collegium.core.errors import CorruptExpert, RoutingError
from collegium.core.randomness import derive_seed
from collegium.core.samples import Text
from collegium.data.preferences import Pair
from collegium.experts import Expert
from collegium.experts.fit import ALIKE
from collegium.experts.fresh import fresh_adapter
from collegium.experts.recipe import using_threads
from collegium.models import Adapter, Base, HeadWeights, RowPlan, memory_errors
from collegium.rewards.config import RewardConfig
from collegium.rewards.fit import BEING_FITTED, adapter_weights, curve_of, fresh_head, kept_payload
from collegium.rewards.reading import Reading
from collegium.rewards.routers import router_states, temperature_of
from collegium.rewards.states import KeptStates, kept_states
from collegium.rewards.texts import EncodedSample, Encoder, TextBatch, batch_of
from collegium.train import Checkpoints, Epochs, History, Logger, Loss, fit


@dataclass(frozen=True, eq=False)
class PromptMemory:
    """Prompts of each domain as token ids: those a router is fitted on, and those it is calibrated on."""

    train: Mapping[str, TextBatch]
    dev: Mapping[str, TextBatch]

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains it remembers."""
        return tuple(self.train)

    def with_domain(self, name: str, other: "PromptMemory") -> "PromptMemory":
        """Return the memory with another's prompts of a domain."""
        return PromptMemory({**self.train, name: other.train[name]}, {**self.dev, name: other.dev[name]})

    def without(self, name: str) -> "PromptMemory":
        """Return the memory with a domain forgotten."""
        kept = [each for each in self.domains if each != name]
        return PromptMemory({each: self.train[each] for each in kept}, {each: self.dev[each] for each in kept})

    def to_tensors(self) -> dict[str, Tensor]:
        """Return it as tensors."""
        return {
            f"memory.{part}.{name}.{what}": tensor
            for part, prompts in (("train", self.train), ("dev", self.dev))
            for name, batch in prompts.items()
            for what, tensor in (("tokens", batch.tokens), ("lengths", batch.prompts))
        }

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor], domains: Iterable[str], *, where: str) -> "PromptMemory":
        """Return what tensors hold of these domains; raises CorruptExpert where something is missing."""
        parts: dict[str, dict[str, TextBatch]] = {"train": {}, "dev": {}}
        for part, prompts in parts.items():
            for name in domains:
                tokens, lengths = (tensors.get(f"memory.{part}.{name}.{what}") for what in ("tokens", "lengths"))
                if tokens is None or lengths is None or tokens.ndim != 2 or lengths.shape != tokens.shape[:1]:
                    raise CorruptExpert(f"{where}: it remembers no prompts of domain {name!r}. Fit it again.")
                prompts[name] = TextBatch(tokens.long(), lengths.long(), lengths.long())
        return PromptMemory(parts["train"], parts["dev"])


def remember(
    pairs: Mapping[str, tuple[Sequence[Pair], Sequence[Pair]]], encoder: Encoder, *, most: int
) -> PromptMemory:
    """Return the distinct prompts of each domain's train and dev pairs, at most so many of each (0 = all)."""
    parts = []
    for number in (0, 1):
        prompts = {}
        for name, both in pairs.items():
            distinct: dict[Text, None] = dict.fromkeys(each.prompt for each in both[number])
            chosen = list(distinct)[: most or None]
            if not chosen:
                raise RoutingError(
                    f"a router needs prompts of every domain to be fitted and calibrated; {name!r} has none."
                )
            prompts[name] = batch_of([EncodedSample(encoder.prompt(each)[0], ()) for each in chosen])
        parts.append(prompts)
    return PromptMemory(*parts)


@dataclass(frozen=True)
class FittedRouter:
    """A router's adapter as an expert, how it was learnt, and how many prompts that took."""

    expert: Expert
    history: History
    prompts: int

    @property
    def curve(self) -> dict[str, Any]:
        """The learning curve as plain values: what is kept beside the card."""
        return {**curve_of(self.history), "prompts": self.prompts}


@dataclass(frozen=True, eq=False)
class RouterObjective:
    """The nats of the true domains of prompts, given by an adapter's head."""

    base: Base
    plan: RowPlan
    head: HeadWeights
    reading: Reading
    prompts: Mapping[str, tuple[TextBatch, Int[Tensor, " prompt"], KeptStates | None]]
    epochs: Epochs

    def loss(self, step: int, part: int) -> Loss:
        """Return the summed nats of one batch of prompts."""
        rows = self.epochs.rows(step)
        logits, truth = self.logits("train", rows)
        return Loss(torch.nn.functional.cross_entropy(logits, truth, reduction="sum"), len(rows))

    def tokens_read(self, steps: int) -> int:
        """Return how many tokens so many steps read."""
        lengths = self.prompts["train"][0].lengths
        return sum(int(lengths[self.epochs.rows(step)].sum()) for step in range(steps))

    def held_out(self) -> float:
        """Return the mean nats of a dev prompt's domain."""
        logits, truth = self.all_dev()
        return float(torch.nn.functional.cross_entropy(logits, truth))

    def all_dev(self) -> tuple[Tensor, Tensor]:
        """Return the head's outputs for all dev prompts, and their domains."""
        parts = torch.arange(len(self.prompts["dev"][0])).split(self.epochs.batch)
        both = [self.logits("dev", rows) for rows in parts]
        return torch.cat([each for each, _ in both]), torch.cat([each for _, each in both])

    def logits(self, part: str, rows: Int[Tensor, " row"]) -> tuple[Tensor, Tensor]:
        """Return the head's outputs for some prompts, and their domains."""
        texts, domains, states = self.prompts[part]
        batch = texts.take(rows)
        if states is None:
            found = router_states(self.base, batch, self.plan, self.reading)
        else:
            with states.given(rows, batch.tokens.shape[1]):
                found = router_states(self.base, batch, self.plan, self.reading)
        return self.head(found), domains[rows].to(found.device)


def fit_adapter_router(
    base: Base,
    memory: PromptMemory,
    *,
    config: RewardConfig,
    name: str,
    checkpoint: Path | None = None,
    logger: Logger | None = None,
) -> FittedRouter:
    """Return a router's adapter with a head of one output a domain, fitted on a memory's prompts and calibrated.

    Raises RoutingError with fewer than two domains, TrainingError when the fit diverges.
    """
    if len(memory.domains) < 2:
        raise RoutingError(f"a router tells at least two domains apart, got {list(memory.domains)}.")
    recipe = {"method": "fit reward router", **config.recipe(), "domains": list(memory.domains)}
    settings = config.adapter(len(base.blocks))
    with using_threads(config.threads or torch.get_num_threads()), memory_errors("--batch or --text-tokens"):
        reading = Reading.of(base, text_tokens=config.text_tokens, pooling=config.pooled_by())
        adapter = fresh_adapter(base, settings, ALIKE, tokens=torch.zeros(1, 1, dtype=torch.long))
        head = fresh_head(base, len(memory.domains), seed=config.seed)
        base.attach(BEING_FITTED, adapter)
        try:
            objective = _objective(base, adapter, head, reading=reading, memory=memory, config=config)
            loop = config.loop(objective.epochs.count // 2, kind="adapter")
            identity = content_hash([recipe, base.fingerprint.short, objective.prompts["train"][0].tokens.tolist()])
            done = fit(
                adapter_weights(adapter) | {"head": head.weight},
                objective.loss,
                config=loop,
                evaluate=objective.held_out,
                checkpoints=None
                if checkpoint is None
                else Checkpoints(checkpoint, identity, every=loop.evaluate_every),
                logger=logger,
            )
            with torch.no_grad():
                logits, truth = objective.all_dev()
        finally:
            base.detach(BEING_FITTED)
    constants = _constants(reading, memory, temperature_of(logits.cpu(), truth.cpu()))
    payload = kept_payload(base, adapter, head)
    card = ExpertCard(
        name=name,
        kind="lora",
        task="classification",
        base=base.fingerprint,
        recipe=recipe,
        recipe_hash=content_hash(recipe),
        tokens_seen=objective.tokens_read(len(done.history.steps)),
        trained_parameters=payload.parameters,
        constants=constants,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return FittedRouter(Expert(card, payload), done.history, len(objective.prompts["train"][0]) + len(truth))


def _objective(
    base: Base, adapter: Adapter, head: HeadWeights, *, reading: Reading, memory: PromptMemory, config: RewardConfig
) -> RouterObjective:
    plan, prompts = RowPlan.one(BEING_FITTED), {}
    for part, batches in (("train", memory.train), ("dev", memory.dev)):
        texts = _joined(list(batches.values()))
        sizes = torch.tensor([len(each) for each in batches.values()])
        states = kept_states(base, adapter, texts, plan=plan, limit_mb=config.states_mb)
        prompts[part] = texts, torch.repeat_interleave(torch.arange(len(sizes)), sizes), states
    seed = derive_seed(config.seed, "prompts", *memory.domains)
    epochs = Epochs(len(prompts["train"][0]), 2 * config.batch, seed)
    return RouterObjective(base, plan, head, reading, prompts, epochs)


def _constants(reading: Reading, memory: PromptMemory, temperature: float) -> dict[str, Any]:
    return {**reading.to_constants(), "domains": list(memory.domains), "temperature": temperature}


def _joined(batches: Sequence[TextBatch]) -> TextBatch:
    """Return the texts of several batches side by side."""
    width = max(each.tokens.shape[1] for each in batches)
    tokens = [torch.nn.functional.pad(each.tokens, (0, width - each.tokens.shape[1])) for each in batches]
    lengths = torch.cat([each.lengths for each in batches])
    return TextBatch(torch.cat(tokens), lengths, torch.cat([each.prompts for each in batches]))
