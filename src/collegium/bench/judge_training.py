"""V11-training: fitting one judge, against TRL's RewardTrainer with PEFT: same pairs, order, first weights, settings.

What is timed goes from the beginning of the first step to the end of the last, without loading, tokenising and held-out
measurements. The pairs are read three times over: our fit keeps what the blocks below the adapters say of a text,
sixteen texts at a time, so that most of that falls into the first steps. The first reading holds all of it and is told
apart from the later ones. All texts are equally long, so that neither side pads.
"""

import copy
import sysconfig
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import torch

from collegium.bench.curves import growth
from collegium.bench.kinds import Bench, Finding, Progress, Target
from collegium.bench.memory import peak_bytes
from collegium.bench.models import RANK, TOP_LAYERS, bench_base
from collegium.bench.peers import find_peer, lora_names, peers_own_warnings
from collegium.bench.timing import Timing
from collegium.bench.training import StepClock, listener
from collegium.core.randomness import derive_seed
from collegium.data.preferences import Pair, PairDomain
from collegium.experts.fit import ALIKE
from collegium.experts.fresh import fresh_adapter
from collegium.models import Base, lora_parts
from collegium.rewards import RewardConfig, fit_judge
from collegium.rewards.fit import Lesson, fresh_head
from collegium.rewards.reading import Reading
from collegium.rewards.sequence import classifier_of
from collegium.rewards.texts import Encoder
from collegium.train import Epochs, LoopConfig

Number = Literal["float32", "bfloat16"]

OURS, PEER = "collegium fit_judge", "TRL RewardTrainer"
_NO_PEER = "TRL or PEFT is not installed: `pip install 'collegium[bench]'` compares with them."
_NAME = "bench"
_READ_TIMES = 3.0
_CHARACTERS_A_TOKEN = 8
_SPARE = 12


def pair_config(quick: bool, *, batch: int = 4, pairs: int = 16, passes: float = _READ_TIMES) -> RewardConfig:
    """Return the settings of both sides; the held-out loss is measured before and after alone."""
    rank, tokens, layers = (4, 32, "top:1") if quick else (RANK, 96, TOP_LAYERS)
    return RewardConfig(
        text_tokens=tokens,
        train_pairs=pairs,
        dev_pairs=2,
        passes=passes,
        batch=batch,
        rank=rank,
        layers=layers,
        measures=1,
    )


def domain_of(config: RewardConfig) -> PairDomain:
    """Return more pairs than are trained on, each text longer than is read: Python's own source, and it backwards."""
    source = (Path(sysconfig.get_path("stdlib")) / "argparse.py").read_text()
    piece = config.text_tokens // 2 * _CHARACTERS_A_TOKEN
    count = 2 * config.train_pairs + _SPARE
    pieces = [source[place * piece % len(source) :][:piece].ljust(piece, "#") for place in range(2 * count)]
    pairs = [Pair(prompt, answer, answer[::-1]) for prompt, answer in zip(pieces[::2], pieces[1::2], strict=True)]
    return PairDomain(_NAME, tuple(pairs), kind="synthetic")


def lesson_of(base: Base, config: RewardConfig) -> Lesson:
    """Return what both sides are fitted on, equally long texts."""
    lesson = Lesson.of([domain_of(config)], Encoder(base, config.text_tokens), config)
    assert bool((lesson.train.texts.lengths == config.text_tokens).all()), "both sides read without padding"
    assert len(lesson.train) == config.train_pairs, "the settings say how many pairs are read"
    return lesson


def steps_of(config: RewardConfig) -> LoopConfig:
    """Return the settings of the steps."""
    return config.loop(config.train_pairs, kind="adapter")


def first_reading(config: RewardConfig) -> int:
    """Return how many steps have a pair that was not read before."""
    return -(-config.train_pairs // config.batch)


def fit_ours(base: Base, config: RewardConfig) -> StepClock:
    """Return the clock of one fit of ours."""
    clock = StepClock()
    fit_judge(base, [domain_of(config)], config=config, name=_NAME, logger=clock)
    return clock


def rows_of(lesson: Lesson, config: RewardConfig) -> dict[str, list[list[int]]]:
    """Return the very token ids that our fit reads, in its order, as TRL takes them."""
    epochs = Epochs(len(lesson.train), config.batch, derive_seed(config.seed, "pairs", *lesson.domains))
    order = [row for step in range(steps_of(config).steps) for row in epochs.rows(step).tolist()]
    tokens = lesson.train.texts.tokens.tolist()
    return {"chosen_ids": [tokens[2 * row] for row in order], "rejected_ids": [tokens[2 * row + 1] for row in order]}


class TrlFit:
    """TRL's side of a fit, built once: `run` starts again from our first weights."""

    def __init__(self, peft: ModuleType, trl: ModuleType, base: Base, config: RewardConfig) -> None:
        """Build the sequence classification model of the base's weights, with the layers that our judge changes."""
        import datasets

        self._peft, self._trl, self._config, self._dtype = peft, trl, config, base.dtype
        self._rows = datasets.Dataset.from_dict(rows_of(lesson_of(base, config), config))
        self._tokenizer = copy.deepcopy(base.tokenizer)
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        settings = config.adapter(len(base.blocks))
        parts = lora_parts(fresh_adapter(base, settings, ALIKE, tokens=torch.zeros(1, 1, dtype=torch.long)))
        pad = Reading.of(base, text_tokens=config.text_tokens).pad_token
        head = fresh_head(base, 1, seed=config.seed)
        whole = classifier_of(base, pad_token=pad, head=head, name="peer").model.to(base.dtype)
        self._first = {
            **lora_names(parts),
            "base_model.model.score.weight": whole.score.weight.detach().float().clone(),
        }
        lora = peft.LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            target_modules=sorted({path.rpartition(".")[2] for path in parts}),
            layers_to_transform=sorted({base.sites[path].block for path in parts}),
            task_type="SEQ_CLS",
        )
        with peers_own_warnings():
            self.model = peft.get_peft_model(whole, lora)
        for weight in self.model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()

    def run(self) -> StepClock:
        """Return the clock of one fit."""
        import transformers

        clock, loop = StepClock(), steps_of(self._config)
        with tempfile.TemporaryDirectory() as folder, peers_own_warnings():
            self._peft.set_peft_model_state_dict(self.model, self._first)
            arguments = self._trl.RewardConfig(
                output_dir=folder,
                max_steps=loop.steps,
                per_device_train_batch_size=self._config.batch,
                learning_rate=loop.learning_rate,
                lr_scheduler_type="constant",
                max_grad_norm=loop.clip,
                train_sampling_strategy="sequential",
                max_length=None,
                activation_checkpointing=False,
                bf16=self._dtype == torch.bfloat16,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
                use_cpu=True,
            )
            trainer = self._trl.RewardTrainer(
                model=self.model,
                args=arguments,
                train_dataset=self._rows,
                processing_class=self._tokenizer,
                callbacks=[listener(clock, loop)],
                optimizers=(self._optimiser(loop), None),
            )
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        return clock

    def _optimiser(self, loop: LoopConfig) -> torch.optim.AdamW:
        """Return TRL's own choice of optimiser with our settings, a head as slow as ours."""
        named = [(name, each) for name, each in self.model.named_parameters() if each.requires_grad]
        heads = [each for name, each in named if ".score." in name]
        others = [each for name, each in named if ".score." not in name]
        slow = self._config.head_rate("adapter")
        return torch.optim.AdamW(
            [{"params": others, "rate": 1.0}, {"params": heads, "rate": slow}],
            lr=loop.learning_rate,
            betas=loop.betas,
            eps=loop.epsilon,
            weight_decay=loop.weight_decay,
            fused=True,
        )


def contestants(base: Base, config: RewardConfig) -> dict[str, Callable[[], StepClock]]:
    """Return who takes turns."""
    found: dict[str, Callable[[], StepClock]] = {OURS: lambda: fit_ours(base, config)}
    peft, trl = find_peer("peft"), find_peer("trl")
    if peft is not None and trl is not None:
        found[PEER] = TrlFit(peft, trl, base, config).run
    return found


def race(
    runs: Mapping[str, Callable[[], StepClock]], repeats: int
) -> tuple[dict[str, Timing], dict[str, list[StepClock]]]:
    """Return the timing of a step, the first one counted, and the clocks of each contestant; see `alternate`."""
    clocks: dict[str, list[StepClock]] = {name: [] for name in runs}
    peaks = {name: peak_bytes(run) for name, run in runs.items()}
    for _ in range(repeats):
        for name, run in runs.items():
            clocks[name].append(run())
    seconds = {name: tuple(each.between(0, len(each.ends)) for each in told) for name, told in clocks.items()}
    return {name: Timing(each, peaks[name]) for name, each in seconds.items()}, clocks


def spans(config: RewardConfig) -> dict[str, tuple[int, int]]:
    """Return the steps of all readings, the first and the later ones."""
    first, steps = first_reading(config), steps_of(config).steps
    return {"": (0, steps), "first_reading_": (0, first), "later_readings_": (first, steps)}


def _least(clocks: Sequence[StepClock], span: tuple[int, int]) -> float:
    return min(each.between(*span) for each in clocks)


def _last_loss(clock: StepClock, config: RewardConfig) -> float:
    last = clock.losses[-first_reading(config) :]
    return sum(last) / len(last)


def _row(dtype: str, name: str, config: RewardConfig, timing: Timing, clocks: Sequence[StepClock]) -> dict[str, Any]:
    found = {key: _least(clocks, span) for key, span in spans(config).items()}
    return {
        "dtype": dtype,
        "contestant": name,
        "pairs_a_step": config.batch,
        **timing.row(),
        **{f"{key}pairs_per_second": config.batch / seconds for key, seconds in found.items()},
        "last_loss": _last_loss(clocks[-1], config),
    }


def _compared(
    dtype: str, config: RewardConfig, clocks: Mapping[str, Sequence[StepClock]]
) -> tuple[dict[str, float], float]:
    """Return the peer's time over ours with how far apart the losses end, and the largest difference of a step's."""
    ours, theirs = clocks[OURS][-1], clocks[PEER][-1]
    ratios = {
        f"{dtype}_{key}speedup": _least(clocks[PEER], span) / _least(clocks[OURS], span)
        for key, span in spans(config).items()
    }
    ratios[f"{dtype}_last_loss_apart"] = abs(_last_loss(ours, config) / _last_loss(theirs, config) - 1)
    return ratios, max(abs(one - other) for one, other in zip(ours.losses, theirs.losses, strict=True))


def _run(quick: bool, progress: Progress) -> Finding:
    rows, ratios, difference, source = [], {}, None, ""
    for dtype in get_args(Number):
        progress(f"V11-training: {dtype}")
        base, config = bench_base(quick, dtype=dtype), pair_config(quick)
        timings, clocks = race(contestants(base, config), 1 if quick else 2)
        rows += [_row(dtype, name, config, timing, clocks[name]) for name, timing in timings.items()]
        if PEER in clocks:
            found, apart = _compared(dtype, config, clocks)
            ratios |= found
            difference = apart if difference is None else difference  # of float32, which comes first
        source = base.source
    curves = _curves(quick, progress)
    points = [point for name, timings in curves.items() for point in growth(name, "pairs a step", timings)]
    notes = (
        source,
        "the largest difference is of the loss of a step in float32",
        f"pairs are read {_READ_TIMES:.0f} times; the first reading begins with the first step and holds the states "
        "below the adapters, which ours keeps",
        "bfloat16: the base's weights on both sides, adapter and head are float32; TRL computes under autocast",
        *(() if PEER in curves else (_NO_PEER,)),
    )
    return Finding(rows, ratios, _TARGETS, difference, notes, points, {"ours": OURS, "peer": PEER})


def _curves(quick: bool, progress: Progress) -> dict[str, dict[int, Timing]]:
    """Return the time of a step by the number of its pairs, all read for the first time."""
    base, curves = bench_base(quick), {}
    for batch in (1, 2, 4, 8):
        progress(f"V11-training: {batch} pairs a step")
        config = pair_config(quick, batch=batch, pairs=2 * batch, passes=1.0)
        timings, _ = race(contestants(base, config), 1)
        for name, timing in timings.items():
            curves.setdefault(name, {})[batch] = timing
    return curves


def _profiled(quick: bool) -> dict[str, Callable[[], object]]:
    base = bench_base(quick)
    return {"fitting a judge, top 10": lambda: fit_ours(base, pair_config(quick, pairs=8))}


_TARGETS = (
    Target("float32_speedup", "at least", 1.0),
    Target("bfloat16_speedup", "at least", 1.0),
    Target("float32_last_loss_apart", "at most", 0.01),
)

V11_TRAINING = Bench(
    "V11-training",
    "fitting a judge of rank 16 on the top 10 layers, 4 pairs of 2 x 96 tokens a step, against TRL's RewardTrainer and "
    "PEFT",
    "not slower than TRL, in float32 and in bfloat16, over three readings of the pairs; equal loss within 1 %",
    _run,
    peers=("trl", "peft", "accelerate"),
    profiled=_profiled,
)
