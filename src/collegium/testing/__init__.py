"""Public fakes and conformance suites; needs no pytest to import.

TinyLM is the enumerable oracle, PicoLlama (`pico_base`, `train_pico`) the byte-level toy base; each `check_*` raises
AssertionError with the law that broke, for parts of ours and of outside packages alike.
"""

from collegium.testing.composition import check_composition, check_mixture
from collegium.testing.expert_format import check_expert_format
from collegium.testing.feature import check_feature
from collegium.testing.gate import check_gates
from collegium.testing.language_model import check_language_model
from collegium.testing.library import check_library
from collegium.testing.pico import byte_tokenizer, pico_base, random_adapter, random_base, random_expert, train_pico
from collegium.testing.router import check_regret_bound, check_router
from collegium.testing.shelf import MemoryShelf
from collegium.testing.tiny import LetterTokenizer, TinyLM, bigram_lm, tiny_lm

__all__ = [
    "LetterTokenizer",
    "MemoryShelf",
    "TinyLM",
    "bigram_lm",
    "byte_tokenizer",
    "check_composition",
    "check_expert_format",
    "check_feature",
    "check_gates",
    "check_language_model",
    "check_library",
    "check_mixture",
    "check_regret_bound",
    "check_router",
    "pico_base",
    "random_adapter",
    "random_base",
    "random_expert",
    "tiny_lm",
    "train_pico",
]
