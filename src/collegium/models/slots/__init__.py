"""Slots: where attached experts change the base while it runs, without the base's weights or names being touched.

attached -> residents (slabs) -> stacks (what one place computes for the rows of one run) -> hooks.
"""

from collegium.models.slots.gated import OpenTrace, Trace
from collegium.models.slots.residents import Source
from collegium.models.slots.run import Run
from collegium.models.slots.slots import Slots

__all__ = ["OpenTrace", "Run", "Slots", "Source", "Trace"]
