"""A composed model every one of whose rows wears one more adapter: how a policy on it speaks, and how it learns.

The routing of a mix is the one that the model without the adapter has, so that it does not depend on what is learnt.
An ensemble's posterior is Bayes' rule over the voices as they are, and its slope is part of the gradient.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose.choice import Choice
from collegium.compose.ensemble import Ensemble
from collegium.compose.mix import Mix
from collegium.compose.routed import keep_scored, route, row_context, row_lengths
from collegium.compose.voices import SlotVoices, row_plan
from collegium.core.errors import RoutingError
from collegium.core.protocols import LanguageModel
from collegium.models import Base, after_context
from collegium.ops.posterior import mix_log_probs

_LEAST = 1e-30
"""Weights under this are taken for it: the logarithm of nothing has no slope."""

Wearable = Base | Mix | Ensemble
"""What an adapter can be worn by."""


def carrier(model: LanguageModel) -> Base:
    """Return the base to which an adapter is attached that a model is to wear.

    Raises RoutingError for gates, pruned ensembles and voices with weights of their own.

    >>> from collegium.testing.pico import pico_base
    >>> base = pico_base()
    >>> carrier(base) is base
    True
    """
    if isinstance(model, Base):
        return model
    if isinstance(model, Mix):
        return model.base
    if isinstance(model, Ensemble) and isinstance(model.voices, SlotVoices) and not model.prune:
        return model.voices.base
    raise RoutingError(
        f"an adapter is worn by a base, an expert on it, a merge, or a mix or ensemble of adapters by a router, got "
        f"{type(model).__name__}. Gates, whole models and pruned ensembles wear none: merge, or leave prune out."
    )


def wearing(model: LanguageModel, name: str) -> Wearable:
    """Return a model that wears the adapter attached to its `carrier` under a name; raises what `carrier` does."""
    worn = carrier(model).wearing(name)
    if isinstance(model, Mix):
        return Mix(worn, model.keys, model.router, top_k=model.top_k, heard=model.heard)
    if isinstance(model, Ensemble):
        assert isinstance(model.voices, SlotVoices)
        return Ensemble(SlotVoices(worn, model.voices.keys), model.router, top_k=model.top_k)
    return worn


def first_block(model: Wearable) -> int:
    """Return the first block that an expert of a model changes; as many as there are blocks for none.

    >>> from collegium.testing.pico import pico_base
    >>> first_block(pico_base())
    2
    """
    base = carrier(model)
    keys = (*base.worn, *(() if isinstance(model, Base) else _keys(model).values()))
    changed = (base.sites[path].block for key in keys for path in base.adapter(key))
    return min(changed, default=len(base.blocks))


def _keys(model: Mix | Ensemble) -> Mapping[str, str]:
    """Return expert -> the name it is attached under."""
    if isinstance(model, Mix):
        return model.keys
    assert isinstance(model.voices, SlotVoices)
    return model.voices.keys


def learnt_scores(
    model: Wearable,
    tokens: Int[Tensor, "batch seq"],
    *,
    lengths: Int[Tensor, " batch"],
    context: Int[Tensor, " batch"],
) -> Float[Tensor, "batch seq"]:
    """Return what `score` does, with gradient: each token's log-probability, 0 for i < context and for padding."""
    read = after_context(tokens, context)
    if isinstance(model, Base):
        return -model.token_nats(tokens, lengths=lengths, scored=read)
    many, context = row_lengths(tokens, lengths), row_context(context, row_lengths(tokens, lengths))
    if isinstance(model, Mix):
        plan = model.plan(model.routing(tokens, lengths=many, context=context))
        return -model.base.token_nats(tokens, lengths=many, scored=read, plan=plan)
    voices = model.voices
    assert isinstance(voices, SlotVoices)
    every = Choice(model.experts)
    nats = voices.base.token_nats(tokens, lengths=many, plan=row_plan(every, voices.keys))
    table = -nats.view(every.rows, *tokens.shape).permute(1, 2, 0)
    likelihoods = table if model.router.needs_likelihoods else None
    routing = route(
        model.router,
        tokens,
        lengths=many,
        context=context,
        tokenizer=model.tokenizer,
        log_likelihoods=likelihoods,
    )
    log_weights = routing.top_k(model.top_k).dense().clamp(min=_LEAST).log().to(table.device)
    before = log_weights if log_weights.shape[1] == 1 else log_weights[:, :-1]
    mixed = mix_log_probs(before, table[:, 1:])
    scores = torch.cat([mixed.new_zeros(len(mixed), 1), mixed], dim=1)
    return keep_scored(scores, lengths=many, context=context)
