"""The card a run leaves: what was run, with which settings, on what, with which result."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collegium.core.cards import content_hash, to_json
from collegium.core.errors import ConfigError
from collegium.core.files import write_text
from collegium.core.machine import machine_line, today, versions


@dataclass(frozen=True)
class RunCard:
    """A finished run; `result` is what `--json` prints."""

    command: str
    config: dict[str, Any]
    config_hash: str
    result: dict[str, Any]
    seconds: float
    date: str
    machine: str
    versions: dict[str, str]


def plain(value: Any) -> Any:  # noqa: ANN401 - any configuration value
    """Return a configuration as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return value


def config_hash(command: str, config: Any) -> str:  # noqa: ANN401 - any dataclass
    """Return ten characters that name what a configuration computes, wherever it goes and if only planned."""
    settings = {name: value for name, value in plain(config).items() if name not in {"out", "dry_run"}}
    return content_hash([command, settings])[:10]


def run_folder(command: str, config: Any, out: Path | None) -> Path:  # noqa: ANN401 - any dataclass
    """Return where a run's report and resumable parts lie: `--out`, or runs/COMMAND-HASH."""
    return out or Path("runs") / f"{command.replace(' ', '-')}-{config_hash(command, config)}"


def make_folder(folder: Path) -> Path:
    """Return a run's folder, made where it was not; raises ConfigError for one that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out is a folder; {folder} cannot be made: {error.strerror}. Give another.") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--out is a folder that can be written, {folder} cannot. Give another.")
    return folder


def make_card(command: str, config: Any, result: dict[str, Any], seconds: float) -> RunCard:  # noqa: ANN401
    """Return the card of a run that has just ended."""
    return RunCard(
        command=command,
        config=plain(config),
        config_hash=config_hash(command, config),
        result=result,
        seconds=round(seconds, 3),
        date=today(),
        machine=machine_line(),
        versions=versions(["collegium", "torch", "transformers"]),
    )


def save_card(card: RunCard, folder: Path) -> None:
    """Write run.json into the run's folder."""
    write_text(folder / "run.json", to_json(card))
