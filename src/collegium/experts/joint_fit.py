"""DEMix: one model trained on several domains, with feed-forward blocks of its own for each  [gururangan2022demix].

    a batch of domain d:  runs through the shared part and block d; these two learn, every other block's gradient is 0
    order:                batch n of all is of domain n mod K, so that every domain gives as many batches
    update:               of `accumulation` batches; with accumulation = K one of each domain, as in the paper

A block that no batch of an update ran through is left alone by it: no decay, no move of AdamW's means. Each domain's
batches are the very windows, in the order, that an expert of the same settings reads alone.

What comes out are a new base (the shared part) and one expert of kind `ffn` a domain. The base's own blocks, which are
what a text without an expert is read with, are the average of the domains'.

Departures: AdamW's learning rates and schedule are those of whole models here; the paper's clip of 0.1 is a setting.
It divides a block's gradient by its own domain's tokens, we by the update's, which AdamW does not feel. No dropout.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from collegium.core.cards import ExpertCard, content_hash
from collegium.core.errors import DataError
from collegium.core.routing import BASE
from collegium.data import Corpus, Domain
from collegium.experts.fit import Origin, finished_card, new_card
from collegium.experts.fresh import places_of
from collegium.experts.joint_blocks import Blocks
from collegium.experts.objective import Objective, Texts, text_objective, windows_hash
from collegium.experts.payloads import Expert, adapter_payload
from collegium.experts.recipe import FitConfig, loop_config, memory_flags, recipe_of, resolve, using_threads
from collegium.experts.whole_fit import branch
from collegium.models import BASE_ROWS, Adapter, Base, memory_errors
from collegium.train import Checkpoints, Fit, History, Logger, Loss, fit


@dataclass(frozen=True, eq=False)
class JointObjective:
    """Losses of several domains in turn; which one a batch is of follows from its number.

    blocks: None = nobody has blocks of its own, the dense model.
    """

    parts: Mapping[str, Objective]
    blocks: Blocks | None
    accumulation: int

    def domain_of(self, step: int, part: int) -> str:
        """Return the domain that batch `part` of update `step` is of."""
        domains = tuple(self.parts)
        return domains[(step * self.accumulation + part) % len(domains)]

    def loss(self, step: int, part: int) -> Loss:
        """Return the summed nats of one batch, read with its own domain's blocks."""
        domain = self.domain_of(step, part)
        self._turn(domain)
        turn = (step * self.accumulation + part) // len(self.parts)
        return self.parts[domain].loss(*divmod(turn, self.accumulation))

    def held_out(self) -> float:
        """Return the mean over domains of the nats of a held-out token, each read with its own blocks."""
        return sum(self.held_out_by_domain().values()) / len(self.parts)

    def held_out_by_domain(self) -> dict[str, float]:
        """Return each domain's nats of a held-out token, read with its own blocks."""
        found = {}
        for domain, each in self.parts.items():
            self._turn(domain)
            found[domain] = each.held_out()
        return found

    def idle(self, step: int) -> frozenset[str]:
        """Return the names of the blocks that no batch of an update runs through."""
        if self.blocks is None:
            return frozenset()
        busy = {self.domain_of(step, part) for part in range(self.accumulation)}
        return frozenset().union(*(self.blocks.names_of(domain) for domain in self.parts if domain not in busy))

    def tokens_seen(self, steps: int) -> dict[str, int]:
        """Return how many tokens of each domain counted in so many updates."""
        found = dict.fromkeys(self.parts, 0)
        for number in range(steps * self.accumulation):
            domain = self.domain_of(*divmod(number, self.accumulation))
            each = self.parts[domain]
            found[domain] += int(each.train.scored[each.epochs.rows(number // len(self.parts))].sum())
        return found

    def _turn(self, domain: str) -> None:
        if self.blocks is not None:
            self.blocks.wear(domain)


@dataclass(frozen=True, eq=False)
class JointFit:
    """What came of joint training.

    model:    the new base, in memory. adapters: each domain's blocks; none of the dense model.
    cards:    of the experts, but for the base they are for, which has no fingerprint before it is stored.
    before, after: nats of a held-out token of each domain.
    identity: hash of everything that decided it.
    """

    model: Base
    adapters: Mapping[str, Adapter]
    cards: Mapping[str, ExpertCard]
    before: Mapping[str, float]
    after: Mapping[str, float]
    identity: str
    history: History
    ended: Literal["steps", "patience", "paused"]

    def experts(self, base: Base) -> list[Expert]:
        """Return the domains' experts of the new base, as it was loaded."""
        made = []
        for domain, adapter in self.adapters.items():
            payload = adapter_payload(base, adapter)
            card = dataclasses.replace(self.cards[domain], base=base.fingerprint, trained_parameters=payload.parameters)
            made.append(Expert(card, payload))
        return made

    @property
    def curve(self) -> dict[str, Any]:
        """The learning curve of the whole fit as plain values: what is kept beside each card."""
        return {
            "kind": "training",
            "ended": self.ended,
            "held_out": [[each.step, each.loss] for each in self.history.evaluations],
            "loss": [[each.step, each.loss] for each in self.history.steps],
        }


class JointTraining:
    """A joint fit before its first step: what it will read is known, and by which name it goes on.

    separate: whether each domain has blocks of its own; False = the dense model, all of whose weights read everything.

    Raises DataError for fewer than two domains, an empty one, or one under three documents; ConfigError for settings
    that blocks do not heed.
    """

    def __init__(self, base: Base, corpus: Corpus, *, config: FitConfig, separate: bool = True) -> None:
        """Prepare a copy of the base, and what is read."""
        if len(corpus) < 2:
            raise DataError(
                f"joint training shares a model among at least two domains, got {len(corpus)}. Train one expert "
                "without --joint, or give the texts of more domains."
            )
        self.base, self.corpus, self.config = base, corpus, resolve(dataclasses.replace(config, kind="ffn"))
        self.model = branch(base, (), {BASE: 1.0}, name=base.name)
        self.model.model.requires_grad_(True)
        domains = [each.name for each in corpus]
        blocks = Blocks(self.model, places_of(self.model, self.config), domains) if separate else None
        self.parameters = dict(self.model.model.named_parameters()) if blocks is None else blocks.parameters
        parts = {each.name: self._part(each) for each in corpus}
        self.objective = JointObjective(parts, blocks, self.config.accumulation)
        method = "joint ffn" if separate else "joint dense"
        self.recipe = {**recipe_of(self.config, "ffn", base), "method": method, "domains": domains}
        self.recipe["trained_from"] = base.fingerprint.short

    @property
    def steps(self) -> int:
        """How many updates there will be: as many for each domain as an expert alone has."""
        return self.config.steps * len(self.corpus)

    @property
    def identity(self) -> str:
        """The hash of everything that decides the fit."""
        windows = {
            name: [windows_hash(each.train), windows_hash(each.dev)] for name, each in self.objective.parts.items()
        }
        return content_hash({"recipe": self.recipe, "base": self.base.fingerprint.short, "windows": windows})

    def run(self, *, checkpoint: Path | None = None, logger: Logger | None = None) -> JointFit:
        """Return what came of it, having gone on from a folder of checkpoints where there are any.

        Raises TrainingError when the fit diverges, ResourceError when disk or memory is full, ConfigError when the
        folder holds checkpoints of another recipe, base or other documents.
        """
        config, many = self.config, len(self.corpus)
        loop = loop_config(config)
        every = config.evaluate_every * many
        loop = dataclasses.replace(
            loop, steps=self.steps, warmup_steps=round(config.warmup * self.steps), evaluate_every=every
        )
        checkpoints = None if checkpoint is None else Checkpoints(checkpoint, self.identity, every=every)
        with using_threads(config.threads or 1), memory_errors(memory_flags(config, "whole")):
            with torch.no_grad():
                before = self.objective.held_out_by_domain()
            done = fit(
                self.parameters,
                self.objective.loss,
                config=loop,
                evaluate=self.objective.held_out,
                checkpoints=checkpoints,
                logger=logger,
                idle=self.objective.idle,
            )
            return self._finished(done, before)

    def _finished(self, done: Fit, before: Mapping[str, float]) -> JointFit:
        blocks, seen = self.objective.blocks, self.objective.tokens_seen(len(done.history.steps))
        adapters = {} if blocks is None else {name: blocks.adapter(name) for name in self.objective.parts}
        with torch.no_grad():
            after = self.objective.held_out_by_domain()
        cards = {each.name: self._card(each, done, seen[each.name]) for each in self.corpus}
        if blocks is not None:
            blocks.settle()
        self.model.model.requires_grad_(False)
        return JointFit(self.model, adapters, cards, before, after, self.identity, done.history, done.ended)

    def _part(self, domain: Domain) -> Objective:
        return text_objective(
            self.model,
            BASE_ROWS,
            texts={domain.name: Texts.of(domain)},
            config=self.config,
            label=domain.name,
            dtype=self.base.dtype,
        )

    def _card(self, domain: Domain, done: Fit, tokens_seen: int) -> ExpertCard:
        texts, origin = [Texts.of(domain)], Origin.of(domain)
        card = new_card(self.base, "ffn", texts, name=domain.name, recipe=self.recipe, origin=origin)
        return dataclasses.replace(finished_card(card, done, 0), tokens_seen=tokens_seen)


def fit_joint(
    base: Base,
    corpus: Corpus,
    *,
    config: FitConfig = FitConfig(kind="ffn"),  # noqa: B008 - frozen
    checkpoint: Path | None = None,
    logger: Logger | None = None,
) -> JointFit:
    """Return a model of several domains that share all but their feed-forward blocks.

    config.steps: updates for each domain; there are as many in all as domains times that.

    Raises what `JointTraining` and its `run` raise.

    >>> from collegium.data import Document
    >>> from collegium.testing.pico import pico_base
    >>> law = Domain("law", tuple(Document(text=f"Article {n}. " * 20) for n in range(9)))
    >>> sea = Domain("sea", tuple(Document(text=f"Harbour {n}. " * 20) for n in range(9)))
    >>> done = fit_joint(pico_base(), Corpus((law, sea)), config=FitConfig(kind="ffn", steps=2, window=32))
    >>> sorted(done.adapters), sorted(done.adapters["law"])
    (['law', 'sea'], ['model.layers.0.mlp', 'model.layers.1.mlp'])
    """
    return JointTraining(base, corpus, config=config).run(checkpoint=checkpoint, logger=logger)


def fit_dense(
    base: Base,
    corpus: Corpus,
    *,
    config: FitConfig = FitConfig(kind="ffn"),  # noqa: B008 - frozen
    checkpoint: Path | None = None,
    logger: Logger | None = None,
) -> JointFit:
    """Return the dense baseline: one model that shares everything reads the batches of `fit_joint`, in their order."""
    training = JointTraining(base, corpus, config=config, separate=False)
    return training.run(checkpoint=checkpoint, logger=logger)
