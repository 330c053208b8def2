"""The name that a domain cannot have because a build needs it; those of routers are refused by `Domain` itself."""

from collegium.core.errors import DataError
from collegium.data import Corpus

NEWCOMER = "build-newcomer"
"""The expert that a build adds and removes again."""


def check_domains(corpus: Corpus) -> None:
    """Raise DataError for a domain of the reserved name, before anything is trained."""
    if NEWCOMER in corpus.names:
        raise DataError(
            f"an expert is named after its domain, and {NEWCOMER!r} is the expert that a build adds and removes again. "
            "Rename that domain."
        )
