"""Files from elsewhere: what loaders raise on damaged ones is told in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from collegium.core.errors import BaseModelError, CollegiumError
from collegium.models.device import memory_errors

_REASON = 300
"""Characters of a loader's own message that are shown."""


@contextmanager
def damage_told(what: str) -> Iterator[None]:
    """Turn whatever is raised while foreign files are read into a BaseModelError: `what`, and the loader's reason.

    Exhausted memory is no damage: it becomes a ResourceError that names the flags.
    """
    try:
        with memory_errors("--dtype to bfloat16 or take a smaller base"):
            yield
    except CollegiumError:
        raise
    except Exception as error:  # loaders raise anything: KeyError, ZeroDivisionError, classes of their own
        reason = " ".join(str(error).split())[:_REASON] or type(error).__name__
        raise BaseModelError(f"{what}: {reason} ({type(error).__name__}).") from error
