"""What a fit carries beside its weights comes back with a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from toy import CONFIG, Parameters, Toy

from collegium.train import Checkpoints, Fit, Loss, fit


class Drifting(Toy):
    """A problem whose targets drift by a mean that moves after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.told = torch.zeros(6), 0.0

    def loss(self, step: int, part: int) -> Loss:
        each = super().loss(step, part)
        pull = (self.weights["first"].mean(0) - self.mean).square().sum() + self.told * self.weights["bias"].sum()
        return Loss(each.total + pull, each.count)

    def after(self, step: int) -> None:
        self.mean = 0.9 * self.mean + 0.1 * self.weights["first"].detach()[step % 8]
        self.told = 0.5 * self.told + 0.01 * step

    def save(self) -> tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]:
        return {"mean": self.mean}, {"told": self.told}

    def restore(self, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]) -> None:
        self.mean, self.told = tensors["mean"], numbers["told"]

    def run(self, *, until: int | None = None, folder: Path | None = None) -> Fit:
        kept = Checkpoints(folder, "toy") if folder else None
        return fit(self.weights, self.loss, config=CONFIG, checkpoints=kept, until=until, companion=self)


class Forgetting(Drifting):
    """Does not come back to what it was."""

    def restore(self, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]) -> None:
        """Do nothing."""


def halves(kind: type[Drifting], folder: Path) -> Parameters:
    kind().run(until=20, folder=folder)
    second = kind()
    second.run(folder=folder)
    return second.weights


def test_n_steps_and_n_more_are_twice_n_with_a_companion(tmp_path: Path) -> None:
    whole = Drifting()
    whole.run()
    again = halves(Drifting, tmp_path / "kept")
    assert all(torch.equal(whole.weights[name], again[name]) for name in again)
    lost = halves(Forgetting, tmp_path / "lost")
    assert not all(torch.equal(whole.weights[name], lost[name]) for name in lost)
