"""Names that a domain cannot have: its expert would bear a name that the library needs for something else."""

from collegium.core.errors import DataError
from collegium.core.names import FITTED_ROUTERS
from collegium.data import Corpus

NEWCOMER = "build-newcomer"
"""The expert that a build adds and removes again."""


def check_domains(corpus: Corpus) -> None:
    """Raise DataError for domains of reserved names, before anything is trained."""
    taken = [name for name in corpus.names if name in {*FITTED_ROUTERS, NEWCOMER}]
    if taken:
        raise DataError(
            f"an expert is named after its domain, and these names belong to routers and to the expert that a build "
            f"removes again: {', '.join((*FITTED_ROUTERS, NEWCOMER))}. Rename {', '.join(taken)}."
        )
