"""Exact claims on routed reward models: laws of misrouting, growth and switching, on pico models. R5, R6, R7."""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from collegium.claims.experiment import Place, one_piece
from collegium.core.samples import Sample
from collegium.data.preferences import PairCorpus
from collegium.data.synthetic_preferences import conflicting_domains, toy_domains
from collegium.library import Library
from collegium.models import Base
from collegium.rewards import DESIGNS, Design, DesignOptions, Making, RewardConfig, RewardModel, grow, open_reward
from collegium.testing.pico import pico_base

GROWING: tuple[Design, ...] = ("arliss", "rodos")
QUICK = RewardConfig(text_tokens=64, passes=1.0, rank=4, learning_rate=3e-3, layers="top:1", threads=1)
"""Enough to move every weight."""
_PAIRS = 60
_FORGETFUL = DesignOptions(threshold=0.0, memory=8)
"""Routers that remember little and so misroute much."""
_ROUTED = DesignOptions(threshold=0.0)
"""Routers good enough to send some prompts where they went before."""


def made(base: Base, folder: Path, corpus: PairCorpus, design: Design, options: DesignOptions) -> Making:
    """Return the making of a reward model, called after its design, that has been made and kept."""
    library = Library(folder / design, base=base)
    making = Making(base, library, corpus, design, config=QUICK, options=options)
    DESIGNS[design].fit(making).save(making.library, design)
    return making


def misrouting(place: Place) -> dict[str, float]:
    """Return R5 of both designs, the worse one: how far its two sides differ, and whether anything was misrouted."""
    base, corpus = pico_base(place.number), conflicting_domains(_PAIRS, place.number)
    with tempfile.TemporaryDirectory() as folder:
        for design in GROWING:
            made(base, Path(folder), corpus, design, _FORGETFUL)
        lost = [
            losses(open_reward(base, Library(Path(folder) / design, base=base), design), corpus) for design in GROWING
        ]
    return {name: max(each[name] for each in lost) for name in lost[0]}


def losses(model: RewardModel, corpus: PairCorpus) -> dict[str, float]:
    """Return what routing costs a model on all pairs of a corpus, beside what its misrouted pairs cost."""
    oracle = routed = lost = misrouted = total = 0
    for domain in corpus:
        said = model.judge([sample for pair in domain.pairs for sample in pair.samples], every=True)
        assert said.every is not None
        own = said.every[:, model.domains.index(domain.name)]
        best, right = own[0::2] > own[1::2], said.rewards[0::2] > said.rewards[1::2]
        wrong = said.choice[0::2] != model.domains.index(domain.name)
        oracle, routed, total = oracle + int(best.sum()), routed + int(right.sum()), total + len(wrong)
        lost += int((best.int() - right.int())[wrong].sum())
        misrouted += int(wrong.sum())
    return {
        "identity_gap": float(abs(oracle - routed - lost)),
        "loss_above_misrouted": max(0.0, (oracle - routed - misrouted) / total),
        "nothing_misrouted": float(misrouted == 0),
    }


def reward_growth(place: Place) -> dict[str, float]:
    """Return R6 of both designs together: what of old judges and rewards changes when a third domain comes."""
    base, corpus = pico_base(place.number), toy_domains(3, _PAIRS, place.number)
    old = corpus.only(corpus.names[:2])
    samples = [sample for domain in old for pair in domain.pairs[:8] for sample in pair.samples]
    with tempfile.TemporaryDirectory() as folder:
        found = [grown(made(base, Path(folder), old, design, _ROUTED), corpus, samples) for design in GROWING]
        joint = [joint_rewards(base, Path(folder) / str(len(each)), each, samples) for each in (old, corpus)]
    sums = {name: sum(each[name] for each in found) for name in ("changed_rewards", "changed_judges", "changed_files")}
    return {
        **sums,
        "no_route_kept": max(each["no_route_kept"] for each in found),
        "joint_unchanged": float(torch.equal(*joint)),
    }


def grown(making: Making, corpus: PairCorpus, samples: list[Sample]) -> dict[str, float]:
    """Return what changes for samples of old domains when a reward model grows by the rest of the corpus."""
    library, name = making.library, making.name
    before, files = alone(open_reward(making.base, library, name)), judges_of(library)
    routed, by = before.judge(samples), {each: before.judge(samples, by=each).rewards for each in before.domains}
    grow(replace(making, corpus=corpus))
    after, now = alone(open_reward(making.base, library, name)), judges_of(library)
    again = after.judge(samples)
    kept = routed.choice == again.choice
    return {
        "changed_rewards": float((routed.rewards[kept] != again.rewards[kept]).sum()),
        "changed_judges": float(
            sum(int((after.judge(samples, by=each).rewards != was).sum()) for each, was in by.items())
        ),
        "changed_files": float(sum(now.get(each) != digest for each, digest in files.items())),
        "no_route_kept": float(not kept.any()),
    }


def alone(model: RewardModel) -> RewardModel:
    """Return the model reading each text by itself, so that bits do not depend on who else is asked of whom."""
    return replace(model, batch=1)


def judges_of(library: Library) -> dict[str, str | None]:
    """Return the digest of every reward expert of a library."""
    return {name: library.expert_digest(name) for name in library if library.card(name).task == "reward"}


def joint_rewards(base: Base, folder: Path, corpus: PairCorpus, samples: list[Sample]) -> torch.Tensor:
    """Return the rewards of a joint judge fitted on a corpus."""
    making = made(base, folder, corpus, "joint", DesignOptions())
    return alone(open_reward(base, making.library, "joint"))(samples)


def switching(place: Place) -> dict[str, float]:
    """Return R7: ARLISS's rewards for each domain less those of its adapter alone in a base of its own."""
    base, corpus = pico_base(place.number), toy_domains(3, _PAIRS, place.number)
    samples = [sample for domain in corpus for pair in domain.pairs[:8] for sample in pair.samples]
    with tempfile.TemporaryDirectory() as folder:
        library = made(base, Path(folder), corpus, "arliss", DesignOptions()).library
        model = open_reward(base, library, "arliss")
        first, again = ({each: model.judge(samples, by=each).rewards for each in model.domains} for _ in range(2))
        by_itself = {}
        for name in model.domains:
            own = pico_base(place.number)
            by_itself[name] = open_reward(own, Library(library.path, base=own), f"arliss-{name}")(samples)
    alike = [torch.equal(first[one], first[two]) for one in first for two in first if one < two]
    return {
        "switching_gap": max(float((first[name] - by_itself[name]).abs().max()) for name in first),
        "switched_back_gap": max(float((again[name] - first[name]).abs().max()) for name in first),
        "judges_alike": float(any(alike)),
    }


REWARD_LAWS = {
    name: one_piece(name, law)
    for name, law in {"misrouting": misrouting, "reward_growth": reward_growth, "switching": switching}.items()
}
