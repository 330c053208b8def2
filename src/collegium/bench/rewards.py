"""V11: judges on one base, what a routed reward and all judges' rewards of a text cost beside one judge's.

Below the adapters a text is read once, by router and judges together. All texts are equally long, so that nothing is
padded and every contestant computes batches of the same shape. Ours are calls of `RewardModel.judge`, which tokenise;
what that takes is measured by itself and taken off both sides of each ratio.
"""

import functools
import sysconfig
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.bench.curves import growth
from collegium.bench.kinds import Bench, Finding, Progress, Target
from collegium.bench.models import RANK, TOP_LAYERS, bench_base
from collegium.bench.peers import NO_PEFT, find_peer, peers_own_warnings
from collegium.bench.timing import Timing, alternate
from collegium.core.cards import ExpertCard
from collegium.core.randomness import generator
from collegium.core.samples import Sample
from collegium.experts import Expert, adapter_payload
from collegium.experts.payloads import AdapterPayload
from collegium.experts.peft_folder import write_peft
from collegium.models import Base, HeadWeights
from collegium.rewards import RewardModel
from collegium.rewards.fit import fresh_head
from collegium.rewards.judges import AdapterJudges, Standards
from collegium.rewards.reading import Reading
from collegium.rewards.routers import AdapterRouter, choices
from collegium.rewards.sequence import classifier_of
from collegium.rewards.texts import Encoder, TextBatch, batch_of, encode_all
from collegium.testing.pico import random_adapter

JUDGES = (2, 4, 8, 16)
COUNTED = 8
"""At how many judges the peers take part, and what targets speak of."""
ONE, ROUTED, EVERY = "one judge", "routed", "all judges"
TWO_PASSES, APART, TOKENS = "router, then judges", "judge after judge", "tokenise"
PEFT_ROUTED, PEFT_APART = "PEFT: router, then adapter_names", "PEFT: set_adapter, judge after judge"
_TEXTS = 4
_CHARACTERS_A_TOKEN = 8
_ROUTER = "router"


def text_tokens(quick: bool) -> int:
    """Return how long each text is; half of it is the prompt."""
    return 32 if quick else 128


def samples_of(base: Base, tokens: int) -> list[Sample]:
    """Return pieces of this Python's own source, each cut by the judges to so many tokens, none of them shorter."""
    source = (Path(sysconfig.get_path("stdlib")) / "argparse.py").read_text()
    piece = tokens // 2 * _CHARACTERS_A_TOKEN
    pieces = [source[first : first + piece] for first in range(0, 2 * _TEXTS * piece, piece)]
    return [Sample(prompt, answer) for prompt, answer in zip(pieces[::2], pieces[1::2], strict=True)]


def reading_of(base: Base, tokens: int) -> Reading:
    """Return how the judges read: the pad token is the end of text where the base has none, as PEFT's models want."""
    found = Reading.of(base, text_tokens=tokens)
    return found if found.pad_token is not None else replace(found, pad_token=base.tokenizer.eos_token_id)


def random_judge(base: Base, number: int, *, reading: Reading, quick: bool, name: str | None = None) -> Expert:
    """Return a judge with random weights on the top layers."""
    layers, rank = ("top:1", 4) if quick else (TOP_LAYERS, RANK)
    adapter = random_adapter(base, number, rank=rank, layers=layers, scale=0.05)
    constants = {**reading.to_constants(), "mean": [0.0], "deviation": [1.0]}
    card = ExpertCard(
        name=name or f"judge-{number}", kind="lora", task="reward", base=base.fingerprint, constants=constants
    )
    return Expert(card, adapter_payload(base, adapter, head=random_head(base, 1, number)))


def random_head(base: Base, outputs: int, number: int) -> HeadWeights:
    """Return a head with random weights."""
    hidden = int(base.config.hidden_size)
    return HeadWeights(0.02 * torch.randn(outputs, hidden, generator=generator(number, "bench head")))


@dataclass(frozen=True, eq=False)
class World:
    """A base with judges and the router's adapter, nothing of which is attached yet, and the texts."""

    base: Base
    judges: tuple[Expert, ...]
    router: Expert
    head: HeadWeights
    samples: list[Sample]
    reading: Reading

    @staticmethod
    def of(quick: bool, *, judges: int = max(JUDGES)) -> "World":
        """Return the world of a run."""
        base, tokens = bench_base(quick), text_tokens(quick)
        reading = reading_of(base, tokens)
        experts = [random_judge(base, number, reading=reading, quick=quick) for number in range(judges)]
        router = random_judge(base, judges, reading=reading, quick=quick, name=_ROUTER)
        head = random_head(base, judges, judges + 1)
        return World(base, tuple(experts), router, head, samples_of(base, tokens), reading)

    @property
    def batch(self) -> TextBatch:
        """The texts as token ids."""
        return batch_of(encode_all(self.samples, Encoder(self.base, self.reading.text_tokens)))

    def routed(self, count: int) -> RewardModel:
        """Return the reward model of the first `count` judges, with a router between them."""
        experts = {expert.name: expert for expert in self.judges[:count]}
        if _ROUTER not in self.base.attached:
            assert isinstance(self.router.payload, AdapterPayload)
            self.base.attach(_ROUTER, self.router.payload.adapter)
        head = HeadWeights(self.head.weight[:count])
        router = AdapterRouter(self.base, tuple(experts), _ROUTER, head, self.reading, 1.0, 0)
        standards = Standards.of(list(experts.values()))
        return RewardModel("bench", "arliss", AdapterJudges(self.base, experts), standards, router)

    def alone(self, expert: Expert) -> RewardModel:
        """Return one judge as a reward model by itself."""
        return RewardModel(
            expert.name, "single", AdapterJudges(self.base, {expert.name: expert}), Standards.of([expert])
        )


class PeftJudges:
    """The same judges and the router's adapter in PEFT's sequence classification model of the same weights."""

    def __init__(self, peft: ModuleType, world: World, count: int) -> None:
        """Load the folders of our experts; nothing may be attached to the base yet."""
        assert not world.base.attached, "a copy would take our slots along"
        self._names = [expert.name for expert in world.judges[:count]]
        self._head, self._batch = world.head.weight[:count], world.batch
        pad, head = world.reading.pad_token, fresh_head(world.base, 1, seed=0)
        whole = classifier_of(world.base, pad_token=pad, head=head, name="peer").model
        with tempfile.TemporaryDirectory() as folder, peers_own_warnings():
            self.model: Any = None
            for expert in (*world.judges[:count], world.router):
                place = Path(folder) / expert.name
                write_peft(expert, place, world.base)
                if self.model is None:
                    self.model = peft.PeftModel.from_pretrained(whole, place, adapter_name=expert.name)
                else:
                    self.model.load_adapter(place, expert.name)
        self.model.eval()

    @torch.no_grad()
    def routed(self) -> Float[Tensor, " text"]:
        """Return the rewards of the judges whom the router chooses: a pass over prompts, one over texts."""
        prompts = self._batch.of_prompts.tokens
        self.model.set_adapter(_ROUTER)
        states = self.model.base_model.model.model(input_ids=prompts).last_hidden_state[:, -1]
        spoken = [self._names[choice] for choice in (states @ self._head.T).argmax(-1).tolist()]
        return self.model(input_ids=self._batch.tokens, use_cache=False, adapter_names=spoken).logits[:, 0]

    @torch.no_grad()
    def every(self) -> Float[Tensor, "text judge"]:
        """Return all judges' rewards, one pass after another."""
        said = []
        for name in self._names:
            self.model.set_adapter(name)
            said.append(self.model(input_ids=self._batch.tokens, use_cache=False).logits[:, 0])
        return torch.stack(said, dim=1)


@torch.no_grad()
def two_passes(model: RewardModel, batch: TextBatch) -> Float[Tensor, " text"]:
    """Return routed rewards by two forwards of our own base that share nothing."""
    assert model.router is not None
    return model.judges.chosen(batch, choices(model.router(batch.of_prompts), 0.0))


@torch.no_grad()
def apart(models: Sequence[RewardModel], batch: TextBatch) -> Float[Tensor, "text judge"]:
    """Return all judges' rewards by a forward each of our own base."""
    return torch.cat([each.judges.every(batch) for each in models], dim=1)


def contestants(world: World, count: int, peer: PeftJudges | None) -> dict[str, Callable[[], object]]:
    """Return what takes turns at so many judges."""
    model, batch = world.routed(count), world.batch
    single = [world.alone(expert) for expert in world.judges[:count]]
    found: dict[str, Callable[[], object]] = {
        TOKENS: lambda: world.batch,
        ONE: functools.partial(single[0].judge, world.samples),
        ROUTED: functools.partial(model.judge, world.samples),
        TWO_PASSES: functools.partial(two_passes, model, batch),
        EVERY: functools.partial(model.judge, world.samples, every=True),
        APART: functools.partial(apart, single, batch),
    }
    return found if peer is None else {**found, PEFT_ROUTED: peer.routed, PEFT_APART: peer.every}


def largest_difference(world: World, count: int, peer: PeftJudges | None) -> float:
    """Return by how much rewards differ: read together, apart, and by the peer."""
    model, batch = world.routed(count), world.batch
    single = [world.alone(expert) for expert in world.judges[:count]]
    said = model.judge(world.samples, every=True, raw=True)
    assert said.every is not None
    gaps = [said.every - apart(single, batch), model.judge(world.samples, raw=True).rewards - two_passes(model, batch)]
    if peer is not None:
        gaps += [said.every - peer.every(), said.rewards - peer.routed()]
    return max(float(each.abs().max()) for each in gaps)


def ratios_of(count: int, timings: Mapping[str, Timing]) -> dict[str, float]:
    """Return what each contestant takes beside one judge's reward, without tokenising, and what tokenising takes."""
    tokens = timings[TOKENS].least
    one = timings[ONE].least - tokens
    keys = {
        ROUTED: "routed", TWO_PASSES: "two_passes", EVERY: "every", APART: "apart",
        PEFT_ROUTED: "peft_routed", PEFT_APART: "peft_apart",
    }  # fmt: skip
    calls = (ROUTED, EVERY)
    found = {
        f"{key}_{count}_over_one": (timings[name].least - tokens * (name in calls)) / one
        for name, key in keys.items()
        if name in timings
    }
    return {**found, f"tokenise_{count}_share_of_one": tokens / timings[ONE].least}


def _run(quick: bool, progress: Progress) -> Finding:
    world, peft = World.of(quick), find_peer("peft")
    progress("V11: outputs compared")
    peer = None if peft is None else PeftJudges(peft, world, COUNTED)
    difference = largest_difference(world, COUNTED, peer)
    rows, ratios, curves = [], {"largest_difference": difference}, {}
    for count in JUDGES:
        progress(f"V11: {count} judges")
        with peers_own_warnings():
            timings = alternate(
                contestants(world, count, peer if count == COUNTED else None),
                repeats=2 if quick else 5,
            )
        rows += [{"contestant": name, "judges": count, **timing.row()} for name, timing in timings.items()]
        ratios |= ratios_of(count, timings)
        for name in (ONE, ROUTED, TWO_PASSES, EVERY, APART):
            curves.setdefault(name, {})[count] = timings[name]
    points = [point for name, timings in curves.items() for point in growth(name, "judges", timings)]
    chosen = len(set(world.routed(COUNTED).judge(world.samples).choice.tolist()))
    tokens = text_tokens(quick)
    notes = (
        world.base.source,
        f"{_TEXTS} texts of {tokens} tokens, half of each a prompt; {chosen} of {COUNTED} judges were chosen",
        "ratios are without tokenising; `every` is all judges and the router, as one call gives them",
        *(() if peer is not None else (NO_PEFT,)),
    )
    roles = {"ours": ROUTED, "peer": PEFT_ROUTED if peer is not None else TWO_PASSES, "base": ONE}
    return Finding(rows, ratios, _TARGETS, difference, notes, points, roles)


def _profiled(quick: bool) -> dict[str, Callable[[], object]]:
    world = World.of(quick, judges=COUNTED)
    model = world.routed(COUNTED)
    return {
        "a routed reward": functools.partial(model.judge, world.samples),
        f"{COUNTED} rewards of a text": functools.partial(model.judge, world.samples, every=True),
    }


_TARGETS = (
    Target(f"routed_{COUNTED}_over_one", "at most", 1.4),
    Target(f"every_{COUNTED}_over_one", "at most", 3.7),
    Target("largest_difference", "at most", 1e-4),
)

V11 = Bench(
    "V11",
    "rewards of 8 judges on the top 10 layers of one base, 4 x 128 tokens: the one a router chooses, and all of them, "
    "beside one judge's alone; against two passes, and a pass a judge",
    "routed (router and chosen reward) at most 1.4x of one reward, where two passes cost 1.5x to 2x; all 8 rewards at "
    "most 3.7x, where 8 passes cost 8x",
    _run,
    peers=("peft",),
    profiled=_profiled,
)
