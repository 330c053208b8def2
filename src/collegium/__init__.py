"""Collegium turns any small language model into a college of experts.

>>> import collegium as cg
>>> from collegium.testing.pico import pico_base
>>> base = pico_base()
>>> law = cg.Domain("law", tuple(cg.Document(text=f"Article {n}. All persons are equal. " * 9) for n in range(9)))
>>> expert = cg.fit_expert(base, law, config=cg.FitConfig(rank=2, steps=2, window=32))
>>> expert.name
'law'
"""

from collegium import routers
from collegium.compose import ensemble, merge, mix
from collegium.core.errors import CollegiumError
from collegium.core.protocols import LanguageModel, PrefixRouter
from collegium.core.routing import Routing
from collegium.data import Corpus, Document, Domain, read_domains
from collegium.experts import Expert, FitConfig, fit_expert, fit_whole
from collegium.infer import Generation, Sampling, generate, perplexity
from collegium.library import Library
from collegium.models import Base, load_base

__all__ = [
    "Base",
    "CollegiumError",
    "Corpus",
    "Document",
    "Domain",
    "Expert",
    "FitConfig",
    "Generation",
    "LanguageModel",
    "Library",
    "PrefixRouter",
    "Routing",
    "Sampling",
    "ensemble",
    "fit_expert",
    "fit_whole",
    "generate",
    "load_base",
    "merge",
    "mix",
    "perplexity",
    "read_domains",
    "routers",
]
