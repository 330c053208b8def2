"""One fit loop that knows tensors, with checkpoints, budgets and loggers."""

from collegium.train.budget import steps_of_budget
from collegium.train.checkpoints import Checkpoints, Snapshot
from collegium.train.history import DivergenceWatch, Evaluation, History, Step, history_from_json
from collegium.train.loggers import JsonlLogger, Logger, MemoryLogger, NullLogger, SeveralLoggers, TensorBoardLogger
from collegium.train.loop import Companion, Fit, Idle, Loss, fit
from collegium.train.order import Epochs
from collegium.train.settings import LoopConfig, check_rules, learning_rate_at

__all__ = [
    "Checkpoints",
    "Companion",
    "DivergenceWatch",
    "Epochs",
    "Evaluation",
    "Fit",
    "History",
    "Idle",
    "JsonlLogger",
    "Logger",
    "LoopConfig",
    "Loss",
    "MemoryLogger",
    "NullLogger",
    "SeveralLoggers",
    "Snapshot",
    "Step",
    "TensorBoardLogger",
    "check_rules",
    "fit",
    "history_from_json",
    "learning_rate_at",
    "steps_of_budget",
]
