"""`reward score`: rows of prompt and completion in, their rewards out."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, Positional

from collegium.core.errors import ConfigError, DataError
from collegium.core.samples import Sample
from collegium.data.row_files import file_rows
from collegium.recipes.common import Common
from collegium.recipes.rewarding.opening import open_reward_reference
from collegium.recipes.run_card import RunCard, make_card
from collegium.recipes.watch import Watch
from collegium.rewards.routers import ABSTAIN
from collegium.rewards.use import as_text


@dataclass(frozen=True)
class RewardScoreConfig:
    """Score rows of prompt and completion with a reward model; --jsonl gives the rows with their rewards."""

    data: Positional[Path]
    """A .jsonl, .csv or .parquet file with the columns prompt and completion."""
    model: str = field(kw_only=True)
    """The reward model: LIB#NAME."""
    route: str = "router"
    """router (the model itself) or average of the judges."""
    raw: bool = False
    """The heads' own numbers, not standardised by their domains' dev answers."""
    batch: int = 32
    """Texts read at once."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the columns: completion=answer."""
    dry_run: bool = False
    """Count the rows, then stop."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: RewardScoreConfig, *, watch: Watch) -> RunCard:
    """Return the run's card: a row for each sample with its reward, and whose it is."""
    start = time.perf_counter()
    if config.route not in ("router", "average"):
        raise ConfigError(f"--route is router or average, got {config.route!r}.")
    if config.batch < 1:
        raise ConfigError(f"--batch is at least 1, got {config.batch}.")
    odd = sorted(set(config.columns) - {"prompt", "completion"})
    if odd:
        raise ConfigError(f"--columns renames prompt and completion, got {odd[0]!r}.")
    samples = list(samples_of(config))
    if not samples:
        raise DataError(f"{config.data} holds no rows; give rows of prompt and completion.")
    if config.dry_run:
        watch.say(f"would score {len(samples)} rows")
        return make_card("reward score", config, {"plan": {"rows": len(samples)}}, time.perf_counter() - start)
    opened = open_reward_reference(config.model, config.common)
    model = replace(opened.model, route=config.route, batch=config.batch)
    said = model.judge(samples, raw=config.raw, progress=watch.begin("scoring", len(samples)))
    rows: list[dict[str, Any]] = [
        {
            "prompt": plain_row(sample.prompt),
            "completion": plain_row(sample.completion),
            "reward": float(reward),
            "judge": None if choice == ABSTAIN else model.domains[int(choice)],
            "cut": cut,
        }
        for sample, reward, choice, cut in zip(samples, said.rewards, said.choice, said.cut, strict=True)
    ]
    seconds = time.perf_counter() - start
    watch.say(f"{len(rows)} rows, {sum(said.cut)} of them cut to {model.judges.reading.text_tokens} tokens")
    result = {"model": config.model, "rows": rows, "cut_texts": sum(said.cut), "seconds": round(seconds, 3)}
    return make_card("reward score", config, result, seconds)


def samples_of(config: RewardScoreConfig) -> Iterator[Sample]:
    """Yield the rows as samples; raises DataError that names the row."""
    prompt, completion = (config.columns.get(name, name) for name in ("prompt", "completion"))
    for number, row in file_rows(config.data, wanted={prompt, completion}, where=str(config.data)):
        where = f"{config.data}:{number}"
        missing = [name for name in (prompt, completion) if name not in row]
        if missing:
            raise DataError(
                f"{where}: a row has the columns `{prompt}` and `{completion}`, this one lacks `{missing[0]}`; it has "
                f"{', '.join(f'`{name}`' for name in row) or 'none'}. Name the right one: --columns completion=answer."
            )
        try:
            yield Sample(as_text(row[prompt]), as_text(row[completion]))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error


def plain_row(text: Any) -> Any:  # noqa: ANN401 - a text or a chat, as JSON holds it
    """Return a text as it is, a chat as rows of role and content."""
    return text if isinstance(text, str) else [{"role": each.role, "content": each.content} for each in text]
