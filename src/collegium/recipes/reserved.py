"""Names that a domain cannot have: its expert would bear a name that the library needs for something else."""

from collegium.core.errors import DataError
from collegium.data import Corpus
from collegium.recipes.fit_routers import FITTED

NEWCOMER = "build-newcomer"
"""The expert that a build adds and removes again."""


def check_domains(corpus: Corpus) -> None:
    """Raise DataError for domains of reserved names, before anything is trained."""
    taken = [name for name in corpus.names if name in {*FITTED, NEWCOMER}]
    if taken:
        raise DataError(
            f"an expert is named after its domain, and these names belong to routers and to the expert that a build "
            f"removes again: {', '.join((*FITTED, NEWCOMER))}. Rename {', '.join(taken)}."
        )
