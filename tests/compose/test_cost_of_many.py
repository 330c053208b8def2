"""What comes, is swapped or goes costs as much work among 1,000 experts as among 10; counted in calls, not in time."""

import gc
import shutil
import sys
from collections import Counter
from contextlib import contextmanager

import pytest
import torch

from collegium.compose import assemble, mix
from collegium.core.cards import ExpertCard
from collegium.core.errors import ResourceError
from collegium.experts import Expert, adapter_payload
from collegium.library import Library
from collegium.models import Group, RowPlan
from collegium.models.slots import places
from collegium.models.slots.slabs import Slab
from collegium.recipes.keep import remove_expert
from collegium.routers import arrow, fixed, uniform
from collegium.testing.pico import pico_base, random_adapter
from type_checks import SPARING

FEW, MANY = 10, 1000
CHECKERS = ("type_checks", "jaxtyping", "beartype", "inspect", "typing", "abc", "collections.abc")
TOKENS = torch.arange(12).view(2, 6)


def tiny(base, seed):
    return random_adapter(base, seed, rank=1, targets=["q_proj"], layers="top:1")


@contextmanager
def counted():
    """Count every call of a function, Python's and C's, by name; not those that check types in tests."""
    calls = Counter()

    def note(frame, event, argument):
        if str(frame.f_globals.get("__name__")).startswith(CHECKERS):
            return
        if event == "call":
            calls[f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}"] += 1
        elif event == "c_call":
            calls[argument.__name__] += 1

    gc.disable()  # what others do when rubbish is collected is not our work
    sys.setprofile(note)
    try:
        with SPARING.unchecked():
            yield calls
    finally:
        sys.setprofile(None)
        gc.enable()


def difference(few, many):
    return {name: (few[name], many[name]) for name in few.keys() | many.keys() if few[name] != many[name]}


# -- in memory --------------------------------------------------------------------------------------------------------


def crowd(many):
    """Return a base with so many experts, all of them in memory."""
    base = pico_base()
    drawn = [tiny(base, seed) for seed in range(5)]
    names = tuple(f"e{number}" for number in range(many))
    for number, name in enumerate(names):
        base.attach(name, drawn[number % 5])
    base.score_rows(TOKENS, plan=RowPlan((Group(names, torch.full((1, 1, many), 1 / many)),)))
    base.attach("first", drawn[0])  # what is done once, whoever comes
    base.score_rows(TOKENS, plan=RowPlan.one("first"))
    base.detach("first")
    return base


def life(base, monkeypatch):
    """Return the calls of every step of an expert's life among others, the plans made and the numbers written."""
    found, work = {}, Counter()
    make_plan, put = places.make_plan, Slab.put

    def planned(*args, **kwargs):
        work["plans"] += 1
        return make_plan(*args, **kwargs)

    def written(slab, position, part):
        put(slab, position, part)
        work["written"] += part.a.numel() + part.b.numel()

    monkeypatch.setattr("collegium.models.slots.slots.make_plan", planned)
    monkeypatch.setattr(Slab, "put", written)
    new, other = tiny(base, 7), tiny(base, 8)

    def limited():
        base.expert_memory_bytes = base._slots.residents.held_bytes
        base.attach("other", other)

    steps = {
        "comes": lambda: base.attach("new", new),
        "speaks first": lambda: base.score_rows(TOKENS, plan=RowPlan.one("new")),
        "speaks": lambda: base.score_rows(TOKENS, plan=RowPlan.one("new")),
        "another speaks": lambda: base.score_rows(TOKENS, plan=RowPlan.one("e1")),
        "waits": limited,
        "is swapped in": lambda: base.score_rows(TOKENS, plan=RowPlan.one("other")),
        "goes": lambda: base.detach("new"),
        "the other goes": lambda: base.detach("other"),
    }
    for name, step in steps.items():
        with counted() as found[name]:
            step()
    monkeypatch.undo()
    return found, work


@pytest.mark.recipe
def test_an_expert_among_many_in_memory_costs_as_among_few(monkeypatch):
    few, work = life(crowd(FEW), monkeypatch)
    many, other = life(crowd(MANY), monkeypatch)
    assert {name: difference(few[name], many[name]) for name in few} == {name: {} for name in few}
    assert work == other
    assert work["plans"] == 3, "one for each expert that speaks first; nobody else's is made again"
    assert work["written"] == 2 * sum(part.a.numel() + part.b.numel() for part in tiny(pico_base(), 0).values())


# -- on disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """Libraries of few and of many experts: copies of one under other names."""
    base, root = pico_base(), tmp_path_factory.mktemp("many")
    for many in (FEW, MANY):
        library = Library(root / str(many), base=base)
        library.add(expert(base, "e0", 0))
        first = library.path / "experts" / "e0"
        for number in range(1, many):
            copy = shutil.copytree(first, first.with_name(f"e{number}"))
            card = copy / "card.json"
            card.write_text(card.read_text().replace('"e0"', f'"e{number}"'))
        assert len(library) == many
    return base, root


def expert(base, name, seed):
    return Expert(ExpertCard(name=name, kind="lora", base=base.fingerprint), adapter_payload(base, tiny(base, seed)))


def kept(base, path):
    """Return the calls of every step of an expert's life in a library that each step opens anew."""
    found = {}
    steps = {
        "comes": lambda library: library.add(expert(base, "new", 7)),
        "is read": lambda library: library["new"].payload,
        "is chosen": lambda library: library.card("new"),
        "goes": lambda library: remove_expert(library, "new"),
        "is replaced": lambda library: library.add(expert(base, "new", 8)),
        "goes again": lambda library: library.remove("new"),
    }
    for name, step in [*steps.items(), *steps.items()]:  # what is done once in a process is not counted
        library = Library(path, base=base)
        with counted() as found[name]:
            step(library)
    return found


OPENED = ("open", "read", "read_bytes", "write", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "load_file")
LOOKED = 60
"""Calls for each expert that a removal looks at: once, without opening anything, for who was made from the one."""


def test_an_expert_among_many_on_disk_costs_as_among_few(libraries):
    base, root = libraries
    few, many = (kept(base, root / str(count)) for count in (FEW, MANY))
    for step in ("comes", "is read", "is chosen", "is replaced"):
        assert difference(few[step], many[step]) == {}, step
    for step in ("goes", "goes again"):
        assert {name: few[step][name] for name in OPENED} == {name: many[step][name] for name in OPENED}
        assert many[step].total() - few[step].total() <= LOOKED * (MANY - FEW)
        assert many[step]["stat"] - few[step]["stat"] <= MANY - FEW


# -- under --expert-memory --------------------------------------------------------------------------------------------


def one_expert_bytes(base):
    return sum(4 * tensor.numel() for part in tiny(base, 0).values() for tensor in part.tensors.values())


@pytest.fixture
def small(tmp_path):
    base = pico_base()
    library = Library(tmp_path / "small", base=base)
    for seed, name in enumerate(("law", "code", "sea", "sky")):
        library.add(expert(base, name, seed))
    return library


def test_experts_that_do_not_fit_together_are_told_and_leave_no_trace():
    base, alone = pico_base(), {}
    for seed, name in enumerate("abcd"):
        base.attach(name, tiny(base, seed))
        alone[name] = base.score_rows(TOKENS, plan=RowPlan.one(name))
    base = pico_base()
    for seed, name in enumerate("abcd"):
        base.attach(name, tiny(base, seed))
    base.expert_memory_bytes = 2 * one_expert_bytes(base)
    for names in ("abc", "d", "bcd", "a", "abcd"):
        if len(names) == 1:
            assert torch.equal(base.score_rows(TOKENS, plan=RowPlan.one(names)), alone[names])
            continue
        with pytest.raises(ResourceError, match=f"{len(names)} experts are to run together, and 3 of them take"):
            base.score_rows(TOKENS, plan=RowPlan.each(tuple(names)))
        assert base._slots.residents.held_bytes <= base.expert_memory_bytes
    for name, want in alone.items():
        assert torch.equal(base.score_rows(TOKENS, plan=RowPlan.one(name)), want)


def test_gates_over_more_experts_than_may_lie_in_memory_are_refused_when_they_are_bound(small):
    base = small.base
    base.expert_memory_bytes = 2 * one_expert_bytes(base)
    with pytest.raises(ResourceError, match=r"4 experts are to run together.*LIB\?experts=a,b"):
        mix(base, small, router=arrow(top_k=1))
    assert base._slots.residents.held_bytes <= base.expert_memory_bytes
    gated = mix(base, small.filter(["law", "sky"]), router=arrow(top_k=1))
    within = gated.score(TOKENS)
    assert base._slots.residents.held_bytes == base.expert_memory_bytes
    base.expert_memory_bytes = None
    assert torch.equal(mix(base, small.filter(["law", "sky"]), router=arrow(top_k=1)).score(TOKENS), within)


def test_a_router_that_keeps_few_speaks_through_a_library_larger_than_the_memory(small):
    base = small.base
    cast = assemble(base, small)
    want = {name: cast.ensembled(fixed({name: 1.0}), shelf=small).score(TOKENS) for name in cast.names}
    for key in cast.keys.values():
        base.detach(key)
    base.expert_memory_bytes = one_expert_bytes(base)
    cast = assemble(base, small)
    for name in ("law", "code", "law", "sky", "sea", "law"):
        assert torch.equal(cast.ensembled(fixed({name: 1.0}), shelf=small).score(TOKENS), want[name])
        assert base._slots.residents.held_bytes <= base.expert_memory_bytes
    with pytest.raises(ResourceError, match="allows"):
        cast.ensembled(uniform(), shelf=small).score(TOKENS)
