"""A joint judge that goes on learning from another domain's pairs alone: what growing is compared with."""

import torch

from collegium.data.preferences import PairDomain
from collegium.experts import Expert
from collegium.experts.fresh import with_tensors
from collegium.experts.payloads import AdapterPayload, WholePayload
from collegium.experts.whole import open_whole
from collegium.models import BASE_ROWS, Base, HeadWeights, RowPlan
from collegium.rewards import RewardConfig
from collegium.rewards.fit import (
    BEING_FITTED,
    Lesson,
    adapter_weights,
    finished,
    judge_card,
    kept_payload,
    objective_of,
    run,
    standards,
)
from collegium.rewards.judges import common_reading
from collegium.rewards.sequence import head_of
from collegium.rewards.texts import Encoder


def continued(base: Base, expert: Expert, domain: PairDomain, *, config: RewardConfig, name: str) -> Expert:
    """Return a judge that began with an expert's weights and learned from one domain; the expert stays as it is."""
    if isinstance(expert.payload, AdapterPayload):
        return _adapter(base, expert, expert.payload, domain, config=config, name=name)
    return _whole(base, expert, domain, config=config, name=name)


def _adapter(
    base: Base, expert: Expert, payload: AdapterPayload, domain: PairDomain, *, config: RewardConfig, name: str
) -> Expert:
    def copied(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(base.device, copy=True).requires_grad_()

    assert payload.head is not None
    reading = common_reading([expert])
    adapter, head = with_tensors(payload.adapter, copied), HeadWeights(copied(payload.head.weight))
    lesson = Lesson.of([domain], Encoder(base, config.text_tokens), config)
    base.attach(BEING_FITTED, adapter)
    try:
        objective = objective_of(
            base,
            RowPlan.one(BEING_FITTED),
            head,
            lesson=lesson,
            reading=reading,
            config=config,
            adapter=adapter,
        )
        weights = adapter_weights(adapter) | {"head": head.weight}
        card = judge_card(base, "lora", lesson, name=name, config=config, trained="adapter")
        done = run(objective, weights, card, config=config, trained="adapter", folder=None, logger=None)
        constants = {**reading.to_constants(), **standards(objective)}
        tokens = objective.tokens_read(len(done.history.steps))
    finally:
        base.detach(BEING_FITTED)
    kept = kept_payload(base, adapter, head)
    return Expert(finished(card, done, tokens=tokens, parameters=kept.parameters, constants=constants), kept)


def _whole(base: Base, expert: Expert, domain: PairDomain, *, config: RewardConfig, name: str) -> Expert:
    reading = common_reading([expert])
    model = open_whole(expert, base, dtype=torch.float32)
    model.model.requires_grad_(True)
    lesson = Lesson.of([domain], Encoder(base, config.text_tokens), config)
    weights = dict(model.model.named_parameters())
    objective = objective_of(
        model, BASE_ROWS, head_of(model), lesson=lesson, reading=reading, config=config, dtype=base.dtype
    )
    card = judge_card(base, "whole", lesson, name=name, config=config, trained="whole")
    done = run(objective, weights, card, config=config, trained="whole", folder=None, logger=None)
    model.model.requires_grad_(False)
    constants = {**reading.to_constants(), **standards(objective)}
    count, tokens = sum(each.numel() for each in weights.values()), objective.tokens_read(len(done.history.steps))
    judged = finished(card, done, tokens=tokens, parameters=count, constants=constants)
    return Expert(judged, WholePayload(model.model))
