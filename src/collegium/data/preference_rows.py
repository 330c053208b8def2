"""One row of preference data: a pair, an answer with its label or rating, or the reason why it is of no use."""

from collections.abc import Mapping
from dataclasses import dataclass

from collegium.core.errors import DataError
from collegium.data.preference_cells import PairCells, listed, no_column
from collegium.data.preferences import Pair, Text, plain_text
from collegium.data.prompt_prefix import split_prompt
from collegium.data.row_files import Row

PAIR_FIELDS = ("prompt", "chosen", "rejected", "completion", "label", "rating", "margin", "group")

_FORMS = (
    ("prompt", "chosen", "rejected"),
    ("chosen", "rejected"),
    ("prompt", "completion", "label"),
    ("prompt", "completion", "rating"),
)
WAY_OUT = "Mend or delete the row, or leave such rows out with `--drop-unusable` (drop_unusable=True)."

_PROMPT_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Judged:
    """An answer to a prompt with its label (1 or 0) or, if `rated`, its rating."""

    prompt: Text
    answer: Text
    worth: float
    rated: bool
    group: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Unusable:
    """Why a well-formed row teaches nothing: the rule and the value got."""

    reason: str
    origin: str = ""


Entry = Pair | Judged | Unusable


def read_entry(row: Row, *, columns: Mapping[str, str], origin: str, spelled: bool = False) -> Entry:
    """Return what a row says; raises DataError when its columns are missing or hold something else.

    columns: what our fields are called in this row. spelled: every cell is a text, as in a csv file.

    >>> read_entry({"prompt": "2+2=", "completion": "4", "label": True}, columns={}, origin="sums:1").worth
    1.0
    """
    cells = PairCells(row, columns, origin, spelled)
    form = _form(cells)
    if "chosen" in form:
        return _pair(cells, implicit="prompt" not in form)
    return _judged(cells, form[-1])


def _form(cells: PairCells) -> tuple[str, ...]:
    # Columns named on the command line decide before columns that happen to have our names.
    named = set(cells.columns)
    chosen = [form for form in _FORMS if named & set(form)] or list(_FORMS)
    most = max(len(named & set(form)) for form in chosen)
    chosen = [form for form in chosen if len(named & set(form)) == most]
    whole = [form for form in chosen if all(cells.has(field) for field in form)]
    if not whole:
        raise _no_form(cells, chosen)
    # Tables of several forms leave cells empty; an empty prompt is a fault and no other form.
    filled = [form for form in whole if all(cells.filled(field) for field in form if field != "prompt")] or whole
    if len(filled) > 1 and "chosen" not in filled[0]:
        raise DataError(
            f"{cells.origin}: an answer has a label or a rating, this row has both. Say which counts with "
            f"`--columns label={cells.column('label')}` or `--columns rating={cells.column('rating')}`."
        )
    return filled[0]


def _no_form(cells: PairCells, forms: list[tuple[str, ...]]) -> DataError:
    lacking = min(([field for field in form if not cells.has(field)] for form in forms), key=len)
    wanted = "; or ".join(listed(map(cells.column, form)) for form in forms)
    told = no_column(cells.column(lacking[0]), cells.row)
    return DataError(
        f"{cells.origin}: a row of preferences has the columns {wanted}; {told} "
        f"Name the right one, for example with `--columns {lacking[0]}=NAME`."
    )


def _pair(cells: PairCells, *, implicit: bool) -> Pair | Unusable:
    prompt, chosen, rejected = (
        (None if implicit else cells.text("prompt")),
        cells.text("chosen"),
        cells.text("rejected"),
    )
    margin, group = cells.margin(), cells.group()
    empty = _empty(cells, {"chosen": chosen, "rejected": rejected} | ({} if implicit else {"prompt": prompt}))
    if empty is not None:
        return empty
    assert chosen is not None
    assert rejected is not None
    _check_alike(cells, {"chosen": chosen, "rejected": rejected} | ({} if prompt is None else {"prompt": prompt}))
    if chosen == rejected:
        names = (cells.column("chosen"), cells.column("rejected"))
        return Unusable(f"one answer is preferred to another, here `{names[0]}` equals `{names[1]}`", cells.origin)
    if prompt is None:
        prompt, chosen, rejected = split_prompt(chosen, rejected)
        empty = _empty_part(cells, prompt, (chosen, rejected))
        if empty is not None:
            return empty
    _check_roles(cells, prompt, (chosen, rejected))
    return Pair(prompt, chosen, rejected, margin, group, cells.origin)


def _judged(cells: PairCells, measure: str) -> Judged | Unusable:
    prompt, answer = cells.text("prompt"), cells.text("completion")
    worth, group = (float(cells.label()) if measure == "label" else cells.number("rating")), cells.group()
    empty = _empty(cells, {"prompt": prompt, "completion": answer})
    if empty is not None:
        return empty
    assert prompt is not None
    assert answer is not None
    _check_alike(cells, {"prompt": prompt, "completion": answer})
    _check_roles(cells, prompt, (answer,))
    return Judged(prompt, answer, worth, measure == "rating", group, cells.origin)


def _empty(cells: PairCells, texts: Mapping[str, Text | None]) -> Unusable | None:
    for field, text in texts.items():
        if text is None or not plain_text(text).strip():
            return Unusable(f"prompt and answers have text, here `{cells.column(field)}` is empty", cells.origin)
    return None


def _empty_part(cells: PairCells, prompt: Text, answers: tuple[Text, ...]) -> Unusable | None:
    if not plain_text(prompt).strip():
        return Unusable(
            "without a column `prompt` the prompt is what both answers begin with, here they have no beginning in "
            "common (a plain text's ends at white space)",
            cells.origin,
        )
    if not all(plain_text(each).strip() for each in answers):
        return Unusable(
            "behind what both answers begin with, the prompt, each has text; here one has none", cells.origin
        )
    return None


def _check_alike(cells: PairCells, texts: Mapping[str, Text]) -> None:
    kinds = {cells.column(field): "a text" if isinstance(text, str) else "messages" for field, text in texts.items()}
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"`{name}` is {kind}" for name, kind in kinds.items())
        raise DataError(
            f"{cells.origin}: prompt and answers are all texts or all lists of messages; here {found}. Turn the texts "
            "into messages; where both answers begin with the prompt's messages, take the column of the prompt away."
        )


def _check_roles(cells: PairCells, prompt: Text, answers: tuple[Text, ...]) -> None:
    for text, allowed, what in (
        (prompt, _PROMPT_ROLES, "a prompt's"),
        *((each, ("assistant",), "an answer's") for each in answers),
    ):
        wrong = [] if isinstance(text, str) else [each.role for each in text if each.role not in allowed]
        if wrong:
            raise DataError(
                f"{cells.origin}: {what} messages have the role {' or '.join(allowed)}, got {wrong[0]!r:.40}. An "
                "answer is what the assistant says behind the prompt; mend or delete the row."
            )
