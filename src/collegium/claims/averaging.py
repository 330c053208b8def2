"""Claim M8: averages of parameters against ensembles of outputs, from three kinds of start, on PicoLlama.

Every expert is trained for the same number of steps in total; the learning rate is one for all.

shared_seed:   one model trained on all domains for half of the steps, branched to each domain for the other half.
shared_random: the same random weights, each expert trained on its domain for all steps.
independent:   other random weights for each expert, trained on its domain for all steps.
"""

import copy
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.claims import bigrams
from collegium.claims.bigrams import World
from collegium.claims.experiment import Experiment, PieceResult, Place
from collegium.core.randomness import derive_seed, generator
from collegium.models import Base
from collegium.testing.pico import pico_base

STARTS = ("shared_seed", "shared_random", "independent")
STEPS = 120
BATCH = 16
LEARNING_RATE = 3e-3
_FIRST_SYMBOL = 97


def _run(piece: str, place: Place) -> dict[str, float]:
    world = bigrams.draw_world(place.number)
    experts = train_experts(world, piece)
    found = [_compare(experts, dev, test) for dev, test in bigrams.unseen_domains(world)]
    means = {name: sum(each[name] for each in found) / len(found) for name in found[0]}
    return means


def train_experts(world: World, start: str) -> list[Base]:
    """Return one pico model per domain."""
    seeds = [derive_seed(world.seed, "start", str(domain)) % 2**31 for domain in range(world.size)]
    if start == "independent":
        return [
            _trained(pico_base(seeds[domain]), world.train[domain], STEPS, f"{world.seed} {domain}")
            for domain in range(world.size)
        ]
    parent, steps = pico_base(seeds[0]), STEPS
    if start == "shared_seed":
        parent, steps = _trained(parent, torch.cat(world.train), STEPS // 2, f"{world.seed} all"), STEPS // 2
    return [_trained(parent, world.train[domain], steps, f"{world.seed} {domain}") for domain in range(world.size)]


def _trained(parent: Base, sequences: Int[Tensor, "sequence seq"], steps: int, name: str) -> Base:
    """Return a copy of the parent trained on these sequences; the parent stays as it is."""
    child = _copy(parent, parent.model.state_dict())
    child.model.requires_grad_(True)
    optimizer = torch.optim.AdamW(child.model.parameters(), lr=LEARNING_RATE)
    drawing = generator(0, "averaging batches", name)
    for _ in range(steps):
        rows = torch.randint(len(sequences), (BATCH,), generator=drawing)
        loss = child.token_nats(sequences[rows] + _FIRST_SYMBOL)[:, 1:].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(child.model.parameters(), 1.0)
        optimizer.step()
    child.model.requires_grad_(False)
    return child


def _copy(like: Base, state: Mapping[str, Tensor]) -> Base:
    model = copy.deepcopy(like.model)
    model.load_state_dict(state)
    return Base.from_model(model, name="pico")


def average(experts: list[Base], weights: Float[Tensor, " expert"]) -> Base:
    """Return the model whose parameters are the weighted average of the experts'."""
    states = [expert.model.state_dict() for expert in experts]
    mean = {name: sum_of([state[name] for state in states], weights) for name in states[0]}
    return _copy(experts[0], mean)


def sum_of(tensors: list[Tensor], weights: Float[Tensor, " expert"]) -> Tensor:
    """Return the weighted sum of tensors of one shape, in their own dtype."""
    return torch.tensordot(weights.to(tensors[0].dtype), torch.stack(tensors), dims=1)


def _scores(models: list[Base], sequences: Int[Tensor, "sequence seq"]) -> Float[Tensor, "sequence predicted expert"]:
    with torch.inference_mode():
        return torch.stack([model.score(sequences + _FIRST_SYMBOL)[:, 1:].double() for model in models], dim=-1)


def _compare(
    experts: list[Base], dev: Int[Tensor, "sequence seq"], test: Int[Tensor, "sequence seq"]
) -> dict[str, float]:
    """Return nats a token on one unseen domain: untrained, best expert, both averages, ensemble."""
    seen, scores = _scores(experts, dev), _scores(experts, test)
    prior = bigrams.cached_prior(seen)
    equal = bigrams.uniform_prior(len(experts))
    best = int(seen.mean((0, 1)).argmax())
    averages = [average(experts, weights.exp()) for weights in (equal, prior)]
    of_averages = _scores([*averages, pico_base(0)], test)
    return {
        "untrained": bigrams.nats(of_averages[..., 2]),
        "best_single": bigrams.nats(scores[..., best]),
        "uniform_average": bigrams.nats(of_averages[..., 0]),
        "posterior_average": bigrams.nats(of_averages[..., 1]),
        "ensemble": bigrams.nats(bigrams.ensemble(scores, prior)),
    }


def _measure(done: Mapping[str, PieceResult]) -> dict[str, float]:
    seeded, alone = done["shared_seed"], done["independent"]
    better = min(alone["uniform_average"], alone["posterior_average"])
    return {
        "uniform_minus_posterior_average": seeded["uniform_average"] - seeded["posterior_average"],
        "independent_gain_kept": (alone["untrained"] - better) / (alone["untrained"] - alone["best_single"]),
        "average_minus_ensemble": min(
            min(done[start]["uniform_average"], done[start]["posterior_average"]) - done[start]["ensemble"]
            for start in STARTS
        ),
    }


def _rows(done: Mapping[str, PieceResult]) -> list[dict[str, float | str]]:
    return [
        {"start": start, "model": model, "nats_a_token": value}
        for start in STARTS
        for model, value in done[start].items()
    ]


PICO_AVERAGES = Experiment(
    pieces=STARTS,
    run=_run,
    measure=_measure,
    rows=_rows,
    settings={"steps": STEPS, "batch": BATCH, "learning_rate": LEARNING_RATE, "sequences": bigrams.SEQUENCES},
)
