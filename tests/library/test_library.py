"""The library as one process sees it: its contract, broken libraries, opening, lineage."""

import dataclasses
import json
import shutil

import pytest
import torch
from tiny_library import BASE, make_expert

from collegium.core.cards import Fingerprint
from collegium.core.errors import (
    LibraryError,
    NameTaken,
    NewerFormat,
)
from collegium.experts import AdapterPayload, Expert, save_expert
from collegium.experts.fresh import with_tensors
from collegium.library import Library
from collegium.models import KINDS
from collegium.testing.library import check_library, snapshot
from collegium.testing.pico import random_base, random_expert

EXPERTS = (make_expert("beta", 1), make_expert("alpha", 2), make_expert("gamma", 3))


def test_the_library_keeps_its_contract(path):
    check_library(lambda: Library(path, base=BASE), EXPERTS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_library_keeps_its_contract_for_experts_of_every_kind(kind, path):
    base = random_base("llama")
    experts = tuple(random_expert(base, seed, kind=kind, name=name) for seed, name in enumerate(("b", "a", "c")))
    check_library(lambda: Library(path, base=base), experts)


def test_the_library_keeps_its_contract_for_experts_of_several_kinds(path):
    base = random_base("gpt2")
    kinds = {"b": "ia3", "a": "ffn", "c": "prefix"}
    experts = tuple(random_expert(base, kind=kind, name=name) for name, kind in kinds.items())
    check_library(lambda: Library(path, base=base), experts)


def test_the_library_keeps_its_contract_without_an_index_it_can_write(path, monkeypatch):
    monkeypatch.setattr("collegium.library.index.INDEX_FILE", "nowhere/index.sqlite")
    check_library(lambda: Library(path, base=BASE), EXPERTS)


class Bent:
    """A library with some of its answers replaced; parts of it stay bent."""

    def __init__(self, inner, **answers):
        self.inner, self.answers, self.path = inner, answers, inner.path

    def names(self, task=None):
        return self._ask("names", task)

    def __contains__(self, name):
        return self._ask("__contains__", name)

    def __len__(self):
        return self._ask("__len__")

    def __iter__(self):
        return self._ask("__iter__")

    def __getitem__(self, name):
        return self._ask("__getitem__", name)

    def add(self, expert, name=None):
        return self._ask("add", expert, name)

    def remove(self, name, **options):
        return self._ask("remove", name, **options)

    def filter(self, names):
        return Bent(self._ask("filter", names), **self.answers)

    def verify(self):
        return self._ask("verify")

    def measure(self, name, record):
        return self._ask("measure", name, record)

    def metrics(self, name):
        return self._ask("metrics", name)

    def save_router(self, name, tensors, card):
        return self._ask("save_router", name, tensors, card)

    def load_router(self, name):
        return self._ask("load_router", name)

    def _ask(self, what, *arguments, **options):
        if what in self.answers:
            return self.answers[what](self.inner, *arguments, **options)
        return getattr(self.inner, what)(*arguments, **options)


def overwrite(library, expert, name=None):
    """Add over an expert of the same name."""
    expert = expert if name is None else expert.renamed(name)
    if expert.name in library.names():
        library.remove(expert.name, keep_descendants=True)
    return library.add(expert)


def trust_names(library, expert, name=None):
    """Write wherever the name leads."""
    folder = library.path / "experts" / (name or expert.name)
    try:
        return library.add(expert, name)
    except NameTaken:
        if folder.exists() and name is None:
            raise
        shutil.rmtree(folder, ignore_errors=True)
        return save_expert(expert if name is None else expert.renamed("stray"), folder)


def believe_the_base(library, expert, name=None):
    """Take the expert for one of this base, whatever its card says."""
    return library.add(Expert(dataclasses.replace(expert.card, base=BASE), expert.payload), name)


def look_at_nothing(library, expert, name=None):
    """Write what came, whatever its numbers are."""
    adapter = with_tensors(expert.payload.adapter, torch.nan_to_num)
    return library.add(Expert(expert.card, AdapterPayload(adapter)), name)


def zero_routers(library, name, **options):
    """Forget what every router learned, because one of its experts goes."""
    for router in library.router_names():
        tensors, card = library.load_router(router)
        library.save_router(router, {key: torch.zeros_like(each) for key, each in tensors.items()}, card)
    return library.remove(name, **options)


def forget_measurements(library, name, **options):
    """Delete the measurements of all, because one goes."""
    for path in library.path.glob("experts/*/metrics.jsonl"):
        path.unlink()
    return library.remove(name, **options)


def leave_router_row(library, name, **options):
    """Forget the expert, but touch a router while at it."""
    removal = library.remove(name, **options)
    (library.path / "collegium.json").write_text((library.path / "collegium.json").read_text() + "\n")
    return removal


def move_aside(library, name, **options):
    """Rename the folder instead of deleting it."""
    kept = library.path / "trash" / name
    library.card(name)
    shutil.copytree(library.path / "experts" / name, kept, dirs_exist_ok=True)
    return library.remove(name, **options)


def half_precision(library, name):
    """Give back an expert that went through bfloat16."""
    expert = library[name]
    adapter = {
        path: dataclasses.replace(each, a=each.a.bfloat16().float()) for path, each in expert.payload.adapter.items()
    }
    return Expert(expert.card, AdapterPayload(adapter))


def memory_names():
    """Names as this process remembers them: what others did is not seen."""
    seen = {}

    def names(library, task=None):
        return seen.setdefault(id(library), library.names())

    return names


def remove_keeping(library, name, **options):
    return library.remove(name, keep_descendants=True)


def remove_all(library, name, **options):
    return library.remove(name, cascade=True)


BROKEN = {
    "overwrites": ({"add": overwrite}, "a name is given once"),
    "writes outside": ({"add": trust_names}, "is refused"),
    "does not see others": ({"names": memory_names()}, "there for everybody"),
    "unsorted": ({"names": lambda library, task=None: library.names()[::-1]}, "in order"),
    "counts one more": ({"__len__": lambda library: len(library) + 1}, "length counts"),
    "contains everything": ({"__contains__": lambda library, name: True}, "gone for everybody"),
    "rounds": ({"__getitem__": half_precision}, "with its bits"),
    "gives another expert": ({"__getitem__": lambda library, name: library[library.names()[0]]}, "card comes back"),
    "touches others": ({"remove": leave_router_row}, "leaves every other file"),
    "keeps a copy": ({"remove": move_aside}, "leaves every other file"),
    "ignores the task": ({"names": lambda library, task=None: library.names()}, "of the task asked for"),
    "sees language alone": ({"names": lambda library, task=None: library.names(task or "language")}, "those of all"),
    "takes any base": ({"add": believe_the_base}, "of another base is refused"),
    "takes any numbers": ({"add": look_at_nothing}, "not finite is refused"),
    "loses router rows": ({"remove": zero_routers}, "a router says what it said"),
    "keeps the last measurement": ({"metrics": lambda library, name: library.metrics(name)[-1:]}, "oldest first"),
    "forgets measurements": ({"remove": forget_measurements}, "measurements are kept"),
    "never removes": ({"remove": lambda library, name, **options: library.card(name)}, "leaves every other file"),
    "removes parents silently": ({"remove": remove_keeping}, "without a word"),
    "always cascades": ({"remove": remove_all}, "without a word"),
    "does not filter": ({"filter": lambda library, names: library.filter(library.names())}, "asked for"),
    "sees no damage": ({"verify": lambda library: {}}, "finds one changed bit"),
    "sees damage everywhere": ({"verify": lambda library: {key: ["?"] for key in library}}, "has no problems"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_library_is_rejected(name, path):
    answers, law = BROKEN[name]
    with pytest.raises(AssertionError, match=law):
        check_library(lambda: Bent(Library(path, base=BASE), **answers), EXPERTS)


def test_a_bent_library_without_bends_passes(path):
    check_library(lambda: Bent(Library(path, base=BASE)), EXPERTS)


def test_a_library_that_is_not_there_is_created_only_for_a_base(path):
    with pytest.raises(LibraryError, match="no library at"):
        Library(path)
    assert not path.exists()
    assert Library(path, base=BASE, base_reference="smollm2-135m").base_reference == "smollm2-135m"
    assert Library(path).base_fingerprint == BASE


def test_a_folder_of_something_else_is_no_library(path):
    path.mkdir()
    (path / "thesis.txt").write_text("do not touch")
    with pytest.raises(LibraryError, match="thesis"):
        Library(path, base=BASE)
    assert (path / "thesis.txt").read_text() == "do not touch"


def test_a_library_of_another_base_names_both(library):
    other = Fingerprint("0", "1", "2")
    with pytest.raises(LibraryError, match=f"{BASE.short}.*{other.short}"):
        Library(library.path, base=other)


def test_a_newer_format_is_refused_and_left_alone(library):
    manifest = library.path / "collegium.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 2, "new": 1}))
    before = snapshot(library.path)
    with pytest.raises(NewerFormat, match=r"format 2.*reads up to 1"):
        Library(library.path, base=BASE)
    assert snapshot(library.path) == before


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": "1"}', '{"format": 0}'])
def test_a_damaged_manifest_is_told(library, text):
    (library.path / "collegium.json").write_text(text)
    with pytest.raises(LibraryError, match=r"collegium\.json"):
        Library(library.path)


def test_a_newer_card_is_refused(library):
    card = library.path / "experts" / "law" / "card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "version": 2}))
    with pytest.raises(NewerFormat, match="version 2"):
        library["law"]
    assert "law" in library.names(task="language"), "a damaged expert is not dropped in silence"


def test_names_by_task(library):
    library.add(make_expert("judge", 3, task="reward"))
    assert library.names() == ("code", "judge", "law")
    assert library.names(task="language") == ("code", "law")
    assert library.names(task="reward") == ("judge",)


def test_an_expert_is_loaded_once_and_again_when_replaced(library):
    first = library["law"]
    assert library["law"] is first
    other = Library(library.path)
    other.remove("law")
    other.add(make_expert("law", 9))
    assert library["law"].digest == make_expert("law", 9).digest
