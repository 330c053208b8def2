"""A small regression problem whose batches are a function of the step, for tests and for the children they kill."""

import os
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
    """Tells the parent process, once, that steps are being made, and by whom."""

    def __init__(self) -> None:
        self.told = False

    def log(self, step: int, values: dict[str, float]) -> None:
        if not self.told:
            self.told = True
            tell(f"ready {os.getpid()}")

    def close(self) -> None:
        """Nothing is held back."""


def tell(line: str) -> None:
    os.write(1, f"{line}\n".encode())


LONG = LoopConfig(160, 0.02, warmup_steps=4, accumulation=2, evaluate_every=5)


def train(folder: Path) -> None:
    toy = Toy()
    toy.fit(LONG, checkpoints=Checkpoints(folder / "checkpoints", "toy", every=1), logger=Ready())
    save_file({name: tensor.detach() for name, tensor in toy.weights.items()}, folder / "done.safetensors")


if __name__ == "__main__":
    # Imports once, then forks a child for every line read, so that each of many kills costs no start.
    torch.set_num_threads(1)
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            train(Path(sys.argv[1]))
            os._exit(0)
        tell(f"ended {os.waitpid(child, 0)[1]}")
