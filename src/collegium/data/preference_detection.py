"""Whether files hold preferences or texts."""

from collections.abc import Mapping
from pathlib import Path

from collegium.core.errors import DataError
from collegium.data.preference_rows import PAIR_FIELDS, read_entry
from collegium.data.preferences import Pair
from collegium.data.reading import domain_parts, files_below, supported_files
from collegium.data.row_files import ROW_SUFFIXES, Row, file_rows


def holds_preferences(path: str | Path, *, columns: Mapping[str, str] | None = None) -> bool:
    """Return whether files hold rows of preferences rather than texts, by the first row of each.

    Rows are of preferences when they have `chosen` or `rejected`, or an answer with a `label` of true or false or with
    a number as its `rating`; so they are when `columns` names one of these.

    Raises DataError when a folder holds both.
    """
    root = Path(path)
    if set(columns or {}) & (set(PAIR_FIELDS) - {"prompt", "completion"}):
        return True
    parts = [root] if not root.is_dir() else domain_parts(root, supported=supported_files())
    found: dict[bool, Path] = {}
    for part in parts:
        for file in files_below(part) if part.is_dir() else [part]:
            form = _file_form(file, columns or {})
            if form is not None:
                found.setdefault(form, file)
    if len(found) == 2:
        raise DataError(
            f"a folder holds texts or preferences, here {found[False]} has texts and {found[True]} has preferences. "
            "Put them into two folders."
        )
    return True in found


def _file_form(path: Path, columns: Mapping[str, str]) -> bool | None:
    if path.suffix.lower() not in ROW_SUFFIXES:
        return False
    names = {field: columns.get(field, field) for field in (*PAIR_FIELDS, "text", "messages")}
    row = next((row for _, row in file_rows(path, wanted=set(names.values()), where=str(path))), None)
    if row is None:
        return None
    if names["chosen"] in row and names["rejected"] in row:
        return True
    if names["text"] in row or names["messages"] in row:
        return False
    if names["completion"] not in row or names["prompt"] not in row:
        return names["chosen"] in row or names["rejected"] in row
    return _has_judgement(row, columns, spelled=path.suffix.lower() == ".csv")


def _has_judgement(row: Row, columns: Mapping[str, str], *, spelled: bool) -> bool:
    try:
        entry = read_entry(row, columns=columns, origin="", spelled=spelled)
    except DataError:
        return False
    return not isinstance(entry, Pair)
