"""How good a reward model is: which of two answers it prefers, by domain, judge and route.

    accuracy = mean 1[r(x, y_w) > r(x, y_l)]                                                       [papers.md 1]

Pairs of a prompt that a member was fitted on are left out and counted. All routes are judged on the same pairs:
`router` is the model itself, `average` the mean of all standardised judges, `oracle` the judge of the pair's own
domain.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from collegium.core.errors import DataError
from collegium.core.samples import Sample
from collegium.data.preferences import Pair, PairCorpus, take_pairs
from collegium.rewards.floor import word_floor
from collegium.rewards.model import RewardModel
from collegium.rewards.routers import ABSTAIN

ROUTES = ("router", "average", "oracle")
_BINS = 10


@dataclass(frozen=True)
class Seen:
    """Hashes of the prompts that a reward model's members were fitted on, by part.

    pairs: at most how many training pairs of a domain they read; the floor reads as many. None = all.
    """

    train: frozenset[str]
    dev: frozenset[str]
    pairs: int | None = None


@dataclass(frozen=True, eq=False)
class DomainVerdict:
    """What was found on one domain's pairs.

    correct: route -> which pairs are ranked rightly. by_judge: the same of each judge. matched: pairs whose answers are
    of one length. floor: which pairs words alone rank rightly, None without training pairs. routes: where the prompts
    went. skipped: pairs of prompts that the model was fitted on. cut: texts that did not fit whole. usage: the share of
    tokens' choices that fell on each inner expert, None where there are none.
    """

    name: str
    correct: Mapping[str, Bool[Tensor, " pair"]]
    by_judge: Mapping[str, Bool[Tensor, " pair"]]
    matched: Bool[Tensor, " pair"]
    floor: Bool[Tensor, " pair"] | None
    choice: tuple[str, ...]
    confidence: Float[Tensor, " pair"] | None
    skipped: int
    cut: int
    kind: str = ""
    usage: Float[Tensor, "layer expert"] | None = None

    @property
    def pairs(self) -> int:
        """How many pairs were judged."""
        return len(self.matched)


@dataclass(frozen=True, eq=False)
class Verdict:
    """A reward model's figures on a corpus."""

    model: RewardModel
    domains: tuple[DomainVerdict, ...]

    def accuracy(self, route: str = "router") -> dict[str, float | None]:
        """Return the share of pairs ranked rightly by domain, None where a route does not exist."""
        return {each.name: _share(each.correct.get(route)) for each in self.domains}

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain values; `accuracy` is that of the model itself."""
        domains = self.domains
        routed = self.model.router is not None
        return {
            "design": self.model.design,
            "accuracy": self.accuracy(),
            "length_matched": {each.name: _share(each.correct["router"][each.matched]) for each in domains},
            "floor": {each.name: _share(each.floor) for each in domains},
            "router_accuracy": self.router_accuracy() if routed else None,
            "parameters_resident": self.model.parameters_resident,
            "parameters_active": self.model.parameters_active,
            "routes": {route: self.accuracy(route) for route in ROUTES},
            "matrix": {
                judge: {each.name: _share(each.by_judge[judge]) for each in domains} for judge in self.model.domains
            },
            "confusion": {each.name: _counts(each.choice) for each in domains} if routed else None,
            "abstained": _mean([choice == "" for each in domains for choice in each.choice]) if routed else None,
            "ece": self.calibration_error() if routed else None,
            "pairs": {each.name: each.pairs for each in domains},
            "kinds": {each.name: each.kind for each in domains},
            "usage": {each.name: each.usage.tolist() for each in domains if each.usage is not None} or None,
            "skipped": {each.name: each.skipped for each in domains},
            "cut_texts": {each.name: each.cut for each in domains},
        }

    def router_accuracy(self) -> float | None:
        """Return the share of pairs of known domains whose prompt went to its own domain's judge."""
        known = [each for each in self.domains if each.name in self.model.domains]
        return _mean([choice == each.name for each in known for choice in each.choice])

    def calibration_error(self) -> float | None:
        """Return the router's expected calibration error over ten bins of its largest probability."""
        known = [each for each in self.domains if each.name in self.model.domains and each.confidence is not None]
        if not known:
            return None
        confidence = torch.cat([each.confidence for each in known if each.confidence is not None])
        right = torch.tensor([choice == each.name for each in known for choice in each.choice], dtype=torch.float32)
        return expected_calibration_error(confidence, right)


def expected_calibration_error(confidence: Float[Tensor, " row"], right: Float[Tensor, " row"]) -> float:
    """Return sum over bins of (rows in the bin / rows) |mean confidence - share right|.

    >>> round(expected_calibration_error(torch.tensor([0.9, 0.9]), torch.tensor([1.0, 0.0])), 2)
    0.4
    """
    place = (confidence * _BINS).long().clamp(max=_BINS - 1)
    total = 0.0
    for number in place.unique():
        rows = place == number
        total += float(rows.sum()) * abs(float(confidence[rows].mean() - right[rows].mean()))
    return total / max(1, len(confidence))


def judge_corpus(
    model: RewardModel,
    corpus: PairCorpus,
    *,
    seen: Seen,
    most: int | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Verdict:
    """Return what a reward model is worth on the pairs it was not fitted on, at most so many of each domain.

    Raises DataError when no domain has such a pair.
    """
    verdicts = []
    for domain in corpus:
        known = seen.train | seen.dev
        fresh = take_pairs([each for each in domain.pairs if each.hash not in known], most)
        if fresh:
            skipped = sum(each.hash in known for each in domain.pairs)
            train = take_pairs([each for each in domain.pairs if each.hash in seen.train], seen.pairs)
            verdicts.append(_domain(model, domain.name, fresh, train=train, skipped=skipped, kind=domain.kind))
        if progress is not None:
            progress(domain.name, len(fresh))
    if not verdicts:
        raise DataError(
            f"{model.name} was fitted on every prompt of this data, so nothing is left to judge it by. Give other "
            "pairs."
        )
    return Verdict(model, tuple(verdicts))


def _domain(
    model: RewardModel, name: str, pairs: Sequence[Pair], *, train: Sequence[Pair], skipped: int, kind: str
) -> DomainVerdict:
    samples: list[Sample] = [sample for pair in pairs for sample in pair.samples]
    said = model.judge(samples, every=True)
    assert said.every is not None
    prefers = {judge: _right(said.every[:, number]) for number, judge in enumerate(model.domains)}
    correct = {"router": _right(said.rewards), "average": _right(said.every.mean(1))}
    if len(model.domains) == 1:
        del correct["average"]
    if name in prefers and len(model.domains) > 1:
        correct["oracle"] = prefers[name]
    floor = word_floor(train, pairs)
    chosen: list[int] = said.choice[0::2].tolist()
    return DomainVerdict(
        name,
        correct,
        prefers,
        torch.tensor([each.length_matched for each in pairs]),
        None if floor is None else torch.from_numpy(floor),
        tuple("" if each == ABSTAIN else model.domains[each] for each in chosen),
        None if said.routes is None else said.routes[0::2].max(dim=-1).values.exp(),
        skipped,
        sum(said.cut),
        kind,
        model.usage(samples),
    )


def _right(rewards: Float[Tensor, " sample"]) -> Bool[Tensor, " pair"]:
    return rewards[0::2] > rewards[1::2]


def _share(right: Tensor | None) -> float | None:
    return None if right is None or not len(right) else float(right.float().mean())


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _counts(choices: Sequence[str]) -> dict[str, int]:
    return {name or "abstained": choices.count(name) for name in sorted(set(choices))}
