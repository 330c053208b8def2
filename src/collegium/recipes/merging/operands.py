"""What a merge is made of: the experts that an expression names, and the changes that it lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from collegium.core.errors import ConfigError, UnknownName
from collegium.core.tables import nearest
from collegium.data import Corpus, Document
from collegium.experts import Expert
from collegium.experts.algebra import Delta, deltas_of, evaluate, names_in, parse_list, written
from collegium.experts.algebra.delta import KINDS
from collegium.experts.algebra.syntax import Name, shortened
from collegium.library import Library


@dataclass(frozen=True)
class Operand:
    """One of the changes that are merged: its text, the experts it names, its own name where it is just an expert."""

    text: str
    delta: Delta
    experts: tuple[str, ...]
    name: str | None


@dataclass(frozen=True)
class Operands:
    """The changes that are merged, and the experts that they name."""

    each: tuple[Operand, ...]
    parents: tuple[Expert, ...]

    @property
    def deltas(self) -> list[Delta]:
        """The changes."""
        return [operand.delta for operand in self.each]

    @property
    def texts(self) -> tuple[str, ...]:
        """How they are written."""
        return tuple(operand.text for operand in self.each)

    def parents_under(self, weights: Mapping[str, float] | None) -> tuple[Expert, ...]:
        """Return the experts that take part: not those of operands that got no weight."""
        live = {name for each in self.each if weights is None or weights.get(each.text, 0.0) for name in each.experts}
        return tuple(expert for expert in self.parents if expert.name in live)

    def names(self, *, method: str) -> tuple[str, ...]:
        """Return the experts' names; raises ConfigError where one is not just an expert."""
        for operand in self.each:
            if operand.name is None:
                raise ConfigError(
                    f"{method} reads each expert's own texts, so it takes experts by name, got "
                    f"{shortened(operand.text)}."
                )
        return tuple(operand.name or "" for operand in self.each)


def read_operands(library: Library, text: str) -> Operands:
    """Return what a list of expressions comes to; an empty one means every expert that can be merged.

    Raises UnknownName, ConfigError and IncompatibleExpert, as parsing, evaluating and the experts' kinds say.
    """
    if not text.strip():
        text = ", ".join(f"'{name}'" for name in mergeable(library))
    nodes = parse_list(text, library.names())
    names = tuple(dict.fromkeys(name for node in nodes for name in names_in(node)))
    if not names:
        raise ConfigError(f"{shortened(text)} names no expert, so there is nothing to merge; write which: law + code.")
    experts = tuple(library[name] for name in names)
    deltas = deltas_of(experts)
    return Operands(
        tuple(
            Operand(
                node.name if isinstance(node, Name) else written(node),
                evaluate(node, deltas),
                names_in(node),
                node.name if isinstance(node, Name) else None,
            )
            for node in nodes
        ),
        experts,
    )


def mergeable(library: Library) -> tuple[str, ...]:
    """Return the language experts that are changes of the base; raises ConfigError where there is none."""
    names = tuple(row.name for row in library.rows().values() if row.kind in KINDS and row.task == "language")
    if not names:
        raise ConfigError(
            f"the library {library.path} has no language expert of kind {' or '.join(KINDS)} to merge; train one, or "
            "use mix or ensemble."
        )
    return names


def own_documents(corpus: Corpus, names: Sequence[str]) -> dict[str, tuple[Document, ...]]:
    """Return the training documents of each expert's own domain; raises UnknownName where one is missing."""
    for name in names:
        if name not in corpus.names:
            raise UnknownName(
                f"--texts has a domain named after each expert, and none for {name!r}. {nearest(name, corpus.names)}"
            )
    return {name: corpus[name].split().train for name in names}
