"""Many requests at once, each by experts and settings of its own: a step-shaped engine."""

from collegium.infer.engine.engine import Engine, Experts
from collegium.infer.engine.values import EngineLimits, EngineStats, Event, Finished, Said

__all__ = ["Engine", "EngineLimits", "EngineStats", "Event", "Experts", "Finished", "Said"]
