"""One method going through one order of tasks, one task at a time."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from collegium.experts.recipe import using_threads
from collegium.tasks.continual.composing import Composition, head_scales, outputs
from collegium.tasks.continual.knowledge import Knowledge
from collegium.tasks.continual.methods import Method
from collegium.tasks.continual.readout import choice_right
from collegium.tasks.continual.scene import Scene, remembered


@dataclass(frozen=True, eq=False)
class Stage:
    """A learner after some tasks."""

    seen: tuple[int, ...]
    knowledge: Knowledge
    composition: Composition


def learn_next(scene: Scene, method: Method, task: int, before: Stage | None) -> Stage:
    """Return a learner's stage after one more task."""
    seen = (*before.seen, task) if before else (task,)
    with using_threads(scene.config.threads or torch.get_num_threads()):
        knowledge = method.learn(scene, seen, before.knowledge if before else Knowledge())
        return Stage(seen, knowledge, composed(scene, method, seen, knowledge))


def accuracies(scene: Scene, stage: Stage) -> tuple[float, ...]:
    """Return the accuracy on the test rows of each task seen, in order."""
    rows = [scene.lessons[task].test for task in stage.seen]
    return tuple(accuracy_on(scene, stage.seen, stage.knowledge, stage.composition, rows=each) for each in rows)


def composed(scene: Scene, method: Method, seen: tuple[int, ...], knowledge: Knowledge) -> Composition:
    """Return how a method's adapters speak, heads scaled on the memory where labels of several tasks compete."""
    plain = method.compose(scene, seen, knowledge)
    memory = remembered(scene, seen)
    if scene.config.setup == "task" or len(seen) < 2 or not len(memory):
        return plain
    found = outputs(scene, seen, knowledge, composition=plain, rows=memory)
    scales, shifts = head_scales(found, memory, scene, seen)
    return replace(plain, scales=scales, shifts=shifts)


def rights(
    scene: Scene, seen: tuple[int, ...], knowledge: Knowledge, composition: Composition, *, rows: Int[Tensor, " row"]
) -> Bool[Tensor, " row"]:
    """Return whether the label chosen for each row is the right one."""
    found = outputs(scene, seen, knowledge, composition=composition, rows=rows)
    columns = scene.columns(seen)
    allowed = scene.allowed(rows, columns, alone=False)
    return choice_right(found, columns.right(scene.pool.labels_of(rows)), allowed)


def accuracy_on(
    scene: Scene, seen: tuple[int, ...], knowledge: Knowledge, composition: Composition, *, rows: Int[Tensor, " row"]
) -> float:
    """Return the share of rows whose label is chosen."""
    return float(rights(scene, seen, knowledge, composition, rows=rows).double().mean())


def floors(scene: Scene, texts: Mapping[str, tuple[list[str], list[str]]]) -> dict[str, dict[str, float]]:
    """Return the accuracy on each task's test rows of words alone, and of the commonest label.

    texts: task -> its train and its test texts. Labels compete as the setup says.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    labels = {lesson.name: scene.pool.labels_of(lesson.train) for lesson in scene.lessons}
    together = [text for own, _ in texts.values() for text in own], [each for own in labels.values() for each in own]
    words: dict[str, float] = {}
    common: dict[str, float] = {}
    joint = None
    for lesson in scene.lessons:
        truth = scene.pool.labels_of(lesson.test)
        own = texts[lesson.name][0], labels[lesson.name]
        if scene.config.setup == "task" or joint is None:
            joint = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10.0, max_iter=1000))
            joint.fit(*(own if scene.config.setup == "task" else together))
        words[lesson.name] = float(joint.score(texts[lesson.name][1], truth))
        commonest = max(sorted(set(own[1])), key=own[1].count)
        common[lesson.name] = float(torch.tensor([each == commonest for each in truth]).double().mean())
    return {"words": words, "commonest": common}
