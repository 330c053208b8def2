"""Policies as experts of a library, with cards that say what they stand on and how they were made."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from collegium.align.policy import AdapterPolicy
from collegium.align.whole import WholePolicy
from collegium.core.cards import ExpertCard, content_hash
from collegium.core.errors import NameTaken
from collegium.core.names import check_name
from collegium.experts import Expert, FitConfig, WholePayload, adapter_payload
from collegium.experts.fresh import with_tensors
from collegium.experts.recipe import Kind, recipe_of
from collegium.library import Library
from collegium.recipes.aligning.opening import Original
from collegium.recipes.opening import kept_reference
from collegium.recipes.reference import is_library


def check_free(library: Path, name: str) -> None:
    """Raise NameTaken for a name that is impossible, or that the library has something of already."""
    check_name(name, what="policy")
    if is_library(str(library)):
        kept = Library(library, read_only=True)
        if name in {*kept.names(), *kept.model_names(), *kept.router_names()}:
            raise NameTaken(f"the library has something called {name!r} already; take another --as.")


def policy_expert(
    name: str,
    policy: AdapterPolicy | WholePolicy,
    original: Original,
    adapter: FitConfig,
    *,
    recipe: Mapping[str, Any],
    tokens_seen: int,
    documents: Mapping[str, tuple[str, ...]] | None = None,
) -> Expert:
    """Return a policy as an expert. recipe: how it was moved, beside the settings of what is trained."""
    base = original.opened.base
    if isinstance(policy, WholePolicy):
        kind, payload, many = "whole", WholePayload(policy.base.model), sum(map(torch.numel, policy.weights.values()))
    else:
        kind = "lora"
        payload = adapter_payload(base, with_tensors(policy.adapter, lambda each: each.detach().to("cpu", copy=True)))
        many = payload.parameters
    whole = {**recipe_of(adapter, kind, base), "original": original.reference, **recipe}
    card = ExpertCard(
        name=name,
        kind=kind,
        base=base.fingerprint,
        documents=dict(documents or {}),
        tokens_seen=tokens_seen,
        trained_parameters=many,
        recipe=whole,
        recipe_hash=content_hash(whole),
        parents=original.parents,
        context=original.context,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return Expert(card, payload)


def made_on(original: Original, adapter: FitConfig, kind: Kind) -> dict[str, Any]:
    """Return what an original model and the settings of what is trained add to a run's identity."""
    base = original.opened.base
    return {
        "adapter": recipe_of(adapter, kind, base),
        "base": base.fingerprint.short,
        "context": dict(original.context),
        "parents": dict(original.parents),
    }


def opened_library(path: Path, model: str, original: Original) -> Library:
    """Return the library that a policy of a model goes to, made where it is not there."""
    opened = original.opened
    reference = kept_reference(model) if opened.library is None else opened.library.base_reference
    return Library(path, base=opened.base, base_reference=reference)
