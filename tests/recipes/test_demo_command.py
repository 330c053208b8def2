"""The demo as its user sees it: what is fetched, how it ends, what is refused before anything is fetched."""

import json
import shutil
from pathlib import Path

import pytest

from collegium.cli.main import main
from collegium.recipes import demo

pytestmark = [pytest.mark.recipe, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, texts: Path) -> list[Path]:
    """The demo's texts are three small domains, and every fetch is noted."""
    folders: list[Path] = []

    def pull(folder: Path) -> None:
        folders.append(folder)
        shutil.copytree(texts, folder)

    monkeypatch.setattr(demo, "pull", pull)
    return folders


def test_the_demo_ends_with_one_object_and_goes_on_without_fetching_again(fetched, pico_folder, tmp_path, capsys):
    words = ["demo", "--folder", tmp_path / "demo", "--base", pico_folder, "--budget", "4k", "--rank", "4"]
    words += ["--window", "64", "--layers", "all", "--threads", "1", "--device", "cpu", "--json"]
    objects = []
    for _ in range(2):
        assert main([str(word) for word in words]) == 0
        objects.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert fetched == [tmp_path / "demo" / "texts"]
    first, again = objects
    assert set(first["matrix"]) == set(first["composed"]) == set(first["oracle"]) == {"law", "sea", "kitchen"}
    assert set(first["routing"]) == {"accuracy", "regret_nats_per_token", "ece"}
    assert 0 <= first["discovered"]["nmi"] <= 1
    assert first["removed"]["largest_change"] == 0.0
    assert first["seconds"] > 0
    assert again["composed"] == first["composed"]
    assert (tmp_path / "demo" / "report.html").exists()


@pytest.mark.parametrize("wrong", [["--budget", "soon"], ["--steps", "3"], ["--device", "tpu"]])
def test_what_is_wrong_is_told_before_anything_is_fetched(fetched, tmp_path, capsys, wrong):
    assert main(["demo", "--folder", str(tmp_path / "demo"), *wrong]) == 2
    assert wrong[0].removeprefix("--") in capsys.readouterr().err
    assert not fetched
    assert not (tmp_path / "demo").exists()
