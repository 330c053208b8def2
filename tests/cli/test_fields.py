"""One dataclass is flags and TOML: nested options lie side by side, each name is one flag."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from collegium.cli.command import Command, Group
from collegium.cli.fields import filled, leaves, owners, parsed_kind, read_value
from collegium.cli.output import Outcome
from collegium.cli.parsing import command_path, parse
from collegium.core.errors import ConfigError


@dataclass(frozen=True)
class Fit:
    """How to fit."""

    rank: int = 4
    """The rank."""
    seed: int = 7
    """Its seed."""

    def __post_init__(self):
        if self.rank < 1:
            raise ConfigError(f"rank is at least 1, got {self.rank}.")


@dataclass(frozen=True)
class Machine:
    """Where to run."""

    seed: int = 0
    """One seed for all."""
    device: str = "auto"
    """Where."""


@dataclass(frozen=True)
class Train:
    """Train experts.

    More about it.
    """

    data: tyro.conf.Positional[Path]
    """Texts."""
    names: tuple[str, ...] = ()
    """Only these."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of columns."""
    saved: Annotated[str, tyro.conf.arg(name="as")] = ""
    """Its name."""
    fit: Fit = field(default_factory=lambda: Fit(rank=8))
    """How to fit."""
    machine: Machine = Machine()
    """Where to run."""


@dataclass(frozen=True)
class Show:
    """Show one."""

    name: tyro.conf.Positional[str]
    """Which."""


TABLE = {
    "train": Command(Train, lambda config, screen: Outcome({})),
    "library": Group("Keep it.", {"show": Command(Show, lambda config, screen: Outcome({}))}),
}


def test_flags_set_nested_options():
    request = parse(TABLE, ["train", "texts", "--rank", "2", "--device", "cpu", "--as", "law"])
    assert request.path == ("train",)
    assert request.config == Train(Path("texts"), saved="law", fit=Fit(rank=2), machine=Machine(device="cpu"))
    assert type(request.config) is Train
    assert type(request.config.fit) is Fit


def test_defaults_of_the_outer_dataclass_are_kept():
    assert parse(TABLE, ["train", "texts"]).config == Train(Path("texts"))
    assert Train(Path("texts")).fit.rank == 8


def test_a_name_that_occurs_twice_is_one_flag():
    config = parse(TABLE, ["train", "texts", "--seed", "3"]).config
    assert (config.machine.seed, config.fit.seed) == (3, 7)
    assert owners(Train)["seed"].path == ("machine", "seed")
    assert sum(leaf.flag == "seed" for leaf in leaves(Train)) == 2


def test_without_hiding_twins_tyro_would_refuse():
    assert parsed_kind(Train) is not Train
    with pytest.raises(AssertionError, match="conflict"):
        tyro.cli(Train, args=["texts", "--seed", "3"], config=(tyro.conf.OmitArgPrefixes,))


def test_a_dataclass_without_twins_is_parsed_as_it_is():
    assert parsed_kind(Show) is Show


def test_tables_of_texts_are_key_value_words():
    assert parse(TABLE, ["train", "t", "--columns", "text=body", "prompt=q"]).config.columns == {
        "text": "body",
        "prompt": "q",
    }
    with pytest.raises(SystemExit):
        parse(TABLE, ["train", "t", "--columns", "text"])


def write(folder, text):
    path = folder / "run.toml"
    path.write_text(text)
    return str(path)


def test_file_wins_over_defaults_and_flags_over_file(tmp_path):
    file = write(tmp_path, 'rank = 2\nseed = 5\nnames = ["a", "b"]\nas = "law"\ncolumns = {text = "body"}\n')
    config = parse(TABLE, ["train", "texts", "--config", file, "--seed", "6"]).config
    assert config == Train(Path("texts"), ("a", "b"), {"text": "body"}, "law", Fit(rank=2), Machine(seed=6))
    assert parse(TABLE, ["train", "texts", f"--config={file}"]).config.machine.seed == 5


def test_a_file_may_give_what_is_required(tmp_path):
    file = write(tmp_path, 'data = "texts"\n')
    assert parse(TABLE, ["train", "--config", file]).config == Train(Path("texts"))
    with pytest.raises(SystemExit):
        parse(TABLE, ["train"])


@pytest.mark.parametrize(
    ("text", "lessons"),
    [
        ("rnk = 2\nsed = 1\n", ["unknown key 'rnk'. Did you mean 'rank'?", "unknown key 'sed'. Did you mean 'seed'?"]),
        ('rank = "many"\n', ["rank = 'many' cannot be read"]),
        ("rank = 0\n", ["rank is at least 1, got 0"]),
        ("rank = \n", ["is not TOML"]),
    ],
)
def test_mistakes_of_a_file_are_answered_together(tmp_path, text, lessons):
    with pytest.raises(ConfigError) as caught:
        parse(TABLE, ["train", "texts", "--config", write(tmp_path, text)])
    assert all(lesson in str(caught.value) for lesson in lessons)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no configuration file .*absent\.toml"):
        parse(TABLE, ["train", "texts", "--config", str(tmp_path / "absent.toml")])


def test_dashes_and_underscores_are_one():
    @dataclass(frozen=True)
    class Slow:
        max_slowdown: float = 1.0

    assert filled(Slow, {"max-slowdown": 2}, where="here") == Slow(2.0)


@pytest.mark.parametrize(("kind", "value"), [(int, 3), (float, 0.5), (bool, True), (str, "x"), (Path, "p")])
def test_values_of_files_become_the_fields_type(kind, value):
    assert read_value(kind, value) == kind(value)


def test_command_paths():
    assert command_path(TABLE, ["train", "x"]) == ("train",)
    assert command_path(TABLE, ["library", "show"]) == ("library", "show")
    assert command_path(TABLE, ["library"]) is None
    assert command_path(TABLE, ["library", "shw"]) is None
    assert command_path(TABLE, []) is None
