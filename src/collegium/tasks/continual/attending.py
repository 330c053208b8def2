"""SAPT: one attention weighs the adapters while they are learnt and when they are chosen  [zhao2024sapt].

q = LayerNorm(SiLU(W2 W1 max_t embed(x_t))),  alpha = softmax_i(q . k_i / sqrt(d)),  a key for each task, the earlier
ones and their adapters frozen.

Attentive reflection keeps W1 and W2, which go on learning, from drifting: after each task its mean attention over its
texts is kept, and texts of it are remembered;  L + rho KL(kept alpha || alpha(remembered)), rho = 0.5, newer tasks
padded with zeros.

* `sapt`        remembers texts that the base with the task's adapter writes (a base that speaks).
* `sapt-real`   remembers rows of the task.
* `sapt-none`   without reflection.

Departure: the bottleneck of 100 is as wide as the hidden states at most; keys begin uniform in [-1, 1] as in the paper.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.randomness import derive_seed, generator
from collegium.tasks.continual.growing import grow
from collegium.tasks.continual.knowledge import Knowledge
from collegium.tasks.continual.scene import Scene, remembered
from collegium.tasks.continual.writing import written
from collegium.train import Epochs

BOTTLENECK = 100
RHO = 0.5
Reflection = Literal["none", "real", "written"]
NETWORK = ("query down", "query up")


def attention(
    embedded: Float[Tensor, "row hidden"], down: Tensor, up: Tensor, keys: Float[Tensor, "task hidden"]
) -> Float[Tensor, "row task"]:
    """Return alpha: how much of each task's adapter each text is given; sums to 1."""
    query = torch.nn.functional.silu(embedded @ down.T @ up.T)
    query = torch.nn.functional.layer_norm(query, query.shape[-1:])
    return (query @ keys.T / query.shape[-1] ** 0.5).softmax(-1)


def kept_apart(kept: Float[Tensor, "row task"], now: Float[Tensor, "row task"]) -> Float[Tensor, ""]:
    """Return the mean KL(kept || now), 0 log 0 = 0.

    >>> round(float(kept_apart(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]))), 4)
    0.6931
    """
    return (torch.special.xlogy(kept, kept) - kept * now.clamp(min=1e-12).log()).sum(-1).mean()


def learn_sapt(scene: Scene, seen: tuple[int, ...], before: Knowledge) -> Knowledge:
    """Return what was known with a new adapter and key; what is remembered of a task is written by its adapter."""
    return _learn(scene, seen, before, reflection="written")


def learn_sapt_real(scene: Scene, seen: tuple[int, ...], before: Knowledge) -> Knowledge:
    """Return the same with rows of the tasks in place of written texts."""
    return _learn(scene, seen, before, reflection="real")


def learn_sapt_none(scene: Scene, seen: tuple[int, ...], before: Knowledge) -> Knowledge:
    """Return the same without reflection."""
    return _learn(scene, seen, before, reflection="none")


def _learn(scene: Scene, seen: tuple[int, ...], before: Knowledge, *, reflection: Reflection) -> Knowledge:
    names = [scene.lessons[task].name for task in seen]
    network = [before.extra.get(name) for name in NETWORK]
    fresh = _fresh_network(scene)
    down, up = (
        (new if old is None else old.detach().clone()).requires_grad_() for old, new in zip(network, fresh, strict=True)
    )
    size = scene.pool.embedded.shape[1]
    key = (torch.rand(size, generator=generator(scene.config.seed, "key", names[-1])) * 2 - 1).requires_grad_()
    keys = [*(before.extra[f"key {name}"] for name in names[:-1]), key]

    def alpha(embedded: Tensor) -> Tensor:
        return attention(embedded, down, up, torch.stack(keys))

    penalty = None if reflection == "none" else _reflection(scene, seen, before, alpha, written_texts=reflection)
    method = {"none": "sapt-none", "real": "sapt-real", "written": "sapt"}[reflection]
    known = grow(
        scene,
        seen,
        before,
        method=method,
        adapter=scene.fresh(),
        weigh=lambda rows: alpha(scene.pool.embedded[rows])[:, None],
        penalty=penalty,
        more={NETWORK[0]: down, NETWORK[1]: up, f"key {names[-1]}": key},
    )
    with torch.no_grad():
        mean = alpha(scene.pool.embedded[scene.lessons[seen[-1]].train]).mean(0)
    extra = {f"alpha {names[-1]}": mean}
    if reflection == "written":
        extra[f"written {names[-1]}"] = written(scene, seen[-1])
    return known.having(extra=extra)


def _reflection(
    scene: Scene,
    seen: tuple[int, ...],
    before: Knowledge,
    alpha: Callable[[Tensor], Tensor],
    *,
    written_texts: Reflection,
) -> Callable[[int, Tensor], Tensor] | None:
    """Return the penalty of attention that has moved on remembered texts; None where nothing is remembered."""
    texts, kept = [], []
    for task in seen[:-1]:
        name = scene.lessons[task].name
        if written_texts == "written":
            own = before.extra[f"written {name}"]
        else:
            own = scene.pool.embedded[remembered(scene, (task,))]
        old = before.extra[f"alpha {name}"]
        texts.append(own)
        kept.append(torch.cat([old, old.new_zeros(len(seen) - len(old))]).expand(len(own), -1))
    if not texts or not sum(map(len, texts)):
        return None
    every, wanted = torch.cat(texts), torch.cat(kept)
    order = Epochs(len(every), scene.config.batch, derive_seed(scene.config.seed, "reflection", str(len(seen))))

    def penalty(step: int, rows: Tensor) -> Tensor:
        chosen = order.rows(step)
        return RHO * kept_apart(wanted[chosen], alpha(every[chosen]))

    return penalty


def _fresh_network(scene: Scene) -> tuple[Tensor, Tensor]:
    size = scene.pool.embedded.shape[1]
    width = min(BOTTLENECK, size)
    draw = generator(scene.config.seed, "query")
    down = torch.empty(width, size).uniform_(-(size**-0.5), size**-0.5, generator=draw)
    up = torch.empty(size, width).uniform_(-(width**-0.5), width**-0.5, generator=draw)
    return down, up
