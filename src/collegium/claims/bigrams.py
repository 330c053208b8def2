"""A world of bigram languages: domains, experts counted from samples, and their ensembles, all in nats."""

import math
from dataclasses import dataclass

import numpy
import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.randomness import derive_seed, generator
from collegium.ops.posterior import mix_log_probs, posterior, running_log_likelihood

SYMBOLS = 20
TOKENS = 64
CONCENTRATION = 0.4
SEQUENCES = 100

Sequences = Int[Tensor, "sequence seq"]
Table = Float[Tensor, "symbol symbol"]


@dataclass(frozen=True)
class World:
    """Domains of one seed: true transition tables and samples of each."""

    seed: int
    tables: tuple[Tensor, ...]
    train: tuple[Tensor, ...]
    dev: tuple[Tensor, ...]
    test: tuple[Tensor, ...]

    @property
    def size(self) -> int:
        """How many domains."""
        return len(self.tables)


def draw_world(seed: int, *, domains: int = 4, sequences: int = SEQUENCES) -> World:
    """Return domains whose rows are drawn from a Dirichlet, with train, dev and test samples of each."""
    tables = tuple(_draw_table(seed, str(domain)) for domain in range(domains))
    samples = {
        split: tuple(
            sample(table, sequences, generator=generator(seed, split, str(domain)))
            for domain, table in enumerate(tables)
        )
        for split in ("train", "dev", "test")
    }
    return World(seed, tables, samples["train"], samples["dev"], samples["test"])


def _draw_table(seed: int, name: str) -> Table:
    drawing = numpy.random.default_rng(derive_seed(seed, "table", name))
    return torch.from_numpy(drawing.dirichlet([CONCENTRATION] * SYMBOLS, size=SYMBOLS))


def sample(table: Table, count: int, *, generator: torch.Generator, tokens: int = TOKENS) -> Sequences:
    """Return sequences of a bigram language; the first symbol is uniform."""
    return continue_sample(table, torch.randint(SYMBOLS, (count, 1), generator=generator), tokens - 1, generator)


def continue_sample(
    table: Table, start: Sequences, more: int, generator: torch.Generator
) -> Int[Tensor, "sequence longer"]:
    """Return the sequences with more symbols of this language behind them."""
    columns = list(start.T)
    for _ in range(more):
        columns.append(torch.multinomial(table[columns[-1]], 1, generator=generator)[:, 0])
    return torch.stack(columns, dim=1)


def fit(sequences: Sequences) -> Table:
    """Return the log transition table counted with one added to every count."""
    pairs = sequences[:, :-1] * SYMBOLS + sequences[:, 1:]
    counts = torch.bincount(pairs.flatten(), minlength=SYMBOLS**2).view(SYMBOLS, SYMBOLS).double() + 1
    return (counts / counts.sum(-1, keepdim=True)).log()


def score(experts: list[Tensor], sequences: Sequences) -> Float[Tensor, "sequence predicted expert"]:
    """Return each expert's log-probability of every symbol after the first."""
    return torch.stack([table[sequences[:, :-1], sequences[:, 1:]] for table in experts], dim=-1)


def nats(log_probs: Float[Tensor, "sequence seq"]) -> float:
    """Return nats per token."""
    return -float(log_probs.mean())


def uniform_prior(experts: int) -> Float[Tensor, " expert"]:
    """Return the logarithm of equal shares."""
    return torch.full((experts,), -math.log(experts), dtype=torch.float64)


def before_each(
    scores: Float[Tensor, "sequence seq expert"], log_prior: Float[Tensor, " expert"], *, decay: float = 1.0
) -> Float[Tensor, "sequence seq expert"]:
    """Return the log-posterior with which each token is predicted: it has seen the tokens before it alone."""
    start = torch.zeros_like(scores[:, 0])
    running = running_log_likelihood(scores, start, decay=decay)
    return posterior(log_prior, torch.cat([start[:, None], running[:, :-1]], dim=1))


def ensemble(
    scores: Float[Tensor, "sequence seq expert"],
    log_prior: Float[Tensor, " expert"],
    *,
    decay: float = 1.0,
    top_k: int | None = None,
) -> Float[Tensor, "sequence seq"]:
    """Return the log-probabilities of the posterior ensemble; with top_k the largest weights alone, renormalised."""
    log_weights = before_each(scores, log_prior, decay=decay)
    if top_k is not None:
        kept = log_weights.argsort(dim=-1, descending=True, stable=True)[..., :top_k]
        silent = torch.full_like(log_weights, -math.inf)
        log_weights = silent.scatter(-1, kept, log_weights.gather(-1, kept).log_softmax(-1))
    return mix_log_probs(log_weights, scores)


def uniform(scores: Float[Tensor, "sequence seq expert"]) -> Float[Tensor, "sequence seq"]:
    """Return the log-probabilities of the equal mixture."""
    return mix_log_probs(uniform_prior(scores.shape[-1]), scores)


def cached_prior(scores: Float[Tensor, "sequence seq expert"], *, rate: float = 0.3) -> Float[Tensor, " expert"]:
    """Return the log of the decayed average of the posteriors at the end of each held-out sequence [DEMix]."""
    share = uniform_prior(scores.shape[-1]).exp()
    for row in scores.sum(1):
        last = posterior(share.log(), row).exp()
        share = (1 - rate) * share + rate * last
    return share.log()


def unseen_domains(world: World) -> tuple[tuple[Sequences, Sequences], tuple[Sequences, Sequences]]:
    """Return dev and test sequences of a blend of the first two domains and of a patchwork of the next two."""
    return _blend(world), _patchwork(world)


def _blend(world: World) -> tuple[Sequences, Sequences]:
    """Return dev and test of a language half way between the first two domains."""
    table = (world.tables[0] + world.tables[1]) / 2
    drawn = [sample(table, SEQUENCES, generator=generator(world.seed, "blend", split)) for split in ("dev", "test")]
    return drawn[0], drawn[1]


def _patchwork(world: World) -> tuple[Sequences, Sequences]:
    """Return dev and test of texts whose first half is of the third domain and whose second half of the fourth."""
    half, drawn = TOKENS // 2, []
    for split in ("dev", "test"):
        drawing = generator(world.seed, "patchwork", split)
        first = sample(world.tables[2], SEQUENCES, generator=drawing, tokens=half)
        drawn.append(continue_sample(world.tables[3], first, half, drawing))
    return drawn[0], drawn[1]
