"""The ledger: one committed file per claim and scale, written before its run, read strictly."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from collegium.claims.verdict import DIRECTIONS, Direction
from collegium.core.cards import content_hash
from collegium.core.config import read_toml
from collegium.core.errors import ConfigError
from collegium.core.tables import nearest

LEDGER = Path(__file__).parent / "ledger"

Scale = Literal["exact", "toy", "small", "paper"]
SourceOfClaim = Literal["abstract", "paper", "memory", "ours"]
Fidelity = Literal["paper's equations", "our reading"]
FEWEST_SEEDS: Mapping[str, int] = {"exact": 1, "toy": 5, "small": 3, "paper": 1}

_IDENTIFIER = re.compile(r"[A-Z][0-9]{1,2}")


@dataclass(frozen=True)
class Part:
    """One measured number of a claim: on which side of which margin it must lie."""

    metric: str
    says: str
    unit: str
    direction: Direction
    margin: float


@dataclass(frozen=True)
class Claim:
    """One row of the ledger.

    source:     who says so: the paper's abstract, its text or official code, memory of it, or ourselves.
    fidelity:   whether the method is the paper's equations or our reading of them.
    experiment: a row of `EXPERIMENTS`; it gives one number per seed for each part's metric.
    tuning:     what was chosen, on which data, with which budget; the same for every method compared.
    """

    id: str
    scale: Scale
    statement: str
    source: SourceOfClaim
    fidelity: Fidelity
    experiment: str
    seeds: tuple[int, ...]
    tuning: str
    parts: tuple[Part, ...]

    @property
    def key(self) -> str:
        """Its name in files: M2-toy."""
        return f"{self.id}-{self.scale}"

    @property
    def hash(self) -> str:
        """The sha256 of the row; a result of another hash was measured for another row."""
        return content_hash(self)


def parse_claim(raw: Mapping[str, Any], *, where: str) -> Claim:
    """Return the claim in a parsed TOML file; raises ConfigError with every problem at once."""
    problems = _field_problems(raw, Claim)
    parts = raw.get("parts", ())
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        problems.append("a claim has at least one [[parts]] table.")
        parts = []
    for part in parts:
        problems += [f"part {part.get('metric', '?')!r}: {problem}" for problem in _field_problems(part, Part)]
    if not problems:
        problems = _value_problems(raw, parts)
    if problems:
        raise ConfigError(f"{where}: " + " ".join(problems))
    typed = tuple(Part(**{**part, "margin": float(part["margin"])}) for part in parts)
    return Claim(**{**raw, "seeds": tuple(raw["seeds"]), "parts": typed})


def read_ledger(folder: Path = LEDGER) -> tuple[Claim, ...]:
    """Return all claims of a folder, in order of number and scale; raises ConfigError for a wrong or misnamed file."""
    claims = []
    for path in sorted(folder.glob("*.toml")):
        claim = parse_claim(read_toml(path), where=path.name)
        if path.stem != claim.key:
            raise ConfigError(f"{path.name} holds claim {claim.key}; name it {claim.key}.toml.")
        claims.append(claim)
    scales = get_args(Scale)
    return tuple(sorted(claims, key=lambda claim: (claim.id[0], int(claim.id[1:]), scales.index(claim.scale))))


def _field_problems(raw: Mapping[str, Any], kind: type) -> list[str]:
    known = [each.name for each in fields(kind)]
    unknown = [f"unknown key {key!r}. {nearest(key, known)}" for key in raw if key not in known]
    return unknown + [f"{key!r} is missing." for key in known if key not in raw]


def _value_problems(raw: Mapping[str, Any], parts: list[dict[str, Any]]) -> list[str]:
    problems = []
    choices = {"scale": get_args(Scale), "source": get_args(SourceOfClaim), "fidelity": get_args(Fidelity)}
    for key, allowed in choices.items():
        if raw[key] not in allowed:
            problems.append(f"{key} is one of {', '.join(allowed)}; got {raw[key]!r}.")
    for key in ("statement", "tuning", "experiment"):
        if not isinstance(raw[key], str) or not raw[key].strip():
            problems.append(f"{key} is a sentence or a name; got {raw[key]!r}.")
    if not isinstance(raw["id"], str) or not _IDENTIFIER.fullmatch(raw["id"]):
        problems.append(f"id is a letter and a number such as M2; got {raw['id']!r}.")
    return problems + _seed_problems(raw) + [problem for part in parts for problem in _part_problems(part, raw)]


def _seed_problems(raw: Mapping[str, Any]) -> list[str]:
    seeds, fewest = raw["seeds"], FEWEST_SEEDS.get(str(raw["scale"]), 1)
    whole = isinstance(seeds, list) and all(type(seed) is int for seed in seeds)
    if not whole or len(set(seeds)) != len(seeds):
        return [f"seeds are different whole numbers; got {seeds!r}."]
    if len(seeds) < fewest:
        return [f"scale {raw['scale']} needs at least {fewest} seeds; got {len(seeds)}."]
    return []


def _part_problems(part: Mapping[str, Any], raw: Mapping[str, Any]) -> list[str]:
    problems, name = [], part["metric"]
    if part["direction"] not in DIRECTIONS:
        problems.append(f"part {name!r}: direction is one of {', '.join(DIRECTIONS)}; got {part['direction']!r}.")
    if type(part["margin"]) not in (int, float):
        problems.append(f"part {name!r}: margin is a number; got {part['margin']!r}.")
    if raw["scale"] == "exact" and part["direction"] != "law":
        problems.append(f"part {name!r}: an exact claim has parts of direction 'law'; got {part['direction']!r}.")
    for key in ("metric", "says", "unit"):
        if not isinstance(part[key], str) or not part[key].strip():
            problems.append(f"part {name!r}: {key} is text; got {part[key]!r}.")
    return problems
