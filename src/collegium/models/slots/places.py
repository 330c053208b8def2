"""Plans: what each place computes for a set of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from collegium.core.protocols import Gate
from collegium.models.parts import BottleneckWeights, LoraWeights, Part
from collegium.models.rows import Rows
from collegium.models.sites import Site
from collegium.models.slots.gated import GatedFamily, gated_families
from collegium.models.slots.merged import check_merged, filled
from collegium.models.slots.residents import Residents
from collegium.models.slots.run import Shared
from collegium.models.slots.stacks import (
    LowRankStack,
    Place,
    exchange_stack,
    prefix_stack,
    rescale_stacks,
    shared_input,
    span_of,
    trained_stack,
)


@dataclass(frozen=True, eq=False)
class Plan:
    """Places by module path, first matrices and gates that some of them share, and the lowest block that is changed.

    gates: those it was made with, kept so that no others come to have their id.
    """

    names: frozenset[str]
    gates: Mapping[str, Gate] | None
    places: Mapping[str, Place]
    shared: Mapping[str, Shared]
    gated: Mapping[str, tuple[GatedFamily, int]]
    first: int


def make_plan(
    model: Any,  # noqa: ANN401 - a transformers model
    rows: Rows,
    residents: Residents,
    sites: Mapping[str, Site],
    families: Mapping[str, tuple[str, ...]],
    *,
    trained: bool,
    blocks: int,
) -> Plan:
    """Return the plan of rows whose experts are resident. trained: let gradients reach their weights."""
    live = {name for cast in rows.casts for name in cast if name}
    places = {}
    for path in dict.fromkeys(path for name in rows.names if name in live for path in residents.adapter(name)):
        like = next(model.get_submodule(path).parameters())
        parts = {name: part for name in rows.names if name in live and (part := residents.adapter(name).get(path))}
        if rows.merged:
            check_merged(path, parts, rows)
        low_rank = _low_rank(path, parts, rows, residents, like, sites[path], trained=trained)
        places[path] = Place(
            sites[path].block,
            low_rank,
            rescale_stacks(parts, rows, like),
            exchange_stack(parts, rows, like),
            prefix_stack(parts, rows, like),
        )
    shared = {} if rows.gates else _share(places, families)
    first = min((sites[path].block for path in places), default=blocks)
    gated = gated_families(rows.gates, places, families) if rows.gates else {}
    return Plan(frozenset(rows.names), rows.gates, places, shared, gated, first)


def _low_rank(
    path: str,
    parts: Mapping[str, Part],
    rows: Rows,
    residents: Residents,
    like: Tensor,
    site: Site,
    *,
    trained: bool,
) -> tuple[LowRankStack, ...]:
    """Return the thin products at a place: casts with equally many rows together; merged ones, also of one rank."""
    own = {name: part for name, part in parts.items() if isinstance(part, LoraWeights | BottleneckWeights)}
    buckets: dict[tuple[int, int, int], list[tuple[tuple[str, ...], tuple[int, ...]]]] = {}
    for cast, members in rows.casts.items():
        for first, piece in ((0, cast[: rows.merged]), (rows.merged, cast[rows.merged :])):
            ranks = [own[name].rank for name in piece if name in own]
            if ranks:
                key = (len(members), first, ranks[0] if first < rows.merged else 0)
                buckets.setdefault(key, []).append((piece, members))
    stacks = []
    for (per, first, _), bucket in buckets.items():
        merged = rows.merged if first < rows.merged else 0
        casts = [cast for cast, _ in bucket]
        span = span_of([row for _, members in bucket for row in members], like.device)
        if trained:
            made = _from_parts(casts, own, like, merged=merged)
        else:
            made = _from_slab(path, casts, own, residents, like, site)
        if first:
            made = replace(made, places=made.places + first, rank=None)
        stacks.append(replace(made, span=span, per=per, merged=merged))
    return tuple(stacks)


def _from_slab(
    path: str,
    casts: Sequence[tuple[str, ...]],
    own: Mapping[str, LoraWeights | BottleneckWeights],
    residents: Residents,
    like: Tensor,
    site: Site,
) -> LowRankStack:
    """Return the stack of resident experts: views of their slab, or a copy of the rows that are needed."""
    slab, positions = residents.slab(path, own, site.shape, like)
    rank = max(slab.ranks[positions[name]] for cast in casts for name in cast if name in own)
    table = torch.tensor([[positions.get(name, 0) for name in cast] for cast in casts])
    a, b, bias = slab.take(table, rank)
    places = torch.arange(table.shape[1], device=like.device).repeat_interleave(rank).expand(len(casts), -1)
    return LowRankStack(a, b, bias, places, slice(0), 0, rank)


def _from_parts(
    casts: Sequence[tuple[str, ...]],
    own: Mapping[str, LoraWeights | BottleneckWeights],
    like: Tensor,
    *,
    merged: int = 0,
) -> LowRankStack:
    """Return the stack of experts that are being trained."""
    parts = [filled(cast, own) if merged else [own.get(name) for name in cast] for cast in casts]
    a, b, bias = trained_stack(parts, like)
    rows = [_columns(cast, a.shape[2]) for cast in parts]
    rank = a.shape[2] // merged if merged else None
    return LowRankStack(a, b, bias, torch.tensor(rows, device=like.device), slice(0), 0, rank)


def _columns(parts: Sequence[LoraWeights | BottleneckWeights | None], columns: int) -> list[int]:
    """Return the place of each column's expert; padding counts as the first's."""
    places = []
    for place, part in enumerate(parts):
        if part is not None:
            places += [place] * (part.rank + isinstance(part, BottleneckWeights))
    return places + [0] * (columns - len(places))


def _share(places: dict[str, Place], families: Mapping[str, tuple[str, ...]]) -> dict[str, Shared]:
    """Join the first matrices of places that read the same input and compute the same rows of the same casts."""
    found = {}
    for family in dict.fromkeys(families.values()):
        live = [path for path in family if path in places and len(places[path].low_rank) == 1]
        stacks = [places[path].low_rank[0] for path in live]
        alike = [stack for stack in stacks if stack.casts == stacks[0].casts and _same_span(stack.span, stacks[0].span)]
        rescaled = any(each.inputs for path in live for each in places[path].rescale)
        if len(live) < 2 or len(alike) != len(live) or rescaled:
            continue
        joint, views = shared_input(stacks)
        widths = [stack.a.shape[2] for stack in stacks]
        for path, view in zip(live, views, strict=True):
            places[path] = replace(places[path], low_rank=(view,))
            found[path] = Shared(tuple(live), joint, widths)
    return found


def _same_span(one: slice | Tensor, other: slice | Tensor) -> bool:
    if isinstance(one, slice) or isinstance(other, slice):
        return isinstance(one, slice) and isinstance(other, slice) and one == other
    return torch.equal(one, other)
