"""Which task a text is of, by how near the base's own last state of it lies to the classes' means.

* `centroid`  the nearest mean, in Euclidean distance, of states of mean 0 and deviation 1.
* `epi`       the smallest Mahalanobis distance, with one covariance for all classes  [wang2023epi].

Means and covariance are of all rows learnt from, taken when each task came; nothing later changes them. Departure from
EPI: covariances are averaged over tasks as they come, and shrunk by a tenth of their mean variance.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.tasks.continual.alone import learn_alone
from collegium.tasks.continual.knowledge import Knowledge
from collegium.tasks.continual.scene import Scene

SHRINKAGE = 0.1


def learn_means(scene: Scene, seen: tuple[int, ...], before: Knowledge) -> Knowledge:
    """Return what was known with the last task learnt alone, and the means and the scatter of its classes."""
    lesson = scene.lessons[seen[-1]]
    queries = scene.pool.queries[lesson.train]
    labels = scene.pool.labels_of(lesson.train)
    groups = [queries[torch.tensor([each == label for each in labels])] for label in lesson.labels]
    means = torch.stack([group.mean(0) for group in groups])
    inside = torch.cat([group - group.mean(0) for group in groups])
    extra = {f"means {lesson.name}": means, f"scatter {lesson.name}": inside.T @ inside / len(inside)}
    return learn_alone(scene, seen, before).having(extra=extra)


def nearest_task(
    queries: Float[Tensor, "row hidden"],
    means: list[Float[Tensor, "_ hidden"]],
    metric: Float[Tensor, "hidden hidden"],
) -> Int[Tensor, " row"]:
    """Return the place of the task with the class mean nearest to each query, (q - m)^T metric (q - m).

    >>> means = [torch.tensor([[0.0, 0.0], [9.0, 9.0]]), torch.tensor([[5.0, 0.0]])]
    >>> nearest_task(torch.tensor([[8.0, 8.0], [4.0, 1.0]]), means, torch.eye(2))
    tensor([0, 1])
    """
    distances = []
    for own in means:
        gap = queries[:, None] - own[None]
        distances.append(((gap @ metric) * gap).sum(-1).amin(-1))
    return torch.stack(distances, dim=-1).argmin(-1)


def euclidean(scene: Scene, seen: tuple[int, ...], knowledge: Knowledge) -> Float[Tensor, "hidden hidden"]:
    """Return the metric of states that have deviation 1 in each place over the classes' own scatter."""
    return torch.diag(1 / _scatter(scene, seen, knowledge).diagonal().clamp(min=1e-6))


def mahalanobis(scene: Scene, seen: tuple[int, ...], knowledge: Knowledge) -> Float[Tensor, "hidden hidden"]:
    """Return the inverse of the shared covariance, shrunk towards its mean variance."""
    shared = _scatter(scene, seen, knowledge)
    mean = shared.diagonal().mean().clamp(min=1e-6)
    return torch.linalg.inv((1 - SHRINKAGE) * shared + SHRINKAGE * mean * torch.eye(len(shared)))


def _scatter(scene: Scene, seen: tuple[int, ...], knowledge: Knowledge) -> Tensor:
    return torch.stack([knowledge.extra[f"scatter {scene.lessons[task].name}"] for task in seen]).mean(0)


def task_means(scene: Scene, seen: tuple[int, ...], knowledge: Knowledge) -> list[Tensor]:
    """Return the means of each task's classes."""
    return [knowledge.extra[f"means {scene.lessons[task].name}"] for task in seen]
