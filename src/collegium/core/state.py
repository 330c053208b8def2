"""Rows of a router's state."""

from jaxtyping import Int
from torch import Tensor

from collegium.core.protocols import RouterState


def select_rows(state: RouterState, rows: Int[Tensor, " kept"]) -> RouterState:
    """Return the state of these texts alone: tensors are indexed, lists picked from, tuples walked into."""
    if isinstance(state, Tensor):
        return state[rows.to(state.device)]
    if isinstance(state, list):
        return [state[row] for row in rows.tolist()]
    if isinstance(state, tuple):
        return tuple(select_rows(part, rows) for part in state)
    return state
