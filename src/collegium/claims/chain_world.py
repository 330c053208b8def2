"""What the chain over the whole system is run on: four experts, preferences of four domains, and the rule itself.

A text is a question of a domain's subject and an answer of four words, `soup 123: it was salt so`. The rule prefers
answers that hold the domain's own word; of those that the base and its experts have read one in four does. So reward
models learn the rule from pairs, and the rule judges what was made of them.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import torch

from collegium.align.draws import Prompt
from collegium.claims.align_world import note
from collegium.core.randomness import derive_seed
from collegium.core.samples import Sample, plain_text
from collegium.data import Document, Domain
from collegium.data.preferences import PairCorpus, PairDomain
from collegium.data.synthetic_preferences import toy_domains
from collegium.experts import FitConfig, fit_expert
from collegium.library import Library
from collegium.models import Base
from collegium.rewards import DESIGNS, Design, Making, RewardConfig
from collegium.routers import fit_classifier
from collegium.testing.pico import train_pico_stream

DOMAINS, PAIRS, OBEYING = 4, 400, 0.25
WORDS = 4
"""Words of an answer."""
STEPS, BATCH, WINDOW, NOTES = 500, 16, 64, 0.3
EXPERT = FitConfig(rank=8, steps=60, batch=8, window=48, learning_rate=3e-3, threads=1)
JUDGE = RewardConfig(passes=4.0, layers="all", learning_rate=3e-3, threads=1)
LEARNT, ASKED = 6, 4
"""Questions of each domain that policies learn from, and others that they are judged on."""


def preferences(seed: int) -> PairCorpus:
    """Return a seed's pairs."""
    return toy_domains(DOMAINS, PAIRS, seed)


def texts_of(domain: PairDomain, seed: int) -> list[str]:
    """Return what a domain's expert reads: each question with one of its answers."""
    draw = random.Random(derive_seed(seed, "texts", domain.name))
    return [
        plain_text(pair.prompt) + plain_text(pair.chosen if draw.random() < OBEYING else pair.rejected)
        for pair in domain.pairs
    ]


def speaker(seed: int) -> Base:
    """Return a PicoLlama that has read notes and some of every domain."""
    draw = random.Random(derive_seed(seed, "chain"))
    every = [text for domain in preferences(seed) for text in texts_of(domain, seed)]
    stream: list[int] = []
    for text in draw.sample(every, len(every)):
        if draw.random() < NOTES:
            stream += marked(note(draw))
        stream += marked(text)
    return train_pico_stream(torch.tensor(stream), steps=STEPS, batch=BATCH, window_tokens=WINDOW, seed=seed)


def marked(text: str) -> list[int]:
    """Return a text's bytes between the marks of the pico tokenizer."""
    return [256, *text.encode(), 257]


def experts(base: Base, folder: Path, seed: int) -> Library:
    """Return a library with an expert a domain, and the classifier that tells them."""
    library = Library(folder, base=base)
    read = {domain.name: texts_of(domain, seed) for domain in preferences(seed)}
    for name, texts in read.items():
        if name not in library:
            documents = tuple(Document(text=text) for text in texts)
            library.add(fit_expert(base, Domain(name, documents), config=EXPERT))
    if "classifier" not in library.router_names():
        held = {name: texts[::10] for name, texts in read.items()}
        kept = {name: [text for place, text in enumerate(texts) if place % 10] for name, texts in read.items()}
        fit_classifier(library, texts_by_expert=kept, dev_by_expert=held, seed=seed)
    return library


def judged_by(base: Base, folder: Path, design: Design, seed: int) -> Making:
    """Return the making of a reward model, made unless it is there; a judge is called after its design."""
    library = Library(folder, base=base)
    making = Making(base, library, preferences(seed), design, config=JUDGE)
    if design not in library.model_names():
        DESIGNS[design].fit(making).save(library, design)
    return making


def questions(seed: int, *, learnt: bool) -> list[Prompt]:
    """Return questions that policies learn from, or others, of all domains in turn."""
    first, last = (0, LEARNT) if learnt else (LEARNT, LEARNT + ASKED)
    by_domain = [[plain_text(pair.prompt) for pair in domain.pairs[first:last]] for domain in preferences(seed)]
    return [Prompt(text, (256, *text.encode())) for row in zip(*by_domain, strict=True) for text in row]


def obeys(samples: Sequence[Sample], seed: int) -> torch.Tensor:
    """Return which answers keep the rule of their question's domain, as 1 or 0.

    Four words, one of them the domain's own and none of them another domain's.
    """
    corpus = preferences(seed)
    own = {plain_text(pair.prompt): domain.name for domain in corpus for pair in domain.pairs}
    kept = []
    for sample in samples:
        words, name = plain_text(sample.completion).split(), own[plain_text(sample.prompt)]
        named = [word for word in words if word in corpus.names]
        kept.append(float(len(words) == WORDS and named == [name]))
    return torch.tensor(kept)
