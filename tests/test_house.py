"""The house: everything sets itself up, the pages are those that the code writes, files keep their size."""

import ast
import importlib.util
import os
import re
import tomllib
from pathlib import Path

import pytest

from collegium.cli.main import COMMANDS
from collegium.cli.manual import PAGES, differences, manual, write_pages

ROOT = Path(__file__).parent.parent


def installer():
    spec = importlib.util.spec_from_file_location("install_torch", ROOT / "scripts" / "install_torch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_make_has_the_promised_targets_and_they_set_themselves_up():
    text = (ROOT / "Makefile").read_text()
    rules = dict(re.findall(r"^([a-z]+):([^#\n]*)", text, re.MULTILINE))
    assert {"setup", "demo", "test", "check", "claims", "bench", "docs", "unit", "recipe"} <= set(rules)
    for target in set(rules) - {"help"}:
        assert ".venv/.ready-" in rules[target], target


def test_continuous_integration_calls_make_test():
    entry = ROOT / ".ci" / "run"
    assert os.access(entry, os.X_OK)
    assert re.search(r"^make .*\btest\b", entry.read_text(), re.MULTILINE)


def test_the_pin_of_torch_is_within_the_range():
    version = installer().pinned_version((ROOT / "constraints.txt").read_text())
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lowest = next(each for each in dependencies if each.startswith("torch>=")).removeprefix("torch>=")
    assert [int(part) for part in version.split(".")] >= [int(part) for part in lowest.split(".")]


def test_constraints_without_torch_are_refused():
    with pytest.raises(SystemExit, match="must pin torch"):
        installer().pinned_version("torchvision==1.0\n")


def test_torch_comes_from_the_place_that_suits_the_machine(tmp_path):
    choose = installer().choose
    (tmp_path / "torch-2.13.0-py3.whl").write_bytes(bytes(3_000_000))
    local = choose(find_links=str(tmp_path), system="Linux", nvidia_driver=True)
    assert local.arguments == ()
    assert "3 MB" in local.sentence
    assert choose(find_links="", system="Linux", nvidia_driver=False).arguments == (
        "--index-url",
        "https://download.pytorch.org/whl/cpu",
    )
    for system, driver in (("Linux", True), ("Windows", True), ("Darwin", False)):
        choice = choose(find_links="", system=system, nvidia_driver=driver)
        assert choice.arguments == ()
        assert "about" in choice.sentence


def test_a_wheel_folder_is_found_in_the_environment():
    assert installer().configured_find_links({"PIP_FIND_LINKS": "/wheels /more"}) == "/wheels"


def test_the_command_line_page_is_the_same_on_every_terminal(monkeypatch):
    table = {"align": COMMANDS["align"], "doctor": COMMANDS["doctor"]}
    first = manual(table)
    assert "### align run" in first
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert manual(table) == first
    assert "\x1b" not in first


def test_a_page_that_is_out_of_date_is_seen(tmp_path):
    pages = {"cli.md": lambda: "say --seed\n", "claims.md": lambda: "it holds\n"}
    assert pages.keys() == PAGES.keys()
    write_pages(tmp_path, pages)
    assert differences(tmp_path, pages) == []
    page = tmp_path / "cli.md"
    page.write_text(page.read_text().replace("--seed", "--sed"))
    (found,) = differences(tmp_path, pages)
    assert "out of date" in found
    (tmp_path / "claims.md").unlink()
    assert len(differences(tmp_path, pages)) == len(pages)


def test_decisions_are_indexed():
    folder = ROOT / "docs" / "decisions"
    index, menu = (folder / "index.md").read_text(), (ROOT / "mkdocs.yml").read_text()
    for page in folder.glob("[0-9]*.md"):
        assert f"({page.name})" in index
        assert f"decisions/{page.name}" in menu


def test_readme_names_the_two_commands():
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme


def rooms(text):
    """Return the lines of a module and of its longest function."""
    functions = [
        node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None
    ]
    return text.count("\n"), max(functions, default=0)


def test_files_and_functions_keep_their_size():
    found = {path.relative_to(ROOT): rooms(path.read_text()) for path in (ROOT / "src").rglob("*.py")}
    assert {path: lines for path, (lines, _) in found.items() if lines > 400} == {}
    assert {path: longest for path, (_, longest) in found.items() if longest > 60} == {}


def test_a_long_function_is_seen():
    assert rooms("def long():\n" + "    pass\n" * 70) == (71, 71)
