"""The chain over the whole system: experts, composed; preferences, judged; the composed model moved by the judges.

X1: ARLISS's rewards move the composed model further by the rule than a joint judge's. X2: what becomes of the rule as
policies go further after a reward, and of best-of-n. X3: a domain leaves, and what the others are given stays.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from collegium.align.config import AlignConfig
from collegium.align.draws import Drawing, Draws, draw
from collegium.align.fit import align
from collegium.align.judges import RewardFeature
from collegium.align.metrics import general_perplexity
from collegium.align.policy import AdapterPolicy
from collegium.align.sampling import best_of_bound
from collegium.align.target import Solved, Target, Tilt, solved
from collegium.claims.align_world import notes
from collegium.claims.chain_removal import removal
from collegium.claims.chain_world import EXPERT, JUDGE, experts, judged_by, obeys, preferences, questions, speaker
from collegium.claims.experiment import Experiment, PieceResult, Place
from collegium.claims.pictures import CURVE
from collegium.claims.reward_setup import seen_of
from collegium.compose import Mix, mix
from collegium.compose.wearing import Wearable
from collegium.core.protocols import Feature, LanguageModel
from collegium.core.randomness import generator
from collegium.experts import FitConfig
from collegium.experts.recipe import resolve
from collegium.models import Base
from collegium.rewards import Design, RewardModel, judge_corpus, open_reward
from collegium.routers import posterior

Done = Mapping[str, PieceResult]
Found = dict[str, float]
BETAS = (1.0, 0.3, 0.1)
"""What a nat of distance costs, in deviations of the reward."""
JUDGES = ("arliss", "joint", "average")
OF = (2, 4, 8, 16)
SAMPLES, TOKENS, EACH, POOL = 15_360, 28, 8, 96
LOOKS, FRESH = 6, 16
"""Looks along a way, and texts of each question at a look."""
RATE = 3e-3
ADAPTER = resolve(FitConfig(rank=8, threads=1))


@dataclass(frozen=True)
class Chain:
    """A seed's composed model and its judges."""

    seed: int
    model: Wearable
    judges: Mapping[str, Feature]

    def solved(self, name: str) -> Solved:
        """Return the tilt by a judge, looked at on texts of the composed model."""
        pool = self.draws(self.model, POOL // len(questions(self.seed, learnt=True)), learnt=True, label="pool")
        return solved(Target(self.model, (Tilt(self.judges[name], 1.0),)), pool)

    def draws(self, model: LanguageModel, each: int, *, learnt: bool, label: str) -> Draws:
        """Return so many texts of each question, the questions in turn."""
        asked = questions(self.seed, learnt=learnt) * each
        return draw(model, asked, drawing=Drawing(TOKENS, 1.0, 256), random=generator(self.seed, "chain", label))


@functools.lru_cache(maxsize=1)
def base_of(seed: int) -> Base:
    """Return a seed's base."""
    return speaker(seed)


def chain_of(place: Place) -> Chain:
    """Return a seed's chain, made where it is not there yet."""
    seed = place.number
    base = base_of(seed)
    composed = mix(base, experts(base, place.folder / "experts", seed), router=posterior())
    assert isinstance(composed, Mix)
    arliss, joint = open_judge(place, "arliss"), open_judge(place, "joint")
    judges = {"arliss": arliss, "joint": joint, "average": replace(arliss, route="average")}
    return Chain(seed, composed, {name: RewardFeature(name, each) for name, each in judges.items()})


def open_judge(place: Place, design: Design) -> RewardModel:
    """Return a seed's reward model, made where it is not there yet."""
    making = judged_by(base_of(place.number), place.folder / design, design, place.number)
    return open_reward(making.base, making.library, design)


def run(piece: str, place: Place) -> PieceResult:
    """Return one piece's result."""
    stage, _, rest = piece.partition(" ")
    stages: dict[str, Callable[[str, Place], PieceResult]] = {
        "judge": judge,
        "policy": policy,
        "best-of": best,
        "removal": lambda rest, place: removal(base_of(place.number), place),
    }
    return stages[stage](rest, place)


def judge(name: str, place: Place) -> PieceResult:
    """Return how a reward model ranks pairs that no model of the seed has learnt from."""
    model = open_judge(place, "arliss" if name == "arliss" else "joint")
    verdict = judge_corpus(model, preferences(place.number), seen=seen_of(preferences(place.number), JUDGE), most=60)
    return {"accuracy": verdict.to_dict()["accuracy"]}


def policy(rest: str, place: Place) -> PieceResult:
    """Return the way of a policy after a judge's reward, at a price of distance."""
    name, beta = rest.split()
    chain = chain_of(place)
    config = AlignConfig(
        method="kl_control",
        samples=SAMPLES,
        batch=EACH * len(questions(place.number, learnt=True)),
        per_prompt=EACH,
        tokens=TOKENS,
        learning_rate=RATE,
        beta=float(beta),
        seed=place.number,
    )
    moved = AdapterPolicy.fresh(chain.model, replace(ADAPTER, seed=place.number))
    look = Look(chain, moved, chain.judges[name], max(1, config.updates // LOOKS))
    look.look(0)
    align(moved, chain.solved(name), questions(place.number, learnt=True), config=config, logger=look)
    moved.close()
    return {CURVE: look.curve}


@dataclass
class Look:
    """A logger that asks the policy other questions, now and then, and lets the rule judge."""

    chain: Chain
    policy: AdapterPolicy
    judge: Feature
    every: int
    curve: list[dict[str, float]] = field(default_factory=list)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Look after an update."""
        if "loss" in values and step % self.every == 0:
            self.look(step)

    def close(self) -> None:
        """Do nothing."""

    def look(self, step: int) -> None:
        """Measure the policy as it is."""
        chain, model = self.chain, self.policy.speaker()
        fresh = chain.draws(model, FRESH, learnt=False, label=f"look {step}")
        general = general_perplexity(model, notes(chain.seed)).estimate
        self.curve.append(
            {
                "updates": float(step),
                "rule": float(obeys(fresh.samples, chain.seed).mean()),
                "reward": float(self.judge(fresh.samples).mean()),
                "kl_pi_a": float((fresh.log_prob(model) - fresh.log_prob(chain.model)).mean()),
                "general": general,
            }
        )


def best(rest: str, place: Place) -> PieceResult:
    """Return what the rule says of the best of n texts by each judge."""
    del rest
    chain = chain_of(place)
    most = max(OF)
    drawn = chain.draws(chain.model, most * FRESH // 4, learnt=False, label="best")
    asked = len(questions(chain.seed, learnt=False))
    by_question = torch.arange(len(drawn)).view(-1, asked).T.reshape(asked, -1, most)
    kept = obeys(drawn.samples, chain.seed)
    found: dict[str, Any] = {"every": float(kept.mean())}
    for name, each in chain.judges.items():
        paid = each(drawn.samples)
        for of in OF:
            rows = by_question.reshape(-1, of)
            chosen = rows.gather(1, paid[rows].argmax(1, keepdim=True))[:, 0]
            found[f"{name} {of}"] = {"rule": float(kept[chosen].mean()), "bound": best_of_bound(of)}
    return found


def measured(done: Done) -> Found:
    """Return the numbers of X1, X2 and X3, of one seed."""
    middle, last = (str(beta) for beta in BETAS[1:])
    ends = {name: done[f"policy {name} {middle}"][CURVE][-1] for name in JUDGES}
    far = {name: [look["rule"] for look in done[f"policy {name} {last}"][CURVE]] for name in JUDGES}
    first = done[f"policy arliss {middle}"][CURVE][0]
    most = str(max(OF))
    best_rule = {name: done["best-of all"][f"{name} {most}"]["rule"] for name in JUDGES}
    return {
        "arliss_gain": ends["arliss"]["rule"] - first["rule"],
        "arliss_minus_joint": ends["arliss"]["rule"] - ends["joint"]["rule"],
        "general_ratio": ends["arliss"]["general"] / first["general"],
        "far_arliss_minus_joint": far["arliss"][-1] - far["joint"][-1],
        "far_arliss_minus_average": far["arliss"][-1] - far["average"][-1],
        "best_arliss_minus_joint": best_rule["arliss"] - best_rule["joint"],
        "best_arliss_minus_average": best_rule["arliss"] - best_rule["average"],
        **done["removal of one"],
    }


def rows(done: Done) -> list[dict[str, Any]]:
    """Return a row a policy with its way, and a row for the best of n texts."""
    found = []
    for name in JUDGES:
        for beta in BETAS:
            way = done[f"policy {name} {beta}"][CURVE]
            end = {key: way[-1][key] for key in ("rule", "reward", "kl_pi_a", "general")}
            found.append({"policy": f"{name}, beta {beta}", **end, CURVE: way})
        for of in OF:
            said = done["best-of all"][f"{name} {of}"]
            found.append({"policy": f"{name}, best of {of}", "rule": said["rule"], "kl_pi_a": said["bound"]})
    return found


PIECES = (
    "judge arliss",
    "judge joint",
    *(f"policy {name} {beta}" for name in JUDGES for beta in BETAS),
    "best-of all",
    "removal of one",
)
SETTINGS = {
    "betas": list(BETAS),
    "samples": SAMPLES,
    "tokens": TOKENS,
    "each": EACH,
    "pool": POOL,
    "looks": LOOKS,
    "fresh": FRESH,
    "rate": RATE,
    "of": list(OF),
    "judge": asdict(JUDGE),
    "expert": asdict(EXPERT),
}
TOY_CHAIN = Experiment(pieces=PIECES, run=run, measure=measured, rows=rows, settings=SETTINGS)
