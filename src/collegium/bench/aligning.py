"""V14: an update of distribution matching (draw, score, learn), against a plain loop over transformers and PEFT.

The loop is what one would write by hand: `generate`, a forward of the policy with gradient, one of the original with
the adapter off, the same advantages, AdamW. Both sides begin with the same weights and draw as many tokens: no text
ends early. Before anything is timed both sides score the same texts.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.align.config import AlignConfig
from collegium.align.draws import Drawing, Draws, Prompt, as_prompt, draw
from collegium.align.features import length
from collegium.align.fit import align
from collegium.align.policy import AdapterPolicy
from collegium.align.target import Solved, Target, Tilt, solved
from collegium.bench.curves import growth
from collegium.bench.kinds import Bench, Finding, Progress
from collegium.bench.kinds import Target as Goal
from collegium.bench.models import RANK, TOP_LAYERS, bench_base
from collegium.bench.peers import NO_PEFT, find_peer, lora_names, own_copy, peers_own_warnings
from collegium.bench.timing import Timing, alternate
from collegium.core.randomness import generator
from collegium.experts import FitConfig
from collegium.experts.fresh import with_tensors
from collegium.experts.recipe import resolve
from collegium.models import Base, LoraWeights, lora_parts

Number = Literal["float32", "bfloat16"]
OURS, PEER = "collegium gdc++", "generate and two forwards"
NEVER = frozenset[int]()
_TILT, _RATE = 0.05, 1e-3


@dataclass(frozen=True)
class Sizes:
    """How large an update is."""

    batch: int
    tokens: int
    updates: int = 1

    def config(self) -> AlignConfig:
        """Return our side's settings; the policy becomes the proposal never, so that both sides do the same."""
        return AlignConfig(
            method="dpg++",
            samples=self.batch * self.updates,
            batch=self.batch,
            tokens=self.tokens,
            learning_rate=_RATE,
            warmup=0.0,
        )


def sizes_of(quick: bool, *, batch: int = 64) -> Sizes:
    """Return the sizes of a run."""
    return Sizes(4, 4) if quick else Sizes(batch, 32)


def adapter_config(quick: bool) -> FitConfig:
    """Return the settings of the policy's adapter."""
    return resolve(FitConfig(rank=4, layers="top:1") if quick else FitConfig(rank=RANK, layers=TOP_LAYERS))


@dataclass(frozen=True, eq=False)
class Side:
    """Our side: a policy, its target, and what texts go on from."""

    policy: AdapterPolicy
    solved: Solved
    prompt: Prompt
    sizes: Sizes

    def update(self) -> None:
        """Make the updates."""
        align(self.policy, self.solved, [self.prompt], config=self.sizes.config(), ends=NEVER)

    def texts(self) -> Draws:
        """Return texts of the policy."""
        drawing = Drawing(self.sizes.tokens, 1.0, self.sizes.batch, NEVER)
        return draw(
            self.policy.speaker(), [self.prompt] * self.sizes.batch, drawing=drawing, random=generator(0, "V14")
        )


def our_side(base: Base, quick: bool, sizes: Sizes) -> Side:
    """Return our side; longer texts count more, which needs no look ahead."""
    prompt = as_prompt("Once upon a time", base)
    drawing = Drawing(sizes.tokens, 1.0, 8, NEVER)
    pool = draw(base, [prompt] * 8, drawing=drawing, random=generator(0, "V14 pool"))
    found = solved(Target(base, (Tilt(length(), _TILT),)), pool)
    return Side(AdapterPolicy.fresh(base, adapter_config(quick)), found, prompt, sizes)


class PlainLoop:
    """The loop over transformers and PEFT, on a copy of the base."""

    def __init__(self, peft: ModuleType, base: Base, side: Side) -> None:
        """Build the PEFT model with the first weights of our policy."""
        parts = lora_parts(with_tensors(side.policy.adapter, lambda each: each.detach().clone()))
        config = adapter_layers(peft, base, parts)
        side.policy.close()
        with peers_own_warnings():
            self.model = peft.get_peft_model(own_copy(base), config)
            peft.set_peft_model_state_dict(self.model, lora_names(parts))
        self.side, self.tokenizer, self.log_z = side, base.tokenizer, side.solved.log_z
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        for weight in trained:
            weight.data = weight.data.float()
        self.optimiser = torch.optim.AdamW(trained, lr=_RATE, weight_decay=0.0)

    def update(self) -> None:
        """Make the updates."""
        for _ in range(self.side.sizes.updates):
            self._update()

    def _update(self) -> None:
        prompt, sizes = self.side.prompt, self.side.sizes
        given = torch.tensor([prompt.ids] * sizes.batch)
        with torch.no_grad(), peers_own_warnings():
            tokens = self.model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                do_sample=True,
                top_k=0,
                top_p=1.0,
                temperature=1.0,
                max_new_tokens=sizes.tokens,
                min_new_tokens=sizes.tokens,
                pad_token_id=self.tokenizer.eos_token_id,
            )
        said = self.tokenizer.batch_decode(tokens[:, len(prompt.ids) :])
        reward = torch.tensor([_TILT * len(text.split()) for text in said])
        log_policy = self.scores(tokens)
        with torch.no_grad(), self.model.disable_adapter():
            log_a = self.scores(tokens)
        gains = (log_a + reward - self.log_z - log_policy.detach()).exp() - 1
        self.optimiser.zero_grad()
        (-(gains * log_policy).mean()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()

    def scores(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, " batch"]:
        """Return the log-probability of each text behind the prompt."""
        first = len(self.side.prompt.ids)
        new = tokens[:, first:]
        logits = self.model(input_ids=tokens, logits_to_keep=new.shape[1] + 1).logits[:, :-1].float()
        return logits.log_softmax(-1).gather(-1, new[..., None])[..., 0].sum(-1)


def adapter_layers(peft: ModuleType, base: Base, parts: Mapping[str, LoraWeights]) -> Any:  # noqa: ANN401
    """Return PEFT's configuration of an adapter on the same layers."""
    first = next(iter(parts.values()))
    return peft.LoraConfig(
        r=first.a.shape[0],
        lora_alpha=first.scale * first.a.shape[0],
        target_modules=sorted({path.rpartition(".")[2] for path in parts}),
        layers_to_transform=sorted({base.sites[path].block for path in parts}),
        task_type="CAUSAL_LM",
    )


def contestants(
    quick: bool, *, dtype: Number = "float32", batch: int = 64
) -> tuple[dict[str, Callable[[], None]], float | None, Side]:
    """Return who takes turns, how far apart they score the same texts, and our side."""
    sizes = sizes_of(quick, batch=batch)
    base = bench_base(quick, dtype=dtype)
    side = our_side(base, quick, sizes)
    found: dict[str, Callable[[], None]] = {OURS: side.update}
    peft = find_peer("peft")
    if peft is None:
        return found, None, side
    loop = PlainLoop(peft, base, side)
    again = our_side(base, quick, sizes)
    texts = again.texts()
    with torch.no_grad():
        apart = float((loop.scores(texts.tokens).double() - texts.log_prob(again.policy.speaker())).abs().max())
    return {OURS: again.update, PEER: loop.update}, apart, again


def held_ratio(side: Side) -> float:
    """Return what policy, original and proposal hold, over what the base holds."""
    own = sum(each.numel() * each.element_size() for each in side.policy.weights.values())
    base = side.policy.base.memory_bytes
    return (base + 4 * own) / base  # learning and speaking, of the policy and of a proposal


def _run(quick: bool, progress: Progress) -> Finding:
    rows, ratios, difference, source = [], {}, None, ""
    for dtype in get_args(Number):
        progress(f"V14: {dtype}")
        runs, apart, side = contestants(quick, dtype=dtype)
        timings = alternate(runs, repeats=1 if quick else 3)
        rows += [_row(dtype, name, side.sizes, timing) for name, timing in timings.items()]
        if PEER in timings:
            ratios[f"{dtype}_speedup"] = timings[PEER].least / timings[OURS].least
        difference = apart if difference is None else difference  # of float32, which comes first
        ratios["held"] = held_ratio(side)
        source = side.policy.base.source
    best = [value for name, value in ratios.items() if name.endswith("_speedup")]
    if best:
        ratios["speedup"] = max(best)
    curves = _curves(quick, progress)
    points = [point for name, timings in curves.items() for point in growth(name, "texts an update", timings)]
    notes = (
        source,
        "the largest difference is of the log-probability of a whole text in float32",
        "`speedup` is in the dtype in which it is largest; both are told",
        *(() if PEER in curves else (NO_PEFT,)),
    )
    return Finding(rows, ratios, _TARGETS, difference, notes, points, {"ours": OURS, "peer": PEER})


def _row(dtype: str, name: str, sizes: Sizes, timing: Timing) -> dict[str, Any]:
    many = sizes.batch * sizes.updates
    return {
        "dtype": dtype,
        "contestant": name,
        "texts": many,
        "tokens": sizes.tokens,
        **timing.row(),
        "texts_per_second": many / timing.least if timing.least else math.nan,
    }


def _curves(quick: bool, progress: Progress) -> dict[str, dict[int, Timing]]:
    """Return the time of an update by the number of its texts."""
    curves: dict[str, dict[int, Timing]] = {}
    for batch in (8, 16, 32, 64):
        progress(f"V14: {batch} texts an update")
        runs, _, _ = contestants(quick, batch=batch)
        for name, timing in alternate(runs, repeats=1).items():
            curves.setdefault(name, {})[batch] = timing
    return curves


def _profiled(quick: bool) -> dict[str, Callable[[], object]]:
    return {"an update, top 10": our_side(bench_base(quick), quick, sizes_of(quick, batch=16)).update}


_TARGETS = (Goal("speedup", "at least", 3.0), Goal("held", "at most", 1.3))

V14 = Bench(
    "V14",
    "an update of distribution matching, 64 texts of 32 tokens, adapter of rank 16 on the top 10 layers, against "
    "transformers' generate and two forwards of a PEFT model",
    "at least 3x as many texts a second; policy, original and proposal together at most 1.3x of the base's memory",
    _run,
    peers=("peft", "transformers"),
    profiled=_profiled,
)
