"""X3: a domain leaves, its expert and its judge; what the other domains are given stays."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.claims.chain_world import experts, judged_by
from collegium.claims.experiment import Place
from collegium.compose import Ensemble, ensemble
from collegium.compose.routed import route
from collegium.core.samples import Sample, plain_text
from collegium.library import Library
from collegium.models import Base
from collegium.recipes.keep import remove_expert
from collegium.rewards import Making, Rewards, drop, open_reward
from collegium.routers import classifier

_PAIRS = 8
"""Pairs of each domain that are read before and after."""


@dataclass(frozen=True)
class Said:
    """What is said of the texts: whose expert speaks, each token's log-probability, and the rewards by whose judge.

    A judge's name is empty where the router abstains: the mean of all is given, which is another when one leaves.
    """

    experts: list[str]
    scores: list[Tensor]
    judges: list[str]
    rewards: Float[Tensor, " sample"]


def removal(base: Base, place: Place) -> dict[str, float]:
    """Return what changes for texts whose expert and judge stay the same ones, and how many have others."""
    library = experts(base, place.folder / "leaving", place.number)
    making = judged_by(base, place.folder / "leaving arliss", "arliss", place.number)
    gone, *others = making.corpus.names
    samples = [
        sample for domain in making.corpus.only(others) for pair in domain.pairs[:_PAIRS] for sample in pair.samples
    ]
    before = said(base, library, making, samples)
    remove_expert(library, gone)
    drop(replace(making, corpus=making.corpus.only(others)), gone)
    after = said(base, library, making, samples)
    spoken = [one == other for one, other in zip(before.experts, after.experts, strict=True)]
    judged = torch.tensor([one == other != "" for one, other in zip(before.judges, after.judges, strict=True)])
    gaps = [
        float((one - other).abs().max())
        for one, other, same in zip(before.scores, after.scores, spoken, strict=True)
        if same
    ]
    assert gaps, "no text has the expert it had"
    assert bool(judged.any()), "no text has the judge it had"
    return {
        "changed_texts": max(gaps),
        "changed_rewards": float((before.rewards - after.rewards)[judged].abs().max()),
        "moved_texts": 1 - sum(spoken) / len(spoken),
        "moved_rewards": float((~judged).double().mean()),
    }


def said(base: Base, library: Library, making: Making, samples: list[Sample]) -> Said:
    """Return what experts and judges say of samples, each text by itself."""
    model = ensemble(base, library, router=classifier(threshold=0.0), top_k=1)
    reward = open_reward(base, making.library, making.name)
    names, scores = [], []
    for sample in samples:
        question, answer = (plain_text(each).encode() for each in (sample.prompt, sample.completion))
        tokens = torch.tensor([[256, *question, *answer]])
        context = torch.tensor([1 + len(question)])
        names.append(speaker_of(model, tokens, context))
        scores.append(model.score(tokens, context=context))
    found: list[Rewards] = [reward.judge([sample]) for sample in samples]
    judges = [reward.domains[int(each.choice)] if int(each.choice) >= 0 else "" for each in found]
    return Said(names, scores, judges, torch.cat([each.rewards for each in found]))


def speaker_of(model: Ensemble, tokens: Tensor, context: Tensor) -> str:
    """Return the expert that the router chooses for a text."""
    lengths = torch.tensor([tokens.shape[1]])
    routing = route(model.router, tokens, lengths=lengths, context=context, tokenizer=model.tokenizer)
    return model.experts[int(routing.dense()[0, -1].argmax())]
