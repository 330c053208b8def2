"""What every library must satisfy: closure under filtering, exact removal, and nothing lost."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from collegium.core.cards import ExpertCard, Fingerprint
from collegium.core.errors import (
    CollegiumError,
    CorruptExpert,
    IncompatibleExpert,
    LibraryError,
    NameTaken,
    UnknownName,
)
from collegium.experts import AdapterPayload, Expert, parents_of
from collegium.experts.fresh import with_tensors
from collegium.models import HeadWeights
from collegium.testing.expert_format import adapter_tensors


@runtime_checkable
class LibraryLike(Protocol):
    """The part of `collegium.library.Library` that the suite asks."""

    path: Path

    def names(self, task: str | None = None) -> tuple[str, ...]:
        """Return the experts' names in order."""
        ...

    def __contains__(self, name: object) -> bool:
        """Whether there is an expert of that name."""
        ...

    def __len__(self) -> int:
        """How many experts there are."""
        ...

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        ...

    def __getitem__(self, name: str) -> Expert:
        """Return an expert."""
        ...

    def add(self, expert: Expert, name: str | None = None) -> ExpertCard:
        """Add an expert."""
        ...

    def remove(self, name: str, *, cascade: bool = False, keep_descendants: bool = False) -> Any:  # noqa: ANN401
        """Remove an expert."""
        ...

    def measure(self, name: str, record: Mapping[str, Any]) -> None:
        """Append a measurement to an expert's."""
        ...

    def metrics(self, name: str) -> list[dict[str, Any]]:
        """Return an expert's measurements, oldest first."""
        ...

    def save_router(self, name: str, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
        """Keep a fitted router."""
        ...

    def load_router(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return a fitted router's tensors and card."""
        ...

    def filter(self, names: Collection[str]) -> "LibraryLike":
        """Return a part, again a library."""
        ...

    def verify(self) -> Mapping[str, list[str]]:
        """Return what is wrong, by name."""
        ...


Open = Callable[[], LibraryLike]
"""Opens the library under test, the same one at each call, empty at the first."""

CACHES = frozenset({"index.sqlite", "index.sqlite-journal", ".lock"})
"""Files of a library that say nothing which its other files do not say."""


def check_library(open_library: Open, experts: tuple[Expert, Expert, Expert]) -> None:
    """Return nothing when a library keeps its contract; raise AssertionError with what broke.

    The laws: what was added is there for everybody, to the bit, in order of name; a name is given once, and never has
    path parts; an expert of another base, and one that is not finite, is refused; names are asked for by task; adding
    and removing again leaves every other file as it was, and routers and measurements say what they said; a part of a
    library is a library; an expert from which others came is not removed without a word about them; what is damaged is
    found by `verify`.

    experts: three adapter experts (of any kinds) of the library's base, with names of their own and no parents.
    """
    first, second, third = experts
    _check_add(open_library, first, second)
    _check_names(open_library, first, third)
    _check_refused_experts(open_library, third)
    _check_tasks(open_library, third)
    _check_exact_removal(open_library, third)
    _check_kept(open_library, first, third)
    _check_filter(open_library, first, second)
    _check_lineage(open_library, first, third)
    _check_verify(open_library, first)


def snapshot(root: Path) -> dict[str, bytes]:
    """Return the content of every file of a library that is not a cache, by its path."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name not in CACHES)
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def _check_add(open_library: Open, first: Expert, second: Expert) -> None:
    library, witness = open_library(), open_library()
    assert library.names() == (), "the suite starts with an empty library"
    library.add(second)
    library.add(first)
    for other in (library, witness, open_library()):
        expected = tuple(sorted((first.name, second.name)))
        assert other.names() == expected, f"what was added is there for everybody, in order: {other.names()}"
        assert tuple(other) == expected, f"iterating gives the names: {tuple(other)}"
        assert len(other) == 2, f"its length counts the experts: {len(other)}"
        for expert in (first, second):
            assert expert.name in other, f"{expert.name!r} is in it"
            _same(other[expert.name], expert)


def _check_names(open_library: Open, first: Expert, third: Expert) -> None:
    library = open_library()
    before = snapshot(library.path)
    taken = third.renamed(first.name)
    _refused(lambda: library.add(taken), NameTaken, "a name is given once")
    for name in ("../x", "a/b", "", ".hidden", "base", "x" * 65):
        _refused(lambda name=name: library.add(third, name), NameTaken, f"the name {name!r} is refused")
    assert snapshot(library.path) == before, "what was refused changes nothing"
    assert not (library.path.parent / "x").exists(), "nothing is written outside of the library"
    _refused(lambda: library["nobody"], UnknownName, "an unknown name is refused")
    _refused(lambda: library.remove("nobody"), UnknownName, "an unknown name cannot be removed")


def _check_refused_experts(open_library: Open, third: Expert) -> None:
    library = open_library()
    before = snapshot(library.path)
    assert isinstance(third.payload, AdapterPayload), "give adapter experts"
    other = replace(third.card, base=Fingerprint("0" * 64, "1" * 64, "2" * 64))
    law = "an expert of another base is refused"
    _refused(lambda: library.add(Expert(other, third.payload)), IncompatibleExpert, law)
    for value in (math.nan, math.inf):
        adapter = with_tensors(third.payload.adapter, lambda tensor, value=value: tensor * value)
        spoilt = Expert(third.card, replace(third.payload, adapter=adapter))
        _refused(lambda spoilt=spoilt: library.add(spoilt), CorruptExpert, "an expert that is not finite is refused")
    assert snapshot(library.path) == before, "an expert that was refused changes nothing"


def _check_tasks(open_library: Open, third: Expert) -> None:
    library = open_library()
    speaking = library.names()
    assert isinstance(third.payload, AdapterPayload), "give adapter experts"
    head = HeadWeights(torch.ones(1, 4)) if third.payload.kind == "lora" else None
    library.add(Expert(replace(third.card, name="judge", task="reward"), replace(third.payload, head=head)))
    for other in (library, open_library()):
        assert other.names("reward") == ("judge",), f"names are those of the task asked for: {other.names('reward')}"
        assert other.names("language") == speaking, f"names are those of the task asked for: {other.names('language')}"
        assert other.names() == tuple(sorted((*speaking, "judge"))), "asked for no task, names are those of all"
    library.remove("judge")


def _check_kept(open_library: Open, first: Expert, third: Expert) -> None:
    library = open_library()
    rows, card, records = torch.arange(6.0).view(2, 3), {"experts": [first.name]}, [{"loss": 1.5}, {"loss": 1.25}]
    library.save_router("prior", {"rows": rows}, card)
    library.measure(first.name, records[0])
    library.measure(first.name, records[1])
    library.add(third, "passing-guest")
    library.measure("passing-guest", {"loss": 9.0})
    library.remove("passing-guest")
    for other in (library, open_library()):
        tensors, found = other.load_router("prior")
        same = tensors.keys() == {"rows"} and torch.equal(tensors["rows"], rows) and found == card
        assert same, "a router says what it said before an expert came and went"
        assert other.metrics(first.name) == records, "measurements are kept, oldest first, whoever came and went"
    library.remove("prior")


def _check_exact_removal(open_library: Open, third: Expert) -> None:
    library = open_library()
    before = snapshot(library.path)
    library.add(third, "passing-guest")
    assert snapshot(library.path) != before, "what was added is on disk"
    library.remove("passing-guest")
    after = snapshot(library.path)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    assert not changed, f"adding and removing leaves every other file as it was, changed: {changed}"
    for other in (library, open_library()):
        assert "passing-guest" not in other, "what was removed is gone for everybody"


def _check_filter(open_library: Open, first: Expert, second: Expert) -> None:
    library = open_library()
    part = library.filter([first.name])
    assert part.names() == (first.name,), f"a part has the experts asked for: {part.names()}"
    assert second.name not in part, "a part lacks the others"
    assert len(part) == 1, f"the length of a part is its own: {len(part)}"
    _same(part[first.name], first)
    _refused(lambda: part[second.name], UnknownName, "a part does not give what it lacks")
    _refused(lambda: part.filter([second.name]), UnknownName, "a part of a part is within it")
    _refused(lambda: library.filter(["nobody"]), UnknownName, "a part of unknown experts is refused")
    assert library.names() == tuple(sorted((first.name, second.name))), "filtering leaves the library as it is"


def _check_lineage(open_library: Open, first: Expert, third: Expert) -> None:
    library = open_library()
    child = Expert(replace(third.card, name="child", parents=parents_of([library[first.name]])), third.payload)
    grandchild = Expert(replace(child.card, name="grandchild", parents={}), child.payload)
    library.add(child)
    grandchild = Expert(replace(grandchild.card, parents=parents_of([library["child"]])), grandchild.payload)
    library.add(grandchild)
    before = snapshot(library.path)
    try:
        library.remove(first.name)
    except LibraryError as error:
        told = str(error)
    else:
        raise AssertionError("a parent is not removed without a word about its children")
    assert all(name in told for name in ("child", "grandchild")), f"all descendants are named, it says: {told}"
    assert snapshot(library.path) == before, "a refused removal changes nothing"
    library.remove("child", keep_descendants=True)
    assert "grandchild" in library, "keep_descendants keeps them"
    assert library["grandchild"].card.parents.keys() == {"child"}, "a kept descendant's card names the lost parent"
    library.remove("grandchild")
    library.add(child)
    library.add(grandchild)
    library.remove("child", cascade=True)
    assert not {"child", "grandchild"} & set(library), "cascade takes the descendants along"
    assert first.name in library, "cascade leaves the parents"


def _check_verify(open_library: Open, first: Expert) -> None:
    library = open_library()
    assert not library.verify(), f"a sound library has no problems: {library.verify()}"
    path = next((library.path / "experts" / first.name).glob("*.safetensors"))
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    for other in (library, open_library()):
        assert set(other.verify()) == {first.name}, f"verify finds one changed bit: {other.verify()}"
    path.write_bytes(sound)
    assert not library.verify(), "verify forgets what was mended"


def _same(found: Expert, expected: Expert) -> None:
    assert isinstance(found.payload, AdapterPayload), f"{expected.name!r} comes back as what it was"
    before, after = adapter_tensors(expected), adapter_tensors(found)
    assert replace(found.card, payload={}) == replace(expected.card, payload={}), "the card comes back as it was"
    assert before.keys() == after.keys(), f"{expected.name!r} lost or gained {before.keys() ^ after.keys()}"
    assert all(torch.equal(before[key], after[key]) for key in before), f"{expected.name!r} comes back with its bits"


def _refused(action: Callable[[], object], kind: type[CollegiumError], law: str) -> None:
    try:
        action()
    except kind:
        return
    except Exception as error:
        raise AssertionError(f"{law}, with {kind.__name__}; got {type(error).__name__}: {error}") from error
    raise AssertionError(law)
