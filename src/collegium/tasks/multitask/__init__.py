"""Tasks learnt together: an adapter each, gates that know the task, and the ways it is compared with."""

from collegium.tasks.multitask.config import MultitaskConfig
from collegium.tasks.multitask.expert import curves_of, mixture_payload, stage_shares, task_expert
from collegium.tasks.multitask.lessons import Lessons, Pool, lessons_of
from collegium.tasks.multitask.measure import Quality, alpha_matrix, measure, quality_of, task_accuracy
from collegium.tasks.multitask.methods import METHODS, Learnt, Method, base_quality, judged, learn_dense
from collegium.tasks.multitask.reuse import drawn_routes, learn_by_route
from collegium.tasks.multitask.workshop import Stage, Workshop

__all__ = [
    "METHODS",
    "Learnt",
    "Lessons",
    "Method",
    "MultitaskConfig",
    "Pool",
    "Quality",
    "Stage",
    "Workshop",
    "alpha_matrix",
    "base_quality",
    "curves_of",
    "drawn_routes",
    "judged",
    "learn_by_route",
    "learn_dense",
    "lessons_of",
    "measure",
    "mixture_payload",
    "quality_of",
    "stage_shares",
    "task_accuracy",
    "task_expert",
]
