"""Base + library + router = one language model."""

from collegium.compose.choice import Choice
from collegium.compose.door import Cast, ComposedModel, assemble, attach_expert, check_base, ensemble, merge, mix
from collegium.compose.ensemble import Ensemble, EnsembleDecoding, combine, live_rows
from collegium.compose.joined import JoinedVoices, SeparateVoices
from collegium.compose.merge import TEXTLESS, constant_routing, textless_weights
from collegium.compose.mix import Mix, MixDecoding
from collegium.compose.routed import route
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
    "Cast",
    "Choice",
    "ComposedModel",
    "Ensemble",
    "EnsembleDecoding",
    "FoundWeights",
    "JoinedVoices",
    "Mix",
    "MixDecoding",
    "SeparateVoices",
    "SlotVoices",
    "Voices",
    "adapter_soup",
    "assemble",
    "attach_expert",
    "blend_loss",
    "check_base",
    "combine",
    "constant_routing",
    "ensemble",
    "greedy_soup",
    "live_rows",
    "merge",
    "mix",
    "route",
    "search_weights",
    "text_similarity",
    "textless_weights",
]
