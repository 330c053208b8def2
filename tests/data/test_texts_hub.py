"""Domains of text of the hub: rows of the published shapes become documents; recipes name bases that exist."""

import json
import re
import tomllib
from pathlib import Path

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from collegium.cli.main import main
from collegium.core.errors import DataError, ResourceError
from collegium.data import read_domains
from collegium.data.texts_hub import TEXTS_HUB, pull_texts_hub
from collegium.models import BASES

PAPER = Path(__file__).parents[2] / "recipes" / "paper"
SHAPES = {each.repository: each.column for each in TEXTS_HUB["demix"].values()}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Stand in for the hub with files of the published columns, half of them converted in part; return the columns."""
    columns = dict(SHAPES)

    def fetched(repository, *, repo_type, revision, allow_patterns):
        assert repo_type == "dataset"
        folder = tmp_path / "hub" / repository / "abc123"
        file = folder / allow_patterns[len(repository) % 2]
        file.parent.mkdir(parents=True, exist_ok=True)
        texts = ["", *(f"{repository} says {number} times: {'so it is. ' * number}" for number in range(60))]
        rows = [{"id": "x", columns[repository]: text} for text in texts]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    return columns


def test_the_domains_become_documents(hub, tmp_path):
    folder = pull_texts_hub(tmp_path / "texts", "demix", rows=40)
    corpus = read_domains(folder)
    assert sorted(domain.name for domain in corpus) == sorted(TEXTS_HUB["demix"])
    for domain in corpus:
        assert len(domain.documents) == 40  # the empty one is left out
        assert domain.documents[0].text.startswith(TEXTS_HUB["demix"][domain.name].repository)
        assert [source.digest for source in domain.sources] == ["abc123"]


def test_the_command_writes_them(hub, tmp_path, capsys):
    assert main(["data", "pull", str(tmp_path / "texts"), "--hub", "demix", "--rows", "50", "--dry-run"]) == 0
    assert not (tmp_path / "texts").exists()
    assert main(["data", "pull", str(tmp_path / "texts"), "--hub", "demix", "--rows", "50", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["domains"]
    assert {row["name"]: row["documents"] for row in found} == dict.fromkeys(TEXTS_HUB["demix"], 50)


@pytest.mark.parametrize("recipe", sorted(PAPER.glob("*.toml")), ids=lambda file: file.stem)
def test_recipes_name_bases_that_can_be_fetched(recipe):
    said = tomllib.loads(recipe.read_text())
    base = said.get("model") or said["base"]
    assert base in BASES or re.fullmatch(r"hf:[\w.-]+/[\w.-]+@[\w.-]+", base)


def test_what_is_not_there_is_told_and_nothing_is_left(hub, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no corpus of the hub is called 'demx'"):
        pull_texts_hub(tmp_path / "texts", "demx")
    hub["allenai/c4"] = "body"
    with pytest.raises(DataError, match="no column 'text' but id, body"):
        pull_texts_hub(tmp_path / "texts", "demix")
    assert not (tmp_path / "texts").exists()
    (tmp_path / "taken").mkdir()
    with pytest.raises(DataError, match="exists"):
        pull_texts_hub(tmp_path / "taken", "demix")

    def nowhere(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nowhere)
    with pytest.raises(ResourceError, match="data pull FOLDER"):
        pull_texts_hub(tmp_path / "texts", "demix")
