"""The table of gates."""

from importlib.metadata import entry_points

from collegium.core.errors import ConfigError
from collegium.core.tables import Method
from collegium.routers.gates.arrow import arrow
from collegium.routers.gates.phatgoose import phatgoose
from collegium.routers.gates.uniform_gate import uniform_gate
from collegium.routers.gates.xlora import xlora

GATE_ENTRY_POINTS = "collegium.gates"
"""The entry-point group in which outside packages name a `Method` that builds a gate recipe."""

GATES: dict[str, Method] = {
    "arrow": Method(
        arrow,
        paper="ostapenko2024arrow",
        growth="exact",
        claims=("B1", "B2", "B3", "B6", "B7"),
        summary="whose own direction the state lies along; nothing is fitted",
    ),
    "phatgoose": Method(
        phatgoose, paper="muqeeth2024phatgoose", growth="exact", summary="whose learnt gate vector the state is near"
    ),
    "uniform_gate": Method(uniform_gate, growth="exact", summary="everybody equally, as gates"),
    "xlora": Method(
        xlora,
        paper="buehler2024xlora",
        growth="refit",
        summary="a head on the base's last hidden state weighs every layer",
    ),
}


def available_gates() -> dict[str, Method]:
    """Return our gates and those that installed packages bring; raises ConfigError when two claim one name."""
    found = dict(GATES)
    for point in entry_points(group=GATE_ENTRY_POINTS):
        method = point.load()
        if point.name in found or not isinstance(method, Method):
            fault = "a name that is taken" if point.name in found else f"a {type(method).__name__}, not a Method"
            raise ConfigError(
                f"entry point {point.value!r} of {GATE_ENTRY_POINTS!r} brings gate {point.name!r}: {fault}."
            )
        found[point.name] = method
    return found
