"""One fit loop: it knows named tensors and losses, and nothing of experts, texts or models.

Notable choices
- A loss is asked for by number, `loss(step, part)`: what is read and every random draw are functions of that number,
  so a fit resumes exactly from its weights, AdamW's two means, its history and what a companion carries.
- Parts of a step give a sum and a count; gradients are summed and divided once, so that accumulation over parts of
  unequal counts equals one large batch.
- A parameter that is idle in a step is as if it were not there: no gradient, no decay, no move of AdamW's means, and
  its own count of updates.
- The weights before the first step are a candidate for the best: a fit never gives back something worse than its
  start on the held-out loss.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import AdamW

from collegium.core.errors import TrainingError
from collegium.train.checkpoints import Checkpoints, Snapshot
from collegium.train.history import DivergenceWatch, Evaluation, History, Step
from collegium.train.loggers import Logger, NullLogger
from collegium.train.settings import LoopConfig, learning_rate_at


@dataclass(frozen=True)
class Loss:
    """A differentiable sum of losses in float32, and over how many (tokens, rows) it is the sum."""

    total: Float[Tensor, ""]
    count: int


@runtime_checkable
class Companion(Protocol):
    """What a fit carries beside its weights and what losses depend on too: running means, an earlier policy."""

    def after(self, step: int) -> None:
        """Move on after update `step` (1 is the first), before a checkpoint is left."""
        ...

    def save(self) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Return everything as named tensors and plain numbers."""
        ...

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Be as at an earlier `save`."""
        ...


Idle = Callable[[int], Collection[str]]
"""Step (from 0) -> the parameters that its update leaves as they are."""


@dataclass(frozen=True)
class Fit:
    """What came of a fit: its history, the step whose weights are in place, and why it ended."""

    history: History
    step: int
    ended: Literal["steps", "patience", "paused"]


class _Run:
    """A fit between two steps; everything that a checkpoint must hold."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        config: LoopConfig,
        rates: Mapping[str, float],
        companion: Companion | None,
        idle: Idle,
    ) -> None:
        self.parameters, self.config, self.companion, self.idle = parameters, config, companion, idle
        self.steps: list[Step] = []
        self.evaluations: list[Evaluation] = []
        self.best = {name: tensor.detach().clone() for name, tensor in parameters.items()}
        self.optimiser = AdamW(
            _groups(parameters, rates, config.weight_decay),
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=all(tensor.device.type in {"cpu", "cuda"} for tensor in parameters.values()),
        )
        self.watch = DivergenceWatch(config.diverge_factor, config.diverge_steps)

    @property
    def history(self) -> History:
        return History(tuple(self.steps), tuple(self.evaluations))

    def snapshot(self) -> Snapshot:
        first, second = {}, {}
        for name, tensor in self.parameters.items():
            state = self.optimiser.state.get(tensor)
            if state:
                first[name], second[name] = state["exp_avg"], state["exp_avg_sq"]
        carried, numbers = self.companion.save() if self.companion else ({}, {})
        tensors = {
            "weights": self.parameters,
            "best": self.best,
            "first": first,
            "second": second,
            "companion": carried,
        }
        return Snapshot(self.history, tensors, numbers)

    def restore(self, snapshot: Snapshot) -> None:
        self.steps, self.evaluations = list(snapshot.history.steps), list(snapshot.history.evaluations)
        self.watch = DivergenceWatch(
            self.config.diverge_factor, self.config.diverge_steps, (each.loss for each in self.steps)
        )
        self.load(snapshot.tensors["weights"])
        if self.companion:
            self.companion.restore(snapshot.tensors["companion"], snapshot.numbers)
        self.best = {name: snapshot.tensors["best"][name].to(tensor) for name, tensor in self.parameters.items()}
        rested = Counter(name for step in range(snapshot.step) for name in self.idle(step))
        for name, mean in snapshot.tensors["first"].items():
            tensor = self.parameters[name]
            self.optimiser.state[tensor] = {
                "step": torch.tensor(float(snapshot.step - rested[name]), device=tensor.device),
                "exp_avg": mean.to(tensor),
                "exp_avg_sq": snapshot.tensors["second"][name].to(tensor),
            }

    def load(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self.parameters.items():
                tensor.copy_(weights[name])

    def ended(self, until: int) -> Literal["steps", "patience", "paused"] | None:
        """Return why no further step is made; a function of the history alone, so that it survives a resume."""
        measured = not self.evaluations or self.evaluations[-1].step == len(self.steps)
        if self.config.patience and measured and self.history.without_improvement() >= self.config.patience:
            return "patience"
        if len(self.steps) >= self.config.steps:
            return "steps"
        return "paused" if len(self.steps) >= until else None


def _groups(parameters: Mapping[str, Tensor], rates: Mapping[str, float], weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's groups: tensors of one rate; the decay touches matrices alone."""
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, tensor in parameters.items():
        groups.setdefault((rates.get(name, 1.0), tensor.ndim >= 2), []).append(tensor)
    return [
        {"params": tensors, "rate": rate, "weight_decay": weight_decay if matrices else 0.0}
        for (rate, matrices), tensors in sorted(groups.items(), key=lambda group: group[0], reverse=True)
    ]


def fit(
    parameters: Mapping[str, Tensor],
    loss: Callable[[int, int], Loss],
    *,
    config: LoopConfig,
    evaluate: Callable[[], float] | None = None,
    checkpoints: Checkpoints | None = None,
    logger: Logger | None = None,
    until: int | None = None,
    rates: Mapping[str, float] | None = None,
    companion: Companion | None = None,
    idle: Idle | None = None,
) -> Fit:
    """Return the history of a fit that changes `parameters` in place; they end at their best held-out loss.

    loss(step, part):  the loss of part `part` of update `step` (both from 0); must depend on those numbers alone.
    evaluate():        the mean held-out loss, called without gradients.
    checkpoints:       go on from the newest one, and leave them; an interrupt (KeyboardInterrupt) leaves one too.
    until:             pause after this many steps in all, with a checkpoint and the weights of that step.
    rates:             parameter -> what its learning rate is multiplied by, where that is not 1.
    companion:         what losses depend on besides weights and number; it is part of every checkpoint.
    idle(step):        the parameters that update `step` leaves as they are; must depend on that number alone.

    Raises TrainingError when a loss or gradient is not finite or the fit diverged, ResourceError when another process
    is at a fit with the same checkpoints.

    >>> weight = torch.zeros(2, requires_grad=True)
    >>> done = fit({"w": weight}, lambda step, part: Loss((weight - 1).square().sum(), 2),
    ...            config=LoopConfig(200, 0.05))
    >>> done.step, weight.detach().round(decimals=2)
    (200, tensor([1., 1.]))
    """
    run = _Run(parameters, config, rates or {}, companion, idle or _nobody)
    logger = logger or NullLogger()
    with checkpoints.held() if checkpoints else nullcontext():
        found = checkpoints.latest() if checkpoints else None
        if found:
            run.restore(found)
        ended = _steps(run, loss, evaluate, checkpoints, logger, until=config.steps if until is None else until)
    return _finish(run, ended)


def _nobody(step: int) -> Collection[str]:
    del step
    return ()


def _steps(
    run: _Run,
    loss: Callable[[int, int], Loss],
    evaluate: Callable[[], float] | None,
    checkpoints: Checkpoints | None,
    logger: Logger,
    *,
    until: int,
) -> Literal["steps", "patience", "paused"]:
    """Make steps and leave checkpoints until the fit ends or pauses; return why it does."""
    whole = True
    try:
        while True:
            _measure(run, evaluate, logger)
            ended = run.ended(until)
            if checkpoints and run.steps and (ended or len(run.steps) % checkpoints.every == 0):
                checkpoints.save(run.snapshot())
            if ended:
                return ended
            gradient = _gradient(run, loss)
            whole = False
            _update(run, gradient)
            whole = True
            logger.log(len(run.steps), _values(run.steps[-1]))
    except KeyboardInterrupt:
        if checkpoints and whole and run.steps:
            checkpoints.save(run.snapshot())
        raise


def _values(step: Step) -> dict[str, float]:
    return {
        "loss": step.loss,
        "learning_rate": step.learning_rate,
        "gradient_norm": step.gradient_norm,
        "counted": float(step.counted),
    }


def _measure(run: _Run, evaluate: Callable[[], float] | None, logger: Logger) -> None:
    """Measure the held-out loss where one is due and was not measured before the fit was resumed."""
    step, config = len(run.steps), run.config
    due = step % config.evaluate_every == 0 or step == config.steps
    if evaluate is None or not due or (run.evaluations and run.evaluations[-1].step == step):
        return
    with torch.no_grad():
        measured = Evaluation(step, evaluate())
    if not math.isfinite(measured.loss):
        raise TrainingError(
            f"the held-out loss after step {step} is {measured.loss}. Lower the learning rate "
            f"(now {run.config.learning_rate:.3g}) or look for empty or damaged held-out texts."
        )
    best = run.history.best
    if best is None or measured.loss < best.loss:
        run.best = {name: tensor.detach().clone() for name, tensor in run.parameters.items()}
    run.evaluations.append(measured)
    logger.log(step, {"held_out_loss": measured.loss})


def _gradient(run: _Run, loss: Callable[[int, int], Loss]) -> Step:
    """Return the next step's record, with the clipped gradient in place."""
    number = len(run.steps)
    total, count = 0.0, 0
    run.optimiser.zero_grad(set_to_none=False)
    for part in range(run.config.accumulation):
        each = loss(number, part)
        if each.count:
            each.total.backward()
            total, count = total + each.total.item(), count + each.count
    value = total / max(count, 1)
    _check_finite(value, "loss", run)
    resting = run.idle(number)
    tensors = [tensor for name, tensor in run.parameters.items() if name not in resting]
    for name in resting:
        run.parameters[name].grad = None  # AdamW passes over it
    for tensor in tensors:
        tensor.grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad.div_(max(count, 1))
    norm = float(torch.nn.utils.clip_grad_norm_(tensors, run.config.clip))
    _check_finite(norm, "norm of the gradient", run)
    return Step(number + 1, value, learning_rate_at(number + 1, run.config), norm, count)


def _update(run: _Run, step: Step) -> None:
    for group in run.optimiser.param_groups:
        group["lr"] = step.learning_rate * group["rate"]
    run.optimiser.step()
    run.steps.append(step)
    if run.companion:
        run.companion.after(step.step)
    if run.watch.add(step.loss):
        raise TrainingError(
            f"the fit diverged: the last {run.watch.window} losses, up to {step.loss:.3g} at step {step.step}, all lie "
            f"above {run.watch.limit:.3g}, after a mean of {run.watch.lowest:.3g} had been reached (diverge_factor "
            f"{run.watch.factor:g}). "
            f"Lower the learning rate (now {run.config.learning_rate:.3g}) or lengthen the warm-up "
            f"(now {run.config.warmup_steps} steps)."
        )


def _check_finite(value: float, what: str, run: _Run) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"the {what} of step {len(run.steps) + 1} is {value}; a fit stops at the first that is not finite. "
            f"Lower the learning rate (now {run.config.learning_rate:.3g}), lower clip (now {run.config.clip:g}), "
            "or train in float32."
        )


def _finish(run: _Run, ended: Literal["steps", "patience", "paused"]) -> Fit:
    history, step = run.history, len(run.steps)
    for tensor in run.parameters.values():
        tensor.grad = None
    if ended != "paused" and history.best is not None:
        run.load(run.best)
        step = history.best.step
    return Fit(history, step, ended)
