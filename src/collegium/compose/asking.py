"""What a composed model asks of rows: a plan for its prompts, and a decoding made of the rows' outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from collegium.core.protocols import Decoding, Tokenizer
from collegium.models import Base, RowPlan, RowReader


@dataclass(frozen=True, eq=False)
class Asked:
    """How prompts are to be read.

    plan:  the rows of the base that read them. begin: makes a decoding of whatever continues these rows.
    read:  how many prompt tokens were read in advance, to decide the plan.
    """

    base: Base
    plan: RowPlan
    begin: Callable[[RowReader], Decoding]
    read: int = 0


@runtime_checkable
class RowModel(Protocol):
    """A language model that is rows of one base, which may therefore run together with others' rows."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The base's tokenizer."""
        ...

    @property
    def vocab_size(self) -> int:
        """The base's vocabulary."""
        ...

    def ask(self, prompts: Sequence[Sequence[int]]) -> Asked:
        """Return how these prompts are to be read; raises RoutingError for a model that has voices elsewhere."""
        ...
