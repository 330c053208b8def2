"""Base + library + router = one language model."""

from collegium.compose.asking import Asked, RowModel
from collegium.compose.choice import Choice
from collegium.compose.door import Cast, ComposedModel, assemble, attach_expert, check_base, ensemble, merge, mix
from collegium.compose.ensemble import Ensemble, EnsembleDecoding, combine, live_rows
from collegium.compose.fitted_gates import fit_phatgoose, fit_xlora
from collegium.compose.fitting import GateFit, Memory, Remembered, fit_through, memory_of
from collegium.compose.gated import GatedDecoding, GatedMix
from collegium.compose.joined import JoinedVoices, SeparateVoices
from collegium.compose.merge import TEXTLESS, textless_weights
from collegium.compose.mix import Mix, MixDecoding
from collegium.compose.pruned_table import PrunedTable, prune_table
from collegium.compose.routed import only_router, route
from collegium.compose.task_mixture import (
    TaskMixture,
    entering_states,
    mixture_plan,
    open_task_mixture,
    pooled_states,
    traced_weights,
)
from collegium.compose.voices import SlotVoices, Voices
from collegium.compose.weight_search import (
    FoundWeights,
    adapter_soup,
    blend_loss,
    greedy_soup,
    search_weights,
    text_similarity,
)

__all__ = [
    "TEXTLESS",
    "Asked",
    "Cast",
    "Choice",
    "ComposedModel",
    "Ensemble",
    "EnsembleDecoding",
    "FoundWeights",
    "GateFit",
    "GatedDecoding",
    "GatedMix",
    "JoinedVoices",
    "Memory",
    "Mix",
    "MixDecoding",
    "PrunedTable",
    "Remembered",
    "RowModel",
    "SeparateVoices",
    "SlotVoices",
    "TaskMixture",
    "Voices",
    "adapter_soup",
    "assemble",
    "attach_expert",
    "blend_loss",
    "check_base",
    "combine",
    "ensemble",
    "entering_states",
    "fit_phatgoose",
    "fit_through",
    "fit_xlora",
    "greedy_soup",
    "live_rows",
    "memory_of",
    "merge",
    "mix",
    "mixture_plan",
    "only_router",
    "open_task_mixture",
    "pooled_states",
    "prune_table",
    "route",
    "search_weights",
    "text_similarity",
    "textless_weights",
    "traced_weights",
]
