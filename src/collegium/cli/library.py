"""`library list / show / add / remove / update / grow / merge / verify / derive / export`: keep a library."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from collegium.cli.command import Command, Group
from collegium.cli.console import Screen
from collegium.cli.derive import DERIVE
from collegium.cli.export import EXPORT
from collegium.cli.growing import GROW
from collegium.cli.merge_models import MERGE_MODELS
from collegium.cli.merging import MERGE
from collegium.cli.output import Outcome
from collegium.cli.update import UPDATE
from collegium.core.errors import ConfigError, LibraryError
from collegium.experts import Expert, convert_peft, foreign_kind, is_peft_folder
from collegium.library import Library, Lineage, check_place, received
from collegium.models import Base
from collegium.recipes.common import Common
from collegium.recipes.keep import remove_expert
from collegium.recipes.opening import DEFAULT_BASE, kept_reference, open_base
from collegium.recipes.reference import is_library


@dataclass(frozen=True)
class ListConfig:
    """List the experts and models of a library."""

    library: Path
    """The library of experts."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


@dataclass(frozen=True)
class ShowConfig:
    """Show an expert (its card, where it came from, what was made from it, its measurements), or a reward model."""

    name: Positional[str]
    """The expert or the reward model."""
    library: Path
    """The library of experts."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


@dataclass(frozen=True)
class AddConfig:
    """Add an expert: a folder of ours, or an adapter that PEFT saved."""

    folder: Positional[Path]
    """The expert's folder."""
    library: Path
    """The library of experts; made when it is not there and --base is given."""
    name: Annotated[str, arg(name="as")] = ""
    """The expert's name in the library; default = the one on its card, or the folder's."""
    trust_base: bool = False
    """Do not warn that an adapter from elsewhere does not say which base it was made for."""
    convert_rank: int = 0
    """Turn an adapter of another PEFT kind (LOHA, LOKR, VERA, ...) into LoRA of this rank, approximately."""
    base: str = ""
    """The base model; default = the library's own."""
    dry_run: bool = False
    """Check it and say what would be added, then stop."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


@dataclass(frozen=True)
class RemoveConfig:
    """Remove an expert; the others answer as if it had never been there."""

    name: Positional[str]
    """The expert."""
    library: Path
    """The library of experts."""
    cascade: bool = False
    """Remove what was branched or merged from it, too."""
    keep_descendants: bool = False
    """Leave what was branched or merged from it."""
    dry_run: bool = False
    """Say what would go, then stop."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


@dataclass(frozen=True)
class VerifyConfig:
    """Check every file of a library against its card; ends with 1 when something is wrong."""

    library: Path
    """The library of experts."""
    base: str = ""
    """Compare shapes with this base; default = with what the library noted of its own."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run_list(config: ListConfig, screen: Screen) -> Outcome:
    """Return the experts with their kinds, domains and sizes, the fitted routers and the default composition."""
    library = Library(config.library, read_only=True)
    experts = [
        {
            "name": row.name,
            "kind": row.kind,
            "task": row.task,
            "domain": row.domain or None,
            "tokens_seen": row.tokens_seen,
            "trained_parameters": row.trained_parameters,
            "problem": row.problem or None,
        }
        for row in library.rows().values()
    ]
    columns = ("name", "kind", "task", "domain", "tokens_seen", "trained_parameters")
    screen.table(
        ("expert", "kind", "task", "domain", "tokens seen", "parameters"),
        [[row[key] for key in columns] for row in experts],
    )
    for name in library.model_names():
        try:
            told = described(library.load_model(name))
        except LibraryError as error:
            told = str(error)
        screen.say(f"model {name}: {told}")
    for row in experts:
        if row["problem"]:
            screen.say(f"{row['name']}: {row['problem']}")
    defaults = dataclasses.asdict(library.defaults)
    chosen = [f"{key} {value}" for key, value in defaults.items() if value is not None]
    said = ", ".join(chosen) or "ensemble, the classifier as prior of the posterior"
    screen.say(f"{len(experts)} experts on {library.base_reference or library.base_fingerprint.short}; default: {said}")
    value = {
        "library": str(config.library),
        "base": library.base_reference,
        "base_fingerprint": dataclasses.asdict(library.base_fingerprint),
        "defaults": defaults,
        "routers": list(library.router_names()),
        "models": list(library.model_names()),
        "experts": experts,
    }
    return Outcome(value, experts)


def run_show(config: ShowConfig, screen: Screen) -> Outcome:
    """Return everything known about an expert, or the record of a reward model."""
    library = Library(config.library, read_only=True)
    if config.name not in library and config.name in library.model_names():
        return show_model(library, config.name, screen)
    found = library.show(config.name)
    card = dataclasses.asdict(found.card)
    seen = {split: len(hashes) for split, hashes in found.card.documents.items()}
    screen.table(
        ("what", "value"),
        [
            ("name", found.card.name),
            ("kind", found.card.kind),
            ("task", found.card.task),
            ("base", found.card.base.short if found.card.base else "unverified"),
            ("domain", found.card.domain),
            ("documents", ", ".join(f"{count} {split}" for split, count in seen.items()) or None),
            ("sources", ", ".join(f"{each.name} ({each.licence})" for each in found.card.sources) or None),
            ("tokens seen", f"{found.card.tokens_seen:,}"),
            ("trained parameters", f"{found.card.trained_parameters:,}"),
            ("bytes", f"{found.payload_bytes:,}"),
            ("recipe", found.card.recipe_hash[:12] or None),
            ("created", found.card.created or None),
            ("descendants", ", ".join(found.descendants) or None),
        ],
    )
    for line in lineage_lines(found.lineage):
        screen.say(line)
    for warning in found.card.warnings:
        screen.say(f"warning: {warning}")
    value = {
        "card": card,
        "lineage": [{"depth": depth, "name": each.name, "found": each.found} for depth, each in found.lineage.steps()],
        "descendants": list(found.descendants),
        "metrics": [dict(each) for each in found.metrics],
        "payload_bytes": found.payload_bytes,
    }
    return Outcome(value, [dict(each) for each in found.metrics])


def show_model(library: Library, name: str, screen: Screen) -> Outcome:
    """Return the record of a compound model: its members, and what it was made with."""
    record = library.load_model(name)
    plain = {key: value for key, value in record.items() if isinstance(value, str | int | float)}
    screen.table(("what", "value"), [("name", name), *plain.items(), ("is", described(record))])
    for member in record.get("members", ()):
        screen.say(f"  member {member}" + ("" if member in library else " (no longer in the library)"))
    return Outcome({"model": name, "record": record})


def described(record: Mapping[str, Any]) -> str:
    """Return a compound model's record in a line.

    >>> described({"kind": "reward", "design": "arliss", "domains": ["law", "code"], "members": ["j-law", "j-code"]})
    'reward arliss of law, code; 2 members'
    """
    words = [str(record[key]) for key in ("kind", "design") if record.get(key)]
    domains = record.get("domains")
    if isinstance(domains, list) and domains:
        words += ["of", ", ".join(map(str, domains))]
    return f"{' '.join(words)}; {len(record.get('members', ()))} members"


def lineage_lines(tree: Lineage) -> list[str]:
    """Return the tree of an expert's parents, a line each; nothing for one without parents.

    >>> lineage_lines(Lineage("law", True, (Lineage("civil", False),)))
    ['law', '  from civil (no longer in the library)']
    """
    if not tree.parents:
        return []
    return [
        "  " * depth + ("from " if depth else "") + each.name + ("" if each.found else " (no longer in the library)")
        for depth, each in tree.steps()
    ]


def run_add(config: AddConfig, screen: Screen) -> Outcome:
    """Return the card of the expert that was added."""
    if not config.folder.is_dir():
        raise ConfigError(f"there is no folder {config.folder}; give an expert's folder, of ours or saved by PEFT.")
    if not config.base and not is_library(str(config.library)):
        raise ConfigError(
            f"there is no library at {config.library}; give --base (such as {DEFAULT_BASE}) to make one there."
        )
    base, library = _base_and_library(config)
    expert = _incoming(config, base, library)
    if config.dry_run:
        screen.say(f"would add {config.folder} to {config.library} as {expert.name}")
        return Outcome({"would_add": expert.name, "library": str(config.library)})
    if library is None:
        library = Library(config.library, base=base, base_reference=kept_reference(config.base))
    card = library.add(expert, trust_base=True)  # A warning was given when it came in.
    if config.convert_rank:
        screen.say(card.warnings[0])
    screen.say(f"added {card.name} ({card.kind}, {card.trained_parameters:,} parameters) to {config.library}")
    return Outcome({"added": card.name, "card": dataclasses.asdict(card), "library": str(config.library)})


def _base_and_library(config: AddConfig) -> tuple[Base | None, Library | None]:
    """Return the base, where it is needed, and the library to add to, None where one is yet to be made.

    A new library, one that does not know its base's layers, and an adapter from elsewhere need the base itself.
    """
    if not is_library(str(config.library)):
        check_place(config.library.expanduser())
        return open_base(config.base, config.common), None
    library = Library(config.library)
    if not config.base and library.sites is not None and not is_peft_folder(config.folder):
        return None, library
    reference = config.base or library.base_reference
    if not reference:
        raise ConfigError(f"{config.library} does not say where its base is; give --base, to compare shapes with it.")
    base = open_base(reference, config.common)
    return base, Library(config.library, base=base)


def _incoming(config: AddConfig, base: Base | None, library: Library | None) -> Expert:
    """Return the expert, checked as `Library.add` would; nothing is made or changed."""
    name = config.name or None
    arriving = _converted(config, base)
    if library is not None:
        return library.incoming(arriving, name, trust_base=config.trust_base)
    assert base is not None, "a new library has its base"
    fingerprint, sites = base.fingerprint, base.sites
    return received(arriving, name, base=base, fingerprint=fingerprint, sites=sites, trust_base=config.trust_base)


def _converted(config: AddConfig, base: Base | None) -> Expert | Path:
    """Return the folder to add, or the expert that it is converted to; raises ConfigError when --convert-rank lacks."""
    foreign = foreign_kind(config.folder) if is_peft_folder(config.folder) else None
    if config.convert_rank:
        if base is None or not is_peft_folder(config.folder):
            raise ConfigError(f"--convert-rank is for adapters that PEFT saved; {config.folder} is none.")
        return convert_peft(config.folder, base, rank=config.convert_rank, name=config.name or None)
    if foreign is not None:
        raise ConfigError(
            f"{config.folder} is an adapter of type {foreign!r}; --convert-rank R turns it into LoRA of rank R, "
            "approximately, where PEFT can. Its card then says how far off it is."
        )
    return config.folder


def run_remove(config: RemoveConfig, screen: Screen) -> Outcome:
    """Return who went, who stays of those made from it, and where traces remain."""
    library = Library(config.library)
    if config.dry_run:
        keep = config.keep_descendants or not config.cascade
        plan = library.removal(config.name, cascade=config.cascade, keep_descendants=keep)
        made = [*plan.kept, *(each for each in plan.removed if each != config.name)]
        ending = f"; made from {config.name}: {', '.join(made)}" if made else ""
        screen.say(f"would remove {', '.join(plan.removed)}{ending}")
        return Outcome({"would_remove": list(plan.removed), "descendants": made})
    plan = library.removal(config.name, cascade=config.cascade, keep_descendants=config.keep_descendants)
    traces = remove_expert(library, config.name, cascade=config.cascade, keep_descendants=config.keep_descendants)
    screen.say(f"removed {', '.join(plan.removed)}" + (f"; kept {', '.join(plan.kept)}" if plan.kept else ""))
    for trace in traces:
        screen.say(trace)
    return Outcome({"removed": list(plan.removed), "kept": list(plan.kept), "traces": traces})


def run_verify(config: VerifyConfig, screen: Screen) -> Outcome:
    """Return what is wrong with each name; nothing for a sound library."""
    base = open_base(config.base, config.common) if config.base else None
    library = Library(config.library, base=base, read_only=True)
    problems = library.verify()
    compared = library.sites is not None
    rows: list[dict[str, Any]] = [{"name": name, "problems": found} for name, found in sorted(problems.items())]
    for row in rows:
        for problem in row["problems"]:
            screen.say(f"{row['name']}: {problem}")
    screen.say(f"{len(library)} experts checked, {len(rows)} with problems")
    if not compared:
        screen.say("shapes were not compared: the library has not noted its base's layers; give --base to compare them")
    value = {"checked": len(library), "shapes_compared": compared, "problems": problems}
    return Outcome(value, rows, code=1 if rows else 0)


LIBRARY = Group(
    "Keep a library of experts.",
    {
        "list": Command(ListConfig, run_list),
        "show": Command(ShowConfig, run_show),
        "add": Command(AddConfig, run_add),
        "remove": Command(RemoveConfig, run_remove),
        "update": UPDATE,
        "grow": GROW,
        "merge": MERGE,
        "verify": Command(VerifyConfig, run_verify),
        "derive": DERIVE,
        "export": EXPORT,
        "merge-models": MERGE_MODELS,
    },
)
