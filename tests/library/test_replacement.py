"""An expert in the place of its parent: all or nothing, whatever is killed, and nobody's work is lost."""

import os

import pytest
from tiny_library import BASE, make_expert

from collegium.core.errors import IncompatibleExpert, LibraryError, ResourceError, UnknownName
from collegium.experts import parents_of
from collegium.library import Library, replace_expert
from collegium.library import replacement as module


def successor(library, seed=7, name="law"):
    return make_expert(name, seed, parents=parents_of([library[name]]))


def test_the_new_one_is_there_with_its_lineage_and_all_others_are_as_they_were(library):
    before = {name: library.expert_digest(name) for name in library}
    new = successor(library)
    card = replace_expert(library, new, measured={"loss": 1.5})
    assert card.parents == {"law": before["law"]}
    assert library["law"].digest == new.digest != before["law"]
    assert library.metrics("law") == [{"loss": 1.5}]
    assert library.expert_digest("code") == before["code"]
    assert Library(library.path, base=BASE).verify() == {}
    assert replace_expert(library, new).parents == card.parents, "once more is no more"
    assert not [each for each in os.listdir(library.path) if each.startswith((".replacing-", ".staging-"))]


def test_what_was_not_trained_from_the_one_that_is_there_is_refused(library):
    first, second = successor(library, 7), successor(library, 8)
    replace_expert(library, first)
    with pytest.raises(LibraryError, match="not the one that its successor was trained from"):
        replace_expert(library, second)
    with pytest.raises(LibraryError, match="parents: none"):
        replace_expert(library, make_expert("law", 9))
    assert library["law"].digest == first.digest
    with pytest.raises(UnknownName):
        replace_expert(library, make_expert("sea", 9))
    with pytest.raises(ResourceError, match="read-only"):
        replace_expert(Library(library.path, read_only=True), successor(library))
    other = make_expert("law", 9)
    object.__setattr__(other.card, "base", type(BASE)("x" * 64, "t" * 64, "w" * 64))
    with pytest.raises(IncompatibleExpert):
        replace_expert(library, other)


def test_what_others_were_made_from_is_replaced_only_on_purpose(library):
    library.add(make_expert("pair", 3, parents=parents_of([library["law"]])))
    with pytest.raises(LibraryError, match=r"pair came from 'law'.*--keep-descendants"):
        replace_expert(library, successor(library))
    new = successor(library)
    replace_expert(library, new, keep_descendants=True)
    assert library["law"].digest == new.digest
    assert library.show("pair").lineage.parents[0].found is False


class Killed(BaseException):
    """Stands for a process that ends between two calls."""


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_killed_between_any_two_renames_the_next_writer_has_the_one_or_the_other(library, monkeypatch, moment):
    old, new, renames = library["law"], successor(library), iter(range(9))
    rename = os.rename

    def counted(source, target):
        if next(renames) == moment:
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", counted)
        with pytest.raises(Killed):
            replace_expert(library, new)
    assert Library(library.path, base=BASE, read_only=True).verify() == {}
    again = Library(library.path, base=BASE)
    again.set_defaults(router="uniform")  # any writer at all
    assert again["law"].digest == (old.digest if moment == 0 else new.digest)
    assert again.verify() == {}


def test_the_law_rejects_removing_first_and_adding_then(library, monkeypatch):
    def careless(library, expert):
        library.remove(expert.name, keep_descendants=True)
        monkeypatch.setattr(Library, "add", lambda self, expert: (_ for _ in ()).throw(Killed))
        library.add(expert)

    new = successor(library)
    with pytest.raises(Killed):
        careless(library, new)
    again = Library(library.path, base=BASE)
    again.set_defaults(router="uniform")
    assert "law" not in again, "neither the one nor the other"


def test_what_is_no_name_is_never_put_anywhere(library):
    odd = library.path / f"{module._PREFIX}base"
    odd.mkdir()
    (library.path / f"{module._PREFIX}link").symlink_to(library.path / "experts" / "code")
    library.set_defaults(router="uniform")
    assert not odd.exists()
    assert set(library) == {"law", "code"}
    assert library.verify() == {}
