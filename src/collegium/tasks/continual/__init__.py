"""Tasks one after another: learn each without losing the others  [L2R, SAPT and what they are measured against]."""

from collegium.tasks.continual.composing import Composition, outputs
from collegium.tasks.continual.config import SETUPS, ContinualConfig, Setup
from collegium.tasks.continual.knowledge import Knowledge
from collegium.tasks.continual.methods import METHODS, Method, chosen_methods
from collegium.tasks.continual.metrics import StreamMetrics, stream_metrics
from collegium.tasks.continual.pool import Lesson, Pool, make_pool
from collegium.tasks.continual.scene import Scene
from collegium.tasks.continual.stream import Stage, accuracies, accuracy_on, composed, floors, learn_next

__all__ = [
    "METHODS",
    "SETUPS",
    "Composition",
    "ContinualConfig",
    "Knowledge",
    "Lesson",
    "Method",
    "Pool",
    "Scene",
    "Setup",
    "Stage",
    "StreamMetrics",
    "accuracies",
    "accuracy_on",
    "chosen_methods",
    "composed",
    "floors",
    "learn_next",
    "make_pool",
    "outputs",
    "stream_metrics",
]
