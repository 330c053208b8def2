"""Domains of three tasks each that packages carry: what they ask, and where their texts come from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from collegium.core.parcels import Parcel
from collegium.data.demo import PARCELS
from collegium.data.task_sources.chat import chat_tasks
from collegium.data.task_sources.code import code_tasks
from collegium.data.task_sources.drama import drama_tasks
from collegium.data.task_sources.rows import SourceRow


@dataclass(frozen=True)
class TaskSource:
    """A domain's tasks by name, made of an archive, or of this Python's own library where there is no parcel."""

    what: str
    names: tuple[str, ...]
    parcel: Parcel | None
    tasks: Callable[[Path], Mapping[str, tuple[SourceRow, ...]]]


TASK_SOURCES: Mapping[str, TaskSource] = {
    "chat": TaskSource(
        "a chat's rating, the choice of a reply, a reply",
        ("rating", "reply", "reply-choice"),
        PARCELS["chat"],
        chat_tasks,
    ),
    "code": TaskSource(
        "a function's docstring, its name, its completion", ("completion", "docstring", "name"), None, code_tasks
    ),
    "drama": TaskSource(
        "who speaks, in which act, how it goes on", ("act", "continuation", "speaker"), PARCELS["drama"], drama_tasks
    ),
}
"""A row for each domain."""
