"""Gates: who speaks inside the base, layer by layer, for `mix` alone."""

from collegium.routers.gates.arrow import Arrow, arrow
from collegium.routers.gates.gating import GateRecipe, Gating, HeadGates, SlotGates
from collegium.routers.gates.phatgoose import Phatgoose, grow_phatgoose, phatgoose, shrink_phatgoose
from collegium.routers.gates.table import GATES, available_gates
from collegium.routers.gates.uniform_gate import UniformGate, uniform_gate
from collegium.routers.gates.xlora import Xlora, keep_xlora, xlora

__all__ = [
    "GATES",
    "Arrow",
    "GateRecipe",
    "Gating",
    "HeadGates",
    "Phatgoose",
    "SlotGates",
    "UniformGate",
    "Xlora",
    "arrow",
    "available_gates",
    "grow_phatgoose",
    "keep_xlora",
    "phatgoose",
    "shrink_phatgoose",
    "uniform_gate",
    "xlora",
]
