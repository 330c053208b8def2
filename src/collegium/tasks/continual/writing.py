"""Texts of a task that are written, not remembered: an adapter learns to write the task's texts, then writes some.

It is a low-rank adapter of its own, trained on the task's rows as texts as long as the task's adapter was, and kept no
longer than it writes. A text begins with the first token of a row that it learnt from.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.errors import ConfigError
from collegium.core.randomness import derive_seed
from collegium.infer import Sampling, generate
from collegium.models import RowPlan
from collegium.tasks.continual.knowledge import Knowledge, adapter_tensors, wearing
from collegium.tasks.continual.pool import largest_embeddings
from collegium.tasks.continual.scene import Scene, train

_KEY = "writer"


def written(scene: Scene, task: int) -> Float[Tensor, "text hidden"]:
    """Return the largest embeddings of texts that are written like a task's: as many as would be remembered.

    Raises ConfigError for a base that does not speak.
    """
    lesson, base = scene.lessons[task], scene.base
    if not base.speaks:
        raise ConfigError(
            f"sapt writes texts of earlier tasks to remember them, and {base.name} does not write. Use sapt-real, "
            "which remembers rows, or a base that speaks."
        )
    count = scene.config.memory * len(lesson.labels)
    if not count:
        raise ConfigError("sapt writes as many texts as would be remembered, which is none; give --memory.")
    label = f"{lesson.name} written"
    return scene.one_time(label, lambda: Knowledge(extra={label: _write(scene, task, count, label)})).extra[label]


def _write(scene: Scene, task: int, count: int, label: str) -> Tensor:
    lesson, base, pool = scene.lessons[task], scene.base, scene.pool
    adapter = scene.fresh()
    with wearing(base, {_KEY: adapter}) as (key,):

        def nats(rows: Tensor, step: int | None) -> Tensor:
            batch = pool.texts.take(rows)
            said = base.token_nats(batch.tokens, lengths=batch.lengths, plan=RowPlan.one(key))
            return said.sum(-1) / (batch.lengths - 1).clamp(min=1).to(said.device)

        train(scene, adapter_tensors(adapter), nats, rows=lesson.train, dev=lesson.dev, label=label)
        return _embedded(scene, key, task, count)


@torch.no_grad()
def _embedded(scene: Scene, key: str, task: int, count: int) -> Tensor:
    pool, config = scene.pool, scene.config
    rows = scene.lessons[task].train
    first = [pool.texts.tokens[rows[number % len(rows)], :1].tolist() for number in range(count)]
    sampling = Sampling(tokens=config.text_tokens - 1, temperature=1.0)
    seeds = [derive_seed(config.seed, "written", scene.lessons[task].name, str(number)) for number in range(count)]
    texts = generate(scene.base.wearing(key), first, sampling=sampling, seed=seeds)
    tokens = [torch.tensor([*start, *text.tokens]) for start, text in zip(first, texts, strict=True)]
    lengths = torch.tensor([len(each) for each in tokens])
    padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    return largest_embeddings(scene.base, padded, lengths).cpu()
