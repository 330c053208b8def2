"""Rows of preferences, collected and made into domains of pairs."""

from collections.abc import Mapping, Sequence

from collegium.core.cards import Source
from collegium.core.errors import DataError
from collegium.data.cells import check_domain
from collegium.data.preference_cells import no_column
from collegium.data.preference_pairing import pair_up
from collegium.data.preference_rows import PAIR_FIELDS, WAY_OUT, Entry, Judged, Unusable, read_entry
from collegium.data.preferences import Pair, PairCorpus, PairDomain
from collegium.data.row_files import Row
from collegium.data.rows import check_columns


class DomainReader:
    """Collects rows under the names of their domains, then makes pairs of them.

    columns, domain_column, drop_unusable: as in `read_preferences`.
    """

    def __init__(self, columns: Mapping[str, str] | None, domain_column: str | None, drop_unusable: bool) -> None:
        """Check the renaming."""
        self.columns = check_columns(columns, PAIR_FIELDS)
        self.domain_column, self.drop_unusable = domain_column, drop_unusable
        self.entries: dict[str, list[Entry]] = {}
        self.places: dict[str, str] = {}

    @property
    def wanted(self) -> set[str]:
        """The columns to be read."""
        own = {self.columns.get(field, field) for field in PAIR_FIELDS}
        return own if self.domain_column is None else own | {self.domain_column}

    def expect(self, name: str, *, where: str) -> None:
        """Make a place for a domain, which may turn out to be empty."""
        self.entries.setdefault(name, [])
        self.places.setdefault(name, where)

    def read(self, row: Row, *, name: str, origin: str, spelled: bool = False) -> None:
        """Read a row of this domain, or of the one that its own column names."""
        if self.domain_column is not None:
            name = self._own_domain(row, self.domain_column, origin)
            self.expect(name, where=name)
        entry = read_entry(row, columns=self.columns, origin=origin, spelled=spelled)
        if isinstance(entry, Unusable) and not self.drop_unusable:
            raise DataError(f"{origin}: {entry.reason}. {WAY_OUT}")
        self.entries[name].append(entry)

    def _own_domain(self, row: Row, column: str, origin: str) -> str:
        if column not in row:
            raise DataError(f"{origin}: each row names its domain, {no_column(column, row)}")
        return check_domain(row[column], origin=origin)

    def corpus(
        self,
        sources: Mapping[str, tuple[Source, ...]] | None = None,
        kinds: Mapping[str, str] | None = None,
        *,
        where: str,
    ) -> PairCorpus:
        """Return what was read."""
        if not self.entries:
            raise DataError(f"{where} holds no rows; give at least one file with rows of preferences.")
        return PairCorpus(tuple(self._domain(name, sources or {}, kinds or {}) for name in self.entries))

    def _domain(self, name: str, sources: Mapping[str, tuple[Source, ...]], kinds: Mapping[str, str]) -> PairDomain:
        entries = self.entries[name]
        paired = pair_up([each for each in entries if isinstance(each, Judged)], drop_unusable=self.drop_unusable)
        every = [each for each in entries if isinstance(each, Pair)] + list(paired.pairs)
        kept = {each.identity: each for each in reversed(every)}
        pairs = tuple(each for each in every if kept[each.identity] is each)
        unusable = paired.unusable + sum(isinstance(each, Unusable) for each in entries)
        if not pairs:
            raise DataError(_why_none(self.places[name], entries, unusable))
        return PairDomain(
            name,
            pairs,
            kind=kinds.get(name, ""),
            sources=sources.get(name, ()),
            duplicates=len(every) - len(pairs) + paired.duplicates,
            unusable=unusable,
            alone=paired.alone,
            surplus=paired.surplus,
        )


def _why_none(where: str, entries: Sequence[Entry], unusable: int) -> str:
    if not entries:
        return f"{where} holds no rows; a domain of preferences has at least one pair. Fill it or take it away."
    if unusable == len(entries):
        first = next((each for each in entries if isinstance(each, Unusable)), None)
        example = f", for example {first.origin}: {first.reason}" if first else ""
        return f"{where}: none of its rows can be used ({unusable:,} unusable{example}). Mend or take it away."
    return (
        f"{where}: its answers give no pair; an answer is preferred to another one of the same prompt (and group) that "
        "has a lower rating or the other label, and no prompt here has two such. Add answers, or take it away."
    )
