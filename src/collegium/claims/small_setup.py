"""What the small-scale experiment is made of: settings, and texts cut so that every method reads the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from collegium.core.errors import DataError
from collegium.core.protocols import Tokenizer
from collegium.core.randomness import generator
from collegium.data import Document, Domain
from collegium.experts import FitConfig
from collegium.infer import HeldOut
from collegium.recipes.held_out import windows_of


@dataclass(frozen=True)
class SmallSettings:
    """Sizes of the small-scale experiment; every method is given the same.

    steps:      of one expert; a dense model takes as many steps as there are domains times this.
    rate_steps: of one expert in the choice of the learning rate, once on one seed.
    workers_steps: of one expert where one and two processes are compared.
    pool:       passages of a domain drawn for a seed; passage: their tokens; chunk: tokens of a training document.
    eval_tokens, dev_tokens: held-out tokens of a domain that are scored for the claims, and to choose by.
    """

    base: str = "smollm2-135m"
    dtype: str = "bfloat16"
    rank: int = 16
    layers: str = "top:10"
    steps: int = 40
    rate_steps: int = 15
    workers_steps: int = 6
    rates: tuple[float, ...] = (3e-4, 1e-3, 2e-3)
    batch: int = 4
    window: int = 128
    context: int = 32
    pool: int = 120
    passage: int = 480
    chunk: int = 116
    eval_tokens: int = 4096
    dev_tokens: int = 1536
    scoring_batch: int = 4

    def fit(self, *, seed: int, rate: float, rank: int | None = None, steps: int | None = None) -> FitConfig:
        """Return the settings of one fit; the best of three held-out measurements is kept."""
        steps = steps or self.steps
        return FitConfig(
            rank=rank or self.rank,
            layers=self.layers,
            steps=steps,
            batch=self.batch,
            window=self.window,
            learning_rate=rate,
            evaluate_every=max(1, steps // 2),
            patience=0,
            dev_tokens=self.dev_tokens,
            seed=seed,
        )


@dataclass(frozen=True)
class SmallTexts:
    """Domains to train on, and domains that no expert has seen."""

    seen: tuple[Domain, ...]
    unseen: tuple[Domain, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The domains to train on."""
        return tuple(domain.name for domain in self.seen)


@dataclass(frozen=True)
class Materials:
    """What one seed trains and is judged on.

    passages: drawn training passages of each domain. dev: documents to choose by.
    text: held-out windows of every domain, and of `NAME-dev` for each.
    """

    passages: Mapping[str, tuple[Document, ...]]
    dev: Mapping[str, tuple[Document, ...]]
    text: HeldOut

    @property
    def all_passages(self) -> tuple[Document, ...]:
        """The training passages of all domains, one domain after another."""
        return tuple(each for domain in self.passages.values() for each in domain)

    @property
    def all_dev(self) -> tuple[Document, ...]:
        """The documents to choose by of all domains, one domain after another."""
        return tuple(each for domain in self.dev.values() for each in domain)


def passages(
    documents: Sequence[Document], tokenizer: Tokenizer, *, tokens: int, count: int, seed: int, name: str
) -> tuple[Document, ...]:
    """Return passages of `tokens` tokens drawn from documents without overlap, documents taking turns.

    Raises DataError when the documents do not hold one.
    """
    drawing = generator(seed, "passages", name)
    order = sorted(range(len(documents)), key=lambda place: documents[place].hash)
    order = [order[place] for place in torch.randperm(len(order), generator=drawing).tolist()]
    share, found = max(1, -(-count // len(order))), []
    for place in order:
        # No more of a document is encoded than can be drawn from it: eight bytes a token are plenty.
        text = documents[place].plain
        room = 8 * tokens * share
        start = int(torch.randint(max(1, len(text) - room + 1), (1,), generator=drawing))
        ids = tokenizer.encode(text[start : start + room], add_special_tokens=False)
        pieces = [ids[begin : begin + tokens] for begin in range(0, len(ids) - tokens + 1, tokens)][:share]
        found += [Document(text=tokenizer.decode(piece), origin=documents[place].origin) for piece in pieces]
        if len(found) >= count:
            return tuple(found[:count])
    if not found:
        raise DataError(f"domain {name!r} has no document of {tokens} tokens; give longer documents.")
    return tuple(found)


def chunks(documents: Sequence[Document], tokenizer: Tokenizer, *, tokens: int) -> tuple[Document, ...]:
    """Return the documents cut into pieces of about `tokens` tokens: what every method is trained on."""
    found = []
    for document in documents:
        ids = tokenizer.encode(document.plain, add_special_tokens=False)
        for begin in range(0, len(ids), tokens):
            piece = ids[begin : begin + tokens]
            if len(piece) > 1:
                found.append(Document(text=tokenizer.decode(piece), origin=document.origin))
    return tuple(found)


def with_token(documents: Sequence[Document], domain: str) -> tuple[Document, ...]:
    """Return the documents with the domain's name before them, as one text without an end of its own."""
    return tuple(Document(text=domain_prefix(domain) + each.plain, origin=each.origin) for each in documents)


def domain_prefix(domain: str) -> str:
    """Return what stands before every text of a domain for the dense model with domain token."""
    return f"[{domain}]\n"


def materials(texts: SmallTexts, tokenizer: Tokenizer, settings: SmallSettings, seed: int) -> Materials:
    """Return what a seed trains on and is judged on; test and dev documents are never trained on."""
    drawn, dev, judged = {}, {}, {}
    for domain in (*texts.seen, *texts.unseen):
        split = domain.split()
        held = {
            "test": (split.test, settings.eval_tokens),
            "dev": (split.dev, settings.dev_tokens),
        }
        for part, (documents, tokens) in held.items():
            name = domain.name if part == "test" else dev_name(domain.name)
            judged[name] = passages(
                documents,
                tokenizer,
                tokens=settings.window - 1,
                count=max(1, tokens // settings.window),
                seed=seed,
                name=name,
            )
        if domain in texts.seen:
            dev[domain.name] = judged[dev_name(domain.name)]
            drawn[domain.name] = passages(
                split.train, tokenizer, tokens=settings.passage, count=settings.pool, seed=seed, name=domain.name
            )
    text = windows_of(judged, tokenizer, window=settings.window, context=settings.context, budget_tokens=None)
    return Materials(drawn, dev, text)


def dev_name(domain: str) -> str:
    """Return the name under which a domain's windows to choose by are scored."""
    return f"{domain}-dev"
