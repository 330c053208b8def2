"""The public door is locked: a name comes or goes only together with this list, the docs and the changelog."""

import re
from pathlib import Path

import collegium
import collegium.routers
from collegium.rewards import DESIGNS
from collegium.tasks.continual import METHODS

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


def designs_told(page: str) -> dict[str, tuple[str | None, bool]]:
    """Return design -> (key of its paper, whether a domain comes or goes alone), as a page's table says."""
    rows = re.findall(r"^\| `(\w+)` \| (?:`(\w+)`|-) \| (by a new fit|alone) \|", page, flags=re.MULTILINE)
    return {name: (paper or None, growth == "alone") for name, paper, growth in rows}


def test_so_has_every_design_and_the_page_of_designs_says_what_they_are():
    papers = (ROOT / "docs" / "papers.md").read_text()
    page = (ROOT / "docs" / "ideas" / "rewards.md").read_text()
    assert designs_told(page) == {name: (row.paper, row.grows) for name, row in DESIGNS.items()}
    for key in (*(row.paper for row in DESIGNS.values() if row.paper), *re.findall(r"\[`(\w+)`\]", page)):
        assert f"| `{key}` |" in papers


def test_a_page_of_designs_that_is_out_of_date_is_seen():
    assert designs_told("| `arliss` | `other2024` | by a new fit | r |\n") == {"arliss": ("other2024", False)}


def test_so_has_every_way_to_learn_tasks_and_the_page_of_tasks_names_it():
    papers = (ROOT / "docs" / "papers.md").read_text()
    page = (ROOT / "docs" / "ideas" / "tasks.md").read_text()
    told = re.findall(r"^\| `([\w-]+)`\*? \| (?:`(\w+)`|-) \|", page, flags=re.MULTILINE)
    assert told == [(name, method.paper or "") for name, method in METHODS.items()]
    assert re.findall(r"^\| `([\w-]+)`\* ", page, flags=re.MULTILINE) == [
        name for name, method in METHODS.items() if method.told
    ]
    for method in METHODS.values():
        assert method.paper is None or f"| `{method.paper}` |" in papers


def test_papers_are_listed_once():
    keys = re.findall(r"^\| `(\w+)` \| [A-Z]", (ROOT / "docs" / "papers.md").read_text(), flags=re.MULTILINE)
    assert sorted(keys) == sorted(set(keys))
