"""`multitask eval`: how well a model does tasks, with the task given and told from the prompt."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tyro.conf import OmitArgPrefixes, Positional

from collegium.compose import TaskMixture
from collegium.core.errors import ConfigError, DataError
from collegium.core.protocols import LanguageModel
from collegium.data.text_tasks import TaskRow, TextTask, read_tasks
from collegium.recipes.common import Common
from collegium.recipes.held_out import seen_hashes
from collegium.recipes.opening import Opened, open_reference
from collegium.recipes.run_card import RunCard, make_card
from collegium.recipes.watch import Watch
from collegium.tasks.multitask.encoding import Answers, RowEncoder, encode_answers, scored_tokens
from collegium.tasks.multitask.measure import Quality, quality_of

_AT_ONCE = 16
_TEXT_TOKENS = 64


@dataclass(frozen=True)
class MultitaskEvalConfig:
    """Judge a model on tasks: perplexity of the answers, accuracy by the least nats, with the task given and told."""

    tasks: Positional[Path]
    """A folder with one .jsonl per task, as `multitask fit` reads it; its test part is scored."""
    model: str = field(kw_only=True)
    """What to judge: LIB#NAME as `multitask fit` kept it, or any other model."""
    task: str = ""
    """Take all rows to be of this task that the model has learnt; default = each row's own."""
    order: tuple[str, ...] = ()
    """Only these tasks."""
    test_rows: int = 100
    """At most this many test rows of each task; 0 = all."""
    text_tokens: int = 0
    """The most tokens of a prompt and its answer; 0 = as the model was trained, 64 for others."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: MultitaskEvalConfig, *, watch: Watch) -> RunCard:
    """Return the run's card; its result is the object of `multitask eval --json`."""
    start = time.perf_counter()
    if config.test_rows < 0 or config.text_tokens < 0:
        raise ConfigError("--test-rows and --text-tokens are numbers from 0 on.")
    tasks = read_tasks(config.tasks, order=config.order)
    opened = open_reference(config.model, config.common, watch=watch)
    check_task(opened.model, config.task, tasks)
    encoder = RowEncoder(opened.base, config.text_tokens or trained_tokens(opened))
    rows, skipped = test_rows(tasks, opened, config.test_rows)
    answers = {name: encode_answers(each, encoder) for name, each in rows.items()}
    update, total = watch.begin("judging", 3 * sum(len(each.texts) for each in answers.values())), 0

    def told(count: int) -> None:
        nonlocal total
        total += count
        update(total)

    before = quality(lambda name: opened.base, answers, told)
    model = opened.model
    result: dict[str, Any] = {"model": config.model, "before": before.to_json()}
    if isinstance(model, TaskMixture):
        result |= quality(lambda name: model.given(config.task or name), answers, told).to_json()
        result["routed"] = quality(lambda name: model.given(None), answers, told).to_json()
        result["routing_accuracy"] = {name: routed_share(model, name, each) for name, each in answers.items()}
    else:
        result |= quality(lambda name: model, answers, told).to_json()
    seconds = time.perf_counter() - start
    result |= {
        "rows": {name: each.rows for name, each in answers.items()},
        "skipped": skipped,
        "cut_prompts": {name: each.cut for name, each in answers.items()},
        "seconds": round(seconds, 3),
    }
    return make_card("multitask eval", config, result, seconds)


def check_task(model: LanguageModel, task: str, tasks: Sequence[TextTask]) -> None:
    """Raise ConfigError for a task given to a model without any, UnknownName for one it has not learnt."""
    if not isinstance(model, TaskMixture):
        if task:
            raise ConfigError(f"--task is for a model of many tasks (`multitask fit`), got {task!r} for another.")
        return
    for name in (task,) if task else (each.name for each in tasks):
        model.given(name)


def trained_tokens(opened: Opened) -> int:
    """Return the longest text that a model of many tasks was trained on."""
    if opened.library is None or opened.reference.member is None:
        return _TEXT_TOKENS
    return int(opened.library.card(opened.reference.member).constants.get("text_tokens", _TEXT_TOKENS))


def test_rows(tasks: Sequence[TextTask], opened: Opened, most: int) -> tuple[dict[str, list[TaskRow]], dict[str, int]]:
    """Return each task's test rows in the order of their hashes, without those that a member lists; and how many."""
    seen = seen_hashes(opened.library)
    kept = {task.name: [row for row in task.test if row.document not in seen] for task in tasks}
    empty = [name for name, rows in kept.items() if not rows]
    if empty:
        raise DataError(f"every test row of {', '.join(empty)} was trained on by this model; give others.")
    skipped = {task.name: len(task.test) - len(kept[task.name]) for task in tasks}
    return {name: sorted(rows, key=lambda row: row.hash)[: most or None] for name, rows in kept.items()}, skipped


def quality(
    model_of: Callable[[str], LanguageModel], answers: dict[str, Answers], told: Callable[[int], None]
) -> Quality:
    """Return how well models, one for each task's name, do the test rows."""
    nats = [answer_nats(model_of(name), each, told) for name, each in answers.items()]
    counts = [scored_tokens(each.texts).sum(1) for each in answers.values()]
    return quality_of(tuple(answers), tuple(answers.values()), nats, counts)


def answer_nats(model: LanguageModel, answers: Answers, told: Callable[[int], None]) -> Float[Tensor, " text"]:
    """Return the nats of each answer, its prompt being the context."""
    found = []
    for rows in torch.arange(len(answers.texts)).split(_AT_ONCE):
        batch = answers.texts.take(rows)
        found.append(-model.score(batch.tokens, lengths=batch.lengths, context=batch.prompts).sum(1).float().cpu())
        told(len(rows))
    return torch.cat(found)


def routed_share(model: TaskMixture, name: str, answers: Answers) -> float | None:
    """Return the share of prompts that the model takes to be of their own task, None for a task it has not learnt."""
    if name not in model.experts:
        return None
    hits = 0
    for rows in answers.right.nonzero().flatten().split(_AT_ONCE):
        prompts = answers.texts.take(rows).of_prompts
        said = model.task_log_probs(prompts.tokens, lengths=prompts.lengths).argmax(-1)
        hits += int((said == model.experts.index(name)).sum())
    return hits / answers.rows
