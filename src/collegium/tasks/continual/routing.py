"""L2R: a router for each adapted block, learnt on the memory alone while base, adapters and heads stand still.

z_l = W_l q + b_l,  w_l = sigmoid((z_l + g1 - g2) / tau),  g ~ Gumbel(0, 1) in training, none at test
[araujo2024l2r; papers.md section 4].

q is the base's own last state of a text (an encoder's first token, the mean of a decoder's), computed once and scaled
to mean 0 and deviation 1 over the memory, W q divided by the root of its size. W and b begin at 0. What the paper is
not known to say is ours: no normalisation of w, tau = 1, the rate and the number of steps. `softmax` in place of the
sigmoid is the paper's ablation.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.errors import ConfigError
from collegium.core.randomness import generator
from collegium.models import Group, RowPlan
from collegium.tasks.continual.alone import learn_alone
from collegium.tasks.continual.growing import learn_active
from collegium.tasks.continual.knowledge import Knowledge, wearing
from collegium.tasks.continual.readout import told
from collegium.tasks.continual.scene import Scene, remembered, train
from collegium.train import LoopConfig

ROUTER: tuple[str, ...] = ("router weight", "router bias", "router shift", "router scale", "router blocks")


def learn_l2r(scene: Scene, seen: tuple[int, ...], before: Knowledge) -> Knowledge:
    """Return what was known with the last task learnt alone, and the routers fitted anew."""
    return fit_router(scene, seen, learn_alone(scene, seen, before), method="l2r")


def learn_l2r_softmax(scene: Scene, seen: tuple[int, ...], before: Knowledge) -> Knowledge:
    """Return the same with gates that sum to 1."""
    return fit_router(scene, seen, learn_alone(scene, seen, before), method="l2r-softmax", softmax=True)


def learn_l2r_merge(scene: Scene, seen: tuple[int, ...], before: Knowledge) -> Knowledge:
    """Return the same with gates that average the adapters' parameters."""
    return fit_router(scene, seen, learn_alone(scene, seen, before), method="l2r-merge", merged=True)


def learn_l2r_active(scene: Scene, seen: tuple[int, ...], before: Knowledge) -> Knowledge:
    """Return the same over adapters that were trained while the earlier ones spoke too (claim L9's other side)."""
    return fit_router(scene, seen, learn_active(scene, seen, before), method="l2r-active")


def fit_router(
    scene: Scene,
    seen: tuple[int, ...],
    known: Knowledge,
    *,
    method: str,
    softmax: bool = False,
    merged: bool = False,
) -> Knowledge:
    """Return what is known with the routers of the adapted blocks, fitted on the memory of all tasks so far.

    Raises ConfigError without a memory.
    """
    rows, config = remembered(scene, seen), scene.config
    if not len(rows):
        raise ConfigError(f"{method} learns its routers on the memory, which is empty; give --memory, a class's rows.")
    queries = scene.pool.queries
    shift, scale = queries[rows].mean(0), queries[rows].std(0, unbiased=False).clamp(min=1e-6)
    blocks = sorted({scene.base.sites[path].block for adapter in known.adapters.values() for path in adapter})
    weight = torch.zeros(len(blocks), len(known.adapters), queries.shape[1], requires_grad=True)
    bias = torch.zeros(len(blocks), len(known.adapters), requires_grad=True)
    extra: dict[str, Tensor] = dict(zip(ROUTER, (weight, bias, shift, scale, torch.tensor(blocks)), strict=True))
    columns, heads = scene.columns(seen), scene.heads(seen, known)
    with wearing(scene.base, known.adapters) as keys:

        def nats(part: Tensor, step: int | None) -> Tensor:
            noise = None
            if step is not None:
                draw = generator(config.seed, method, str(step))
                noise = gate_noise((len(blocks), len(part), len(keys)), draw, softmax=softmax)
            weights = gate_weights(extra, queries[part], config.temperature, softmax=softmax, noise=noise)
            plan = RowPlan((Group(keys, spread(weights, scene.base.config.num_hidden_layers, blocks), merged=merged),))
            return scene.nats(told(scene.pool.states(part, plan), heads), part, columns, alone=False)

        names = ", ".join(scene.lessons[task].name for task in seen)
        train(
            scene,
            {"router weight": weight, "router bias": bias},
            nats,
            rows=rows,
            dev=rows[:0],
            label=f"{method}: routers over {names}",
            loop=LoopConfig(config.router_steps, config.router_rate, warmup_steps=5, weight_decay=0.0),
        )
    return known.having(extra={name: each.detach() for name, each in extra.items()})


def gate_weights(
    router: dict[str, Tensor],
    queries: Float[Tensor, "row hidden"],
    temperature: float,
    *,
    softmax: bool = False,
    noise: Float[Tensor, "block row adapter"] | None = None,
) -> Float[Tensor, "block row adapter"]:
    """Return how much of each adapter each block of each text is given."""
    scaled = (queries - router["router shift"]) / router["router scale"]
    logits = torch.einsum("lth,bh->lbt", router["router weight"], scaled) / queries.shape[1] ** 0.5
    logits = logits + router["router bias"][:, None]
    if noise is not None:
        logits = logits + noise
    return (logits / temperature).softmax(-1) if softmax else (logits / temperature).sigmoid()


def gate_noise(shape: tuple[int, ...], draw: torch.Generator, *, softmax: bool) -> Tensor:
    """Return a Gumbel draw for each gate of a softmax, and for each sigmoid the difference of two: a logistic draw."""
    u = torch.rand(shape, generator=draw).clamp(1e-6, 1 - 1e-6)
    return -(-u.log()).log() if softmax else u.log() - (1 - u).log()


def spread(
    weights: Float[Tensor, "block row adapter"], blocks: int, adapted: list[int]
) -> Float[Tensor, "every row one adapter"]:
    """Return weights of the adapted blocks as weights of all blocks, the same at every position."""
    every = weights.new_zeros(blocks, *weights.shape[1:])
    return every.index_copy(0, torch.tensor(adapted), weights)[:, :, None]
