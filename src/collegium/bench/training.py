"""V5: training one expert, against PEFT with transformers' Trainer: same windows, order, first weights and settings.

What is timed is the time between the end of the first step and the end of the last, without loading, packing and
held-out measurements. The windows are read three times over: with the top layers alone, our fit keeps what the blocks
below say of a window from its first reading on, so that the first reading and the later ones are told apart.
"""

import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from collegium.bench.curves import growth
from collegium.bench.kinds import Bench, Finding, Progress, Target
from collegium.bench.memory import peak_bytes
from collegium.bench.models import RANK, bench_base
from collegium.bench.peers import NO_PEFT, find_peer, own_copy, peers_own_warnings
from collegium.bench.timing import Timing
from collegium.data import Document
from collegium.experts import FitConfig, fit_documents, resolve
from collegium.experts.fresh import fresh_adapter
from collegium.experts.objective import Objective, Texts, text_objective
from collegium.experts.recipe import loop_config
from collegium.models import BASE_ROWS, Base, lora_parts
from collegium.train import LoopConfig
from collegium.train.settings import learning_rate_at

OURS, PEER = "collegium fit", "PEFT and Trainer"
_NAME = "bench"
_READ_TIMES = 3
_LAST_SHARE = 4


@dataclass
class StepClock:
    """A logger of ours that keeps the loss of each step and when it ended, and when the first one began."""

    losses: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    started: float = 0.0

    def begin(self) -> None:
        """Take the time before the first step."""
        self.started = time.perf_counter()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the loss of a step, and the time; the first step follows the held-out loss of step 0."""
        if "loss" in values:
            self.losses.append(values["loss"])
            self.ends.append(time.perf_counter())
        elif not step:
            self.begin()

    def close(self) -> None:
        """Do nothing."""

    @property
    def step_seconds(self) -> float:
        """The mean time of a step, the first left out."""
        return self.between(1, len(self.ends))

    def between(self, first: int, end: int) -> float:
        """Return the mean time of the steps from number `first` (from 0) to before `end`."""
        began = self.ends[first - 1] if first else self.started
        return (self.ends[end - 1] - began) / (end - first)


def texts(base: Base, config: FitConfig) -> Texts:
    """Return a stretch of this Python's own source that is read three times over, and one to measure by."""
    source = (Path(sysconfig.get_path("stdlib")) / "argparse.py").read_text()
    tokens = base.tokenizer.encode(source)[: config.steps * config.tokens_per_step // _READ_TIMES]
    return Texts([Document(text=base.tokenizer.decode(tokens))], [Document(text=source[-1000:])])


def first_reading(base: Base, config: FitConfig) -> int:
    """Return how many steps have a window that was not read before."""
    read = {_NAME: texts(base, config)}
    windows = text_objective(base, BASE_ROWS, texts=read, config=config, label=_NAME).train
    return -(-len(windows) // config.batch)


def fit_ours(base: Base, config: FitConfig) -> StepClock:
    """Return the clock of one fit of ours."""
    clock, read = StepClock(), texts(base, config)
    fit_documents(base, read.train, dev=read.dev, config=config, name=_NAME, label=_NAME, logger=clock)
    return clock


def batches(objective: Objective, config: FitConfig) -> list[dict[str, Tensor]]:
    """Return the very rows that our fit reads, in its order, with labels as transformers wants them."""
    windows, found = objective.train, []
    for step in range(config.steps):
        taken = windows.take(objective.epochs.rows(step))
        labels = taken.tokens.masked_fill(~taken.scored, -100)
        found += [{"input_ids": row, "labels": label} for row, label in zip(taken.tokens, labels, strict=True)]
    return found


class PeftFit:
    """PEFT's side of a fit, built once: `run` starts again from our first weights."""

    def __init__(self, peft: ModuleType, base: Base, config: FitConfig) -> None:
        """Build the model with the layers that our expert changes."""
        self._peft, self._config, read = peft, config, texts(base, config)
        objective = text_objective(base, BASE_ROWS, texts={_NAME: read}, config=config, label=_NAME)
        self._rows = batches(objective, config)
        first = lora_parts(fresh_adapter(base, config, _NAME, tokens=objective.train.tokens))
        self._first = {
            f"base_model.model.{path}.lora_{half}.weight": tensor.detach()
            for path, part in first.items()
            for half, tensor in (("A", part.a), ("B", part.b))
        }
        lora = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            target_modules=sorted({path.rpartition(".")[2] for path in first}),
            layers_to_transform=sorted({base.sites[path].block for path in first}),
            task_type="CAUSAL_LM",
        )
        with peers_own_warnings():
            self.model = peft.get_peft_model(own_copy(base), lora)

    def run(self) -> StepClock:
        """Return the clock of one fit."""
        import transformers

        clock, loop = StepClock(), loop_config(self._config)
        with tempfile.TemporaryDirectory() as folder, peers_own_warnings():
            self._peft.set_peft_model_state_dict(self.model, self._first)
            arguments = transformers.TrainingArguments(
                output_dir=folder,
                max_steps=loop.steps,
                per_device_train_batch_size=self._config.batch,
                learning_rate=loop.learning_rate,
                lr_scheduler_type="constant",
                weight_decay=loop.weight_decay,
                adam_beta1=loop.betas[0],
                adam_beta2=loop.betas[1],
                adam_epsilon=loop.epsilon,
                max_grad_norm=loop.clip,
                optim="adamw_torch_fused",
                train_sampling_strategy="sequential",
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
                use_cpu=True,
            )
            trainer = transformers.Trainer(
                model=self.model, args=arguments, train_dataset=_Rows(self._rows), callbacks=[listener(clock, loop)]
            )
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        return clock


class _Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Rows in their order, as the Trainer takes them."""

    def __init__(self, rows: Sequence[dict[str, Tensor]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return self._rows[place]


def listener(clock: StepClock, loop: LoopConfig) -> Any:  # noqa: ANN401 - a transformers callback
    """Return a callback that tells our clock of each step, and sets the learning rate that ours has in that step.

    A group of parameters that has a `rate` moves at that multiple of it.
    """
    from transformers import TrainerCallback

    class Listener(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:  # noqa: ANN401
            if not state.global_step:
                clock.begin()

        def on_pre_optimizer_step(
            self,
            args: Any,  # noqa: ANN401
            state: Any,  # noqa: ANN401
            control: Any,  # noqa: ANN401
            **rest: Any,  # noqa: ANN401
        ) -> None:
            for group in rest["optimizer"].param_groups:
                group["lr"] = group.get("rate", 1.0) * learning_rate_at(state.global_step + 1, loop)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:  # noqa: ANN401
            if logs and "loss" in logs:
                clock.log(state.global_step, {"loss": logs["loss"]})

    return Listener()


def fit_config(quick: bool, layers: str, *, batch: int = 4, steps: int | None = None) -> FitConfig:
    """Return the settings of both sides; the held-out loss is measured before and after alone."""
    steps = steps or (4 if quick else 18)
    rank, window = (4, 32) if quick else (RANK, 128)
    config = FitConfig(
        rank=rank, layers=layers, steps=steps, batch=batch, window=window, evaluate_every=steps, dev_tokens=window
    )
    return resolve(config)


def race(
    runs: Mapping[str, Callable[[], StepClock]], repeats: int
) -> tuple[dict[str, Timing], dict[str, list[StepClock]]]:
    """Return the timing of a step and the clocks of each contestant; see `alternate`."""
    clocks: dict[str, list[StepClock]] = {name: [] for name in runs}
    peaks = {name: peak_bytes(run) for name, run in runs.items()}
    for _ in range(repeats):
        for name, run in runs.items():
            clocks[name].append(run())
    timings = {name: Timing(tuple(each.step_seconds for each in told), peaks[name]) for name, told in clocks.items()}
    return timings, clocks


def _contestants(base: Base, config: FitConfig) -> dict[str, Callable[[], StepClock]]:
    found: dict[str, Callable[[], StepClock]] = {OURS: lambda: fit_ours(base, config)}
    peft = find_peer("peft")
    if peft is not None:
        found[PEER] = PeftFit(peft, base, config).run
    return found


def _row(
    label: str, name: str, config: FitConfig, timing: Timing, clocks: Sequence[StepClock], first: int
) -> dict[str, Any]:
    return {
        "layers": label,
        "contestant": name,
        "tokens_a_step": config.tokens_per_step,
        **timing.row(),
        **{f"{part}_min_ms": 1e3 * _least(clocks, *span) for part, span in _readings(first, config.steps).items()},
        "tokens_per_second": config.tokens_per_step / timing.least,
        "last_loss": _last_loss(clocks[-1]),
    }


def _readings(first: int, steps: int) -> dict[str, tuple[int, int]]:
    """Return the steps of the first reading, the very first left out, and those of the later ones."""
    return {"first_reading": (1, first), "later_readings": (first, steps)}


def _least(clocks: Sequence[StepClock], start: int, end: int) -> float:
    return min(each.between(start, end) for each in clocks)


def _last_loss(clock: StepClock) -> float:
    last = clock.losses[-max(1, len(clock.losses) // _LAST_SHARE) :]
    return sum(last) / len(last)


def _run(quick: bool, progress: Progress) -> Finding:
    base, repeats, rows, ratios, difference = bench_base(quick), 1 if quick else 3, [], {}, None
    for label, layers in (("all layers", "all"), ("top 10", "top:1" if quick else "top:10")):
        progress(f"V5: {label}")
        config = fit_config(quick, layers)
        first = first_reading(base, config)
        timings, clocks = race(_contestants(base, config), repeats)
        rows += [_row(label, name, config, timing, clocks[name], first) for name, timing in timings.items()]
        if PEER in timings:
            ratios |= _speedups(label.replace(" ", "_"), clocks, first, config.steps)
            ours, theirs = clocks[OURS][-1], clocks[PEER][-1]
            apart = abs(_last_loss(ours) / _last_loss(theirs) - 1)
            ratios["last_loss_apart"] = max(apart, ratios.get("last_loss_apart", 0.0))
            steps = zip(ours.losses, theirs.losses, strict=True)
            difference = max(difference or 0.0, *(abs(one - other) for one, other in steps))
    curves: dict[str, dict[int, Timing]] = {}
    for batch in (1, 2, 4, 8):
        progress(f"V5: {batch} windows a step")
        config = fit_config(quick, "all", batch=batch, steps=3)
        timings, _ = race(_contestants(base, config), 1)
        for name, timing in timings.items():
            curves.setdefault(name, {})[config.tokens_per_step] = timing
    points = [point for name, timings in curves.items() for point in growth(name, "tokens a step", timings)]
    notes = (
        base.source,
        "the largest difference is of the loss of a step, which the Trainer may round",
        f"windows are read {_READ_TIMES} times; top 10: ours keeps what the blocks below say of them (decision 0008)",
        *(() if PEER in curves else (NO_PEFT,)),
    )
    return Finding(rows, ratios, _TARGETS, difference, notes, points, {"ours": OURS, "peer": PEER})


def _speedups(label: str, clocks: Mapping[str, Sequence[StepClock]], first: int, steps: int) -> dict[str, float]:
    """Return the peer's time over ours: of a step in all, in the first reading and in the later ones."""
    spans = {"": (1, steps), **{f"_{part}": span for part, span in _readings(first, steps).items()}}
    return {
        f"{label}{part}_speedup": _least(clocks[PEER], *span) / _least(clocks[OURS], *span)
        for part, span in spans.items()
    }


def _profiled(quick: bool) -> dict[str, Callable[[], object]]:
    base = bench_base(quick)
    return {
        "training, all layers": lambda: fit_ours(base, fit_config(quick, "all", steps=2)),
        "training, top 10": lambda: fit_ours(base, fit_config(quick, "top:1" if quick else "top:10", steps=2)),
    }


_TARGETS = (
    Target("all_layers_speedup", "at least", 1.15),
    Target("top_10_later_readings_speedup", "at least", 1.4),
    Target("last_loss_apart", "at most", 0.01),
)

V5 = Bench(
    "V5",
    "training one expert of rank 16, 4 x 128 tokens a step, against PEFT and transformers' Trainer",
    "all layers at least 1.15x the tokens a second; top 10 with a cached trunk at least 1.4x from the second reading "
    "on; equal loss within 1 %",
    _run,
    peers=("peft", "accelerate"),
    profiled=_profiled,
)
