"""A small regression problem whose batches are a function of the step, for tests and for the children they kill."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from collegium.core.randomness import generator
from collegium.train import Checkpoints, Epochs, Fit, Logger, LoopConfig, Loss, fit

Parameters = dict[str, torch.Tensor]
CONFIG = LoopConfig(40, 0.05, warmup_steps=4, weight_decay=0.1, accumulation=2, evaluate_every=5)


def data(name: str, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(rows, 6, generator=generator(0, name))
    return inputs, (inputs @ torch.arange(6.0)).tanh()[:, None]


def fresh() -> Parameters:
    drawn = generator(0, "weights")
    return {
        "first": (torch.randn(8, 6, generator=drawn) / 3).requires_grad_(),
        "bias": torch.zeros(8, requires_grad=True),
        "second": (torch.randn(1, 8, generator=drawn) / 3).requires_grad_(),
    }


def squares(weights: Parameters, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    hidden = torch.tanh(inputs @ weights["first"].T + weights["bias"])
    return (hidden @ weights["second"].T - targets).square()


class Toy:
    """The problem with its own weights; `fit` goes on from a checkpoint where there is one."""

    def __init__(self) -> None:
        self.weights = fresh()
        self.inputs, self.targets = data("train", 50)
        self.held_out = data("dev", 20)
        self.epochs = Epochs(50, 4, 0)

    def loss(self, step: int, part: int) -> Loss:
        rows = self.epochs.rows(step * 2 + part)
        noise = 0.01 * torch.randn(len(rows), 1, generator=generator(0, "noise", str(step), str(part)))
        return Loss(squares(self.weights, self.inputs[rows], self.targets[rows] + noise).sum(), len(rows))

    def evaluate(self) -> float:
        return float(squares(self.weights, *self.held_out).mean())

    def fit(
        self,
        config: LoopConfig = CONFIG,
        *,
        checkpoints: Checkpoints | None = None,
        until: int | None = None,
        logger: Logger | None = None,
    ) -> Fit:
        return fit(
            self.weights,
            self.loss,
            config=config,
            evaluate=self.evaluate,
            checkpoints=checkpoints,
            until=until,
            logger=logger,
        )


class Ready:
    """Tells the parent process, once, that steps are being made."""

    def __init__(self) -> None:
        self.told = False

    def log(self, step: int, values: dict[str, float]) -> None:
        if not self.told:
            self.told = True
            sys.stdout.write("ready\n")
            sys.stdout.flush()

    def close(self) -> None:
        """Nothing is held back."""


LONG = LoopConfig(400, 0.02, warmup_steps=4, accumulation=2, evaluate_every=5)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    toy = Toy()
    toy.fit(LONG, checkpoints=Checkpoints(folder / "checkpoints", "toy", every=1), logger=Ready())
    save_file({name: tensor.detach() for name, tensor in toy.weights.items()}, folder / "done.safetensors")
