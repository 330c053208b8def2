"""Base + library + router = one language model."""

from collegium.compose.asking import Asked, RowModel
from collegium.compose.choice import Choice
from collegium.compose.door import Cast, ComposedModel, assemble, attach_expert, check_base, ensemble, merge, mix
from collegium.compose.ensemble import Ensemble, EnsembleDecoding, combine, live_rows
from collegium.compose.joined import JoinedVoices, SeparateVoices
from collegium.compose.merge import TEXTLESS, constant_routing, textless_weights
from collegium.compose.mix import Mix, MixDecoding
from collegium.compose.routed import route
from collegium.compose.voices import SlotVoices, Voices

__all__ = [
    "TEXTLESS",
    "Asked",
    "Cast",
    "Choice",
    "ComposedModel",
    "Ensemble",
    "EnsembleDecoding",
    "JoinedVoices",
    "Mix",
    "MixDecoding",
    "RowModel",
    "SeparateVoices",
    "SlotVoices",
    "Voices",
    "assemble",
    "attach_expert",
    "check_base",
    "combine",
    "constant_routing",
    "ensemble",
    "live_rows",
    "merge",
    "mix",
    "route",
    "textless_weights",
]
