"""The gates that are fitted through the frozen model: PHATGOOSE's vectors and the X-LoRA-like head."""

from collections.abc import Mapping

import torch

from collegium.compose.fitting import GateFit, Remembered, fit_through, memory_of
from collegium.core.errors import RoutingError
from collegium.core.protocols import Shelf
from collegium.core.tables import nearest
from collegium.data import Windows
from collegium.models import Base, Group, RowPlan, lora_parts
from collegium.routers.gates.phatgoose import PHATGOOSE, LearningGate, check_grows, grow_phatgoose
from collegium.routers.gates.xlora import XLORA, Scale, fresh_head, keep_xlora
from collegium.train import Fit, Logger

WIDTH = 64
"""Inner units of the X-LoRA-like head."""


def fit_phatgoose(
    base: Base,
    keys: Mapping[str, str],
    shelf: Shelf,
    name: str = PHATGOOSE,
    *,
    documents: Mapping[str, Remembered],
    config: GateFit | None = None,
    seed: int = 0,
    logger: Logger | None = None,
) -> dict[str, Fit]:
    """Keep the gate vectors of each of these experts, learnt on its own documents alone; return their fits.

    keys: attached experts by name. documents: by expert. Each expert's vectors are as if it were the only one.

    Raises RoutingError for an expert that is unknown or not low-rank, and for a fit kept of another base.
    """
    config, found = config or GateFit(), {}
    check_grows(shelf, name, base=base.fingerprint.short)
    for expert, own in documents.items():
        check_known(expert, keys)
        memory = memory_of({expert: own}, base.tokenizer, config=config, seed=seed)
        paths = {path: part.shape[0] for path, part in lora_parts(base.adapter(keys[expert])).items()}
        if not paths:
            raise RoutingError(f"phatgoose stands at low-rank changes (`lora`) alone, {expert!r} has none.")
        vectors = {path: torch.zeros(size, device=base.device).requires_grad_() for path, size in paths.items()}
        gates = {path: LearningGate(vector) for path, vector in vectors.items()}
        plan = RowPlan((Group((keys[expert],), gates=gates),))

        def read(batch: Windows, plan: RowPlan = plan) -> RowPlan:
            return plan

        found[expert] = fit_through(base, read, vectors, memory, config=config, label=expert, seed=seed, logger=logger)
        grow_phatgoose(shelf, name, expert=expert, vectors=vectors, base=base.fingerprint.short, documents=own.hashes)
    return found


def fit_xlora(
    base: Base,
    keys: Mapping[str, str],
    shelf: Shelf,
    name: str = XLORA,
    *,
    documents: Mapping[str, Remembered],
    width: int = WIDTH,
    scale: Scale = "softmax",
    config: GateFit | None = None,
    seed: int = 0,
    logger: Logger | None = None,
) -> Fit:
    """Keep a head over all of these experts, learnt on the memory of these domains; return its fit.

    keys: attached experts by name. documents: by domain. It begins with equal weights, and is never left worse.
    """
    config = config or GateFit()
    experts = tuple(keys)
    memory = memory_of(documents, base.tokenizer, config=config, seed=seed)
    head = fresh_head(base, len(experts), width=width, scale=scale, seed=seed)

    def read(batch: Windows) -> RowPlan:
        with torch.no_grad():
            hidden = base.hidden(batch.tokens, segments=batch.segments)
        return RowPlan((Group(tuple(keys.values()), head(hidden)),))

    done = fit_through(base, read, head.parameters, memory, config=config, label=XLORA, seed=seed, logger=logger)
    learnt = tuple(each for own in documents.values() for each in own.hashes)
    keep_xlora(shelf, name, head=head, experts=experts, base=base.fingerprint.short, documents=learnt)
    return done


def check_known(expert: str, keys: Mapping[str, str]) -> None:
    """Raise RoutingError for an expert that is not attached."""
    if expert not in keys:
        raise RoutingError(f"there is no expert {expert!r} to fit a gate for. {nearest(expert, keys)}")
