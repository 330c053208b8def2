"""Verifying: every file is what its card says, and can be used."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from collegium.core.errors import CollegiumError
from collegium.core.names import is_name
from collegium.experts import WholePayload, load_model

if TYPE_CHECKING:
    from collegium.library.library import Library


def find_problems(library: "Library") -> dict[str, list[str]]:
    """Return name -> what is wrong with it; empty when all is well.

    What a dead writer left under a staging name is no problem: no reader looks at it, and the next writer deletes it.
    """
    problems = {
        **{name: _expert_problems(library, name) for name in library},
        **{f"experts/{name}": ["this is no expert's name; move it away."] for name in _strays(library)},
        **{name: _problems_of(lambda name=name: library.load_router(name)) for name in library.router_names()},
        **{name: _model_problems(library, name) for name in library.model_names()},
    }
    return {name: found for name, found in problems.items() if found}


def _expert_problems(library: "Library", name: str) -> list[str]:
    def read() -> None:
        library.forget(name)
        expert = library[name]
        if isinstance(expert.payload, WholePayload):
            load_model(expert.payload.model, dtype=torch.float32)

    return [*_problems_of(read), *_problems_of(lambda: library.metrics(name))]


def _model_problems(library: "Library", name: str) -> list[str]:
    found = _problems_of(lambda: library.load_model(name))
    if found:
        return found
    lost = [each for each in library.load_model(name).get("members", ()) if each not in library]
    return [f"members {lost} are not in the library."] if lost else []


def _problems_of(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except (CollegiumError, OSError) as error:
        return [str(error)]
    return []


def _strays(library: "Library") -> list[str]:
    folder = library.path / "experts"
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not (is_name(entry.name) and entry.is_dir()))
