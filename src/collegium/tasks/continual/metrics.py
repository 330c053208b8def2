"""What a stream came to: accuracies after each task, and what is read off them.

R[i, j]: accuracy on task j after task i was learnt, j <= i; T tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

Matrix = tuple[tuple[float, ...], ...]
"""A row for each task learnt, as long as there are tasks seen by then."""


@dataclass(frozen=True)
class StreamMetrics:
    """Of one method in one order.

    average_accuracy:  mean_j R[T, j].
    forgetting:        mean_{j < T} (max_{i < T} R[i, j] - R[T, j]).
    backward_transfer: mean_{j < T} (R[T, j] - R[j, j]).
    forward_transfer:  mean_j (R[j, j] - what a model trained on task j alone reaches there); None = not known.
    """

    average_accuracy: float
    forgetting: float
    backward_transfer: float
    forward_transfer: float | None = None


def stream_metrics(matrix: Matrix, alone: Sequence[float] | None = None) -> StreamMetrics:
    """Return the metrics of a matrix; alone: accuracy on each task of a model of that task alone.

    >>> stream_metrics(((0.9,), (0.5, 0.8)), (0.8, 0.8))
    StreamMetrics(average_accuracy=0.65, forgetting=0.4, backward_transfer=-0.4, forward_transfer=0.05)
    """
    last, tasks = matrix[-1], len(matrix)
    before = range(tasks - 1)
    forgotten = [max(matrix[i][j] for i in range(j, tasks - 1)) - last[j] for j in before]
    back = [last[j] - matrix[j][j] for j in before]
    forward = None if alone is None else _mean([matrix[j][j] - alone[j] for j in range(tasks)])
    return StreamMetrics(_mean(last), _mean(forgotten), _mean(back), forward)


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 6) if values else 0.0
