"""The grammar of model references: what is written is what is read, and mistakes are answered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collegium.core.errors import ConfigError
from collegium.recipes.reference import COMPOSITIONS, Reference, is_library, parse_reference

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,10}", fullmatch=True).filter(lambda name: name != "base")
places = st.from_regex(r"(\./|/)?[A-Za-z0-9_-]{1,8}(/[A-Za-z0-9_-]{1,8})?", fullmatch=True)
selections = st.builds(
    Reference,
    library=places,
    experts=st.lists(names, unique=True, max_size=3).map(tuple),
    router=st.none() | names,
    compose=st.none() | st.sampled_from(COMPOSITIONS),
    top_k=st.none() | st.integers(1, 64),
    prune=st.none() | st.floats(0, 0.5, exclude_max=True),
)
members = st.builds(Reference, library=places, member=names)


def forgetful(text: str) -> Reference:
    """A parser that loses what comes behind compose: the law below must reject it."""
    found = parse_reference(text, library_at=lambda path: True)
    return Reference(found.base, found.library, found.member, found.experts, found.router, found.compose)


@given(reference=selections | members)
def test_what_is_written_is_read_back(reference):
    assert parse_reference(str(reference), library_at=lambda path: True) == reference


@pytest.mark.parametrize("part", [{"top_k": 2}, {"prune": 1e-3}, {"prune": 0.0}])
def test_the_law_rejects_a_forgetful_parser(part):
    reference = Reference(library="lib", **part)
    assert forgetful(str(reference)) != reference


def test_a_bare_folder_is_a_library_where_one_lies(tmp_path):
    (tmp_path / "college").mkdir()
    (tmp_path / "college" / "collegium.json").write_text("{}")
    (tmp_path / "model").mkdir()
    assert parse_reference(str(tmp_path / "college")) == Reference(library=str(tmp_path / "college"))
    assert parse_reference(str(tmp_path / "model")) == Reference(base=str(tmp_path / "model"))
    assert not is_library(str(tmp_path / "absent"))


@pytest.mark.parametrize("text", ["smollm2-135m", "hf:owner/name@v1.0", "hf:owner/name@a/b#c?d"])
def test_names_and_hub_addresses_are_bases(text):
    assert parse_reference(text) == Reference(base=text)


@pytest.mark.parametrize(
    ("text", "lesson"),
    [
        ("", "got nothing"),
        ("lib?rooter=posterior", "Did you mean 'router'?"),
        ("lib?router=a&router=b", "given twice"),
        ("lib?router=", "has no value"),
        ("lib?compose=ensembel", "Did you mean 'ensemble'?"),
        ("lib?top_k=0", "at least 1"),
        ("lib?top_k=²", "at least 1"),
        ("lib?top_k=two", "at least 1"),
        ("lib?prune=-1e-3", "from 0 to below 0.5, such as 1e-3; got '-1e-3'"),
        ("lib?prune=1", "from 0 to below 0.5"),
        ("lib?prune=0.5", "from 0 to below 0.5"),
        ("lib?prune=nan", "from 0 to below 0.5"),
        ("lib?prune=little", "got 'little'"),
        ("lib?prune=", "has no value"),
        ("lib?prune=0.1&prune=0.2", "given twice"),
        ("lib?prun=0.1", "Did you mean 'prune'?"),
        ("lib?experts=a,,b", "separated by commas"),
        ("lib?experts=a,a", "each once"),
        ("lib?experts=base", "leave it out"),
        ("lib?", "unknown key ''"),
        ("?router=posterior", "follows a library's folder"),
        ("#law", "LIB#NAME"),
        ("lib#", "LIB#NAME"),
        ("lib#a#b", "LIB#NAME"),
        ("lib?top_k=2#law", "one of the two"),
    ],
)
def test_mistakes_are_answered(text, lesson):
    with pytest.raises(ConfigError, match=lesson.replace("?", r"\?").replace("#", r"\#")):
        parse_reference(text)


def test_all_problems_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_reference("lib?rooter=x&compose=mixx&top_k=-1&prune=2")
    assert all(word in str(caught.value) for word in ("'rooter'", "'mixx'", "'-1'", "'2'", "&prune=1e-3 or LIB#NAME"))
