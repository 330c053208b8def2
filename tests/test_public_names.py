"""The public door is locked: a name comes or goes only together with this list, the docs and the changelog."""

import re
from pathlib import Path

import collegium
import collegium.routers

ROOT = Path(__file__).parent.parent

PUBLIC = [
    "Base",
    "CollegiumError",
    "Corpus",
    "Document",
    "Domain",
    "Expert",
    "FitConfig",
    "Generation",
    "LanguageModel",
    "Library",
    "PrefixRouter",
    "Routing",
    "Sampling",
    "ensemble",
    "fit_expert",
    "fit_whole",
    "generate",
    "load_base",
    "merge",
    "mix",
    "perplexity",
    "read_domains",
    "routers",
]

ROUTERS = ["cached_prior", "classifier", "cluster", "default", "fixed", "oracle", "posterior", "uniform"]

GATES = ["arrow", "phatgoose", "uniform_gate", "xlora"]


def documented():
    """Return every word set in code type on any page."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    spans = [span for page in pages for span in re.findall(r"```.*?```|`[^`\n]+`", page.read_text(), re.DOTALL)]
    return {word for span in spans for word in re.findall(r"[A-Za-z_]\w*", span)}


def test_the_public_names_are_these():
    assert sorted(collegium.__all__) == PUBLIC
    assert list(collegium.__all__) == sorted(set(collegium.__all__))


def test_every_public_name_is_there_and_says_what_it_is():
    for name in PUBLIC:
        assert getattr(collegium, name).__doc__, name


def test_every_public_name_is_in_the_docs():
    missing = [name for name in [*PUBLIC, *ROUTERS, *GATES] if name not in documented()]
    assert missing == []


def test_the_docs_check_can_fail():
    assert "no_such_public_name" not in documented()


def test_every_router_of_the_table_has_a_door_and_every_paper_a_row():
    papers = (ROOT / "docs" / "papers.md").read_text()
    assert sorted(collegium.routers.ROUTERS) == ROUTERS
    for name, method in collegium.routers.ROUTERS.items():
        assert getattr(collegium.routers, name) is method.build
        assert method.paper is None or f"`{method.paper}`" in papers


def test_so_has_every_gate():
    papers = (ROOT / "docs" / "papers.md").read_text()
    assert sorted(collegium.routers.GATES) == GATES
    for name, method in collegium.routers.GATES.items():
        assert getattr(collegium.routers, name) is method.build
        assert method.paper is None or f"`{method.paper}`" in papers
