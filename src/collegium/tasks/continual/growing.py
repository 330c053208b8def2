"""An adapter for each task, trained while the earlier ones, frozen, speak too.

* `olora`       all speak;  L + strength * sum |A_old A_new^T|, entry by entry  [wang2023olora].
* `progprompt`  prefixes, the earlier ones before the new one; at test those up to the text's task  [razdaibiedina2023].
* `mocl`        weights softmax_i(s cos(q, k_i)) by a key for each task, learnt with L + (1 - cos(q, k_new)), s = 8
                [wang2024mocl]. Departure: q is the base's own last state, not the mean embedding.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.errors import ConfigError
from collegium.experts import FitConfig
from collegium.experts.fresh import numbers_of
from collegium.models import Adapter, Group, LoraWeights, RowPlan, lora_parts
from collegium.tasks.continual.alone import learn_alone
from collegium.tasks.continual.knowledge import (
    Knowledge,
    adapter_tensors,
    learnt,
    learnt_head,
    wearing,
)
from collegium.tasks.continual.readout import told, trained_heads
from collegium.tasks.continual.scene import Penalty, Scene, train

ORTHOGONALITY = 0.5
SHARPNESS = 8.0

Weighing = Callable[[Tensor], Tensor | None]


def grow(
    scene: Scene,
    seen: tuple[int, ...],
    before: Knowledge,
    *,
    method: str,
    adapter: Adapter,
    weigh: Weighing = lambda rows: None,
    penalty: Penalty | None = None,
    more: dict[str, Tensor] | None = None,
) -> Knowledge:
    """Return what was known with a new adapter and head, trained while the earlier adapters speak as weighed.

    more: other tensors that are trained; they become part of what is known.
    """
    lesson, more = scene.lessons[seen[-1]], more or {}
    earlier = [scene.lessons[task].name for task in seen[:-1]]
    label = f"{method}: {lesson.name} after {', '.join(earlier) or 'none'}"
    head = scene.new_head(seen[-1])
    columns = scene.columns(seen[-1:])
    weights = adapter_tensors(adapter) | trained_heads({lesson.name: head}, (lesson.name,)) | more
    with wearing(scene.base, {**before.adapters, lesson.name: adapter}) as keys:

        def nats(rows: Tensor, step: int | None) -> Tensor:
            states = scene.pool.states(rows, RowPlan((Group(keys, weigh(rows)),)))
            return scene.nats(told(states, [head]), rows, columns, alone=True)

        train(scene, weights, nats, rows=lesson.train, dev=lesson.dev, label=label, penalty=penalty)
    return before.having(
        adapters={lesson.name: learnt(adapter)},
        heads={lesson.name: learnt_head(head)},
        extra={name: each.detach().clone() for name, each in more.items()},
    )


def learn_olora(scene: Scene, seen: tuple[int, ...], before: Knowledge) -> Knowledge:
    """Return what was known with a new low-rank adapter whose inputs stand at right angles to the earlier ones'."""
    if scene.config.kind != "lora":
        raise ConfigError(f"olora is about the inputs of low-rank adapters (--kind lora), got {scene.config.kind!r}.")
    if len(seen) == 1:
        return learn_alone(scene, seen, before)
    adapter = scene.fresh()
    old = [lora_parts(each) for each in before.adapters.values()]

    def penalty(step: int, rows: Tensor) -> Tensor:
        return ORTHOGONALITY * overlap(old, lora_parts(adapter))

    return grow(scene, seen, before, method="olora", adapter=adapter, penalty=penalty)


def overlap(old: Sequence[dict[str, LoraWeights]], new: dict[str, LoraWeights]) -> Float[Tensor, ""]:
    """Return the sum over layers of |A_old A_new^T|, entry by entry."""
    return torch.stack([(each[path].a @ part.a.T).abs().sum() for each in old for path, part in new.items()]).sum()


def learn_active(scene: Scene, seen: tuple[int, ...], before: Knowledge) -> Knowledge:
    """Return what was known with an adapter trained while all earlier ones speak; nothing keeps them apart."""
    if len(seen) == 1:
        return learn_alone(scene, seen, before)
    return grow(scene, seen, before, method="active", adapter=scene.fresh())


def learn_progprompt(scene: Scene, seen: tuple[int, ...], before: Knowledge) -> Knowledge:
    """Return what was known with a new prefix behind the earlier ones."""
    settings = prefix_settings(scene)
    scene.base.check_length(settings.prefix_tokens * len(scene.lessons) + scene.config.text_tokens)
    return grow(scene, seen, before, method="progprompt", adapter=scene.fresh(settings))


def prefix_settings(scene: Scene) -> FitConfig:
    """Return the settings of a prefix: of as many positions as asked for, or as large as the stream's adapters."""
    settings = scene.settings()
    if settings.kind == "prefix":
        return settings
    tokens = scene.config.prefix_tokens or _as_large(scene)
    return replace(settings, kind="prefix", prefix_tokens=tokens)


def _as_large(scene: Scene) -> int:
    """Return how many positions make a prefix as large as an adapter of the settings, one at least."""
    one = numbers_of(scene.base, replace(scene.settings(), kind="prefix", prefix_tokens=1))
    return max(1, round(numbers_of(scene.base, scene.settings()) / one))


def cosine_weights(
    queries: Float[Tensor, "row hidden"], keys: Float[Tensor, "task hidden"]
) -> Float[Tensor, "row one task"]:
    """Return softmax_i(s cos(q, k_i)), the same at every position.

    >>> cosine_weights(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [1.0, 0.0]]))
    tensor([[[0.5000, 0.5000]]])
    """
    return (SHARPNESS * cosines(queries, keys)).softmax(-1)[:, None]


def cosines(queries: Float[Tensor, "row hidden"], keys: Float[Tensor, "task hidden"]) -> Float[Tensor, "row task"]:
    """Return the cosine of each query and key."""
    return torch.nn.functional.normalize(queries, dim=-1) @ torch.nn.functional.normalize(keys, dim=-1).T


def learn_mocl(scene: Scene, seen: tuple[int, ...], before: Knowledge) -> Knowledge:
    """Return what was known with a new adapter and its key, trained as all keys weigh them."""
    queries = scene.pool.queries
    lesson = scene.lessons[seen[-1]]
    key = queries[lesson.train].mean(0).requires_grad_()
    names = [f"key {scene.lessons[task].name}" for task in seen]
    earlier = [before.extra[name] for name in names[:-1]]

    def weigh(rows: Tensor) -> Tensor:
        return cosine_weights(queries[rows], torch.stack([*earlier, key]))

    def penalty(step: int, rows: Tensor) -> Tensor:
        return (1 - cosines(queries[rows], key[None])).mean()

    return grow(
        scene, seen, before, method="mocl", adapter=scene.fresh(), weigh=weigh, penalty=penalty, more={names[-1]: key}
    )
