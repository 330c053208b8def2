"""Bigram languages as texts for PicoLlama, and the ways to learn several of them at once: DEMix and its baselines.

A document is a mark and then a sequence of a language in letters. The mark is the same for all, but where the dense
model is told the domain: then it is a token of the domain's own, which no text has otherwise. All ways read the same
letters in the same order, and score the same ones.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.claims import bigrams
from collegium.core.randomness import generator
from collegium.data import Corpus, Document, Domain, Windows
from collegium.experts import FitConfig, JointFit, JointTraining
from collegium.experts.joint_fit import JointObjective
from collegium.models import BASE_ROWS, Base, RowPlan
from collegium.testing.pico import pico_base

JointWay = Literal["demix", "dense", "token"]
WAYS: tuple[JointWay, ...] = ("demix", "dense", "token")
MARK = "@"
_FIRST_LETTER, _FIRST_TOKEN = ord("a"), ord("A")


@dataclass(frozen=True)
class DemixSettings:
    """Sizes of the experiment, the same for every way.

    steps: updates for each domain; one has a batch of every domain, as in the paper. rates: each way takes the best on
    dev texts. further: updates on the new domain. share: of the new language that is an old one's.
    """

    domains: int = 4
    steps: int = 100
    batch: int = 4
    rates: tuple[float, ...] = (2e-3, 5e-3)
    further: int = 40
    share: float = 0.5

    def config(self, rate: float) -> FitConfig:
        """Return the settings of a joint fit."""
        return dataclasses.replace(self.alone(rate), steps=self.steps, accumulation=self.domains, evaluate_every=20)

    def alone(self, rate: float) -> FitConfig:
        """Return the settings of one fit on the new domain."""
        return FitConfig(
            kind="ffn",
            steps=self.further,
            batch=self.batch,
            window=bigrams.TOKENS + 1,
            learning_rate=rate,
            evaluate_every=10,
            patience=0,
            threads=1,
        )


def name_of(number: int) -> str:
    """Return a domain's name."""
    return f"language-{number}"


def written(name: str, sequences: Int[Tensor, "sequence seq"]) -> Domain:
    """Return the sequences of a language as a domain."""
    letters = ("".join(chr(_FIRST_LETTER + symbol) for symbol in row) for row in sequences.tolist())
    return Domain(name, tuple(dict.fromkeys(Document(text=f"{MARK}{text}") for text in letters)))


def languages(seed: int, settings: DemixSettings) -> Corpus:
    """Return the domains of a seed."""
    world = bigrams.draw_world(seed, domains=settings.domains)
    parts = zip(world.train, world.dev, world.test, strict=True)
    return Corpus(tuple(written(name_of(number), torch.cat(each)) for number, each in enumerate(parts)))


def new_language(seed: int, settings: DemixSettings) -> Domain:
    """Return a further domain: half of it is the second language, the other half a language of its own."""
    tables = bigrams.draw_world(seed, domains=settings.domains + 1, sequences=1).tables
    blend = settings.share * tables[1] + (1 - settings.share) * tables[-1]
    drawn = bigrams.sample(blend, 3 * bigrams.SEQUENCES, generator=generator(seed, "new language"))
    return written("language-new", drawn)


def trained(base: Base, corpus: Corpus, way: JointWay, config: FitConfig) -> JointFit:
    """Return a joint fit; raises what `JointTraining` raises."""
    training = JointTraining(base, corpus, config=config, separate=way == "demix")
    if way == "token":
        parts = {
            name: dataclasses.replace(each, train=told(each.train, number), dev=told(each.dev, number))
            for number, (name, each) in enumerate(training.objective.parts.items())
        }
        training.objective = JointObjective(parts, None, training.objective.accumulation)
    return training.run()


def told(windows: Windows, number: int) -> Windows:
    """Return windows in which the mark before each document is a domain's own token."""
    first = (windows.segments >= 0) & (windows.tokens == ord(MARK))
    return dataclasses.replace(windows, tokens=windows.tokens.masked_fill(first, _FIRST_TOKEN + number))


def start(seed: int) -> Base:
    """Return the random weights that all ways of a seed begin with."""
    return pico_base(seed)


def tokens_of(documents: tuple[Document, ...]) -> Int[Tensor, "text seq"]:
    """Return texts of one length as tokens."""
    return torch.tensor([list(each.plain.encode()) for each in documents])


def score(
    base: Base, tokens: Int[Tensor, "text seq"], *, plan: RowPlan = BASE_ROWS, token: int | None = None
) -> Float[Tensor, "text letter"]:
    """Return the log-probability of every letter, given those before it and the mark or a domain's token."""
    if token is not None:
        tokens = tokens.clone()
        tokens[:, 0] = _FIRST_TOKEN + token
    return base.score_rows(tokens, plan=plan)[0][:, 1:].double()


def mean_nats(scores: Mapping[str, Float[Tensor, "text letter"]]) -> float:
    """Return nats a letter, the mean over domains."""
    return sum(-float(each.mean()) for each in scores.values()) / len(scores)
