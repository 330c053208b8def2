"""Policies that are whole models: a copy of the original base, every weight of which is moved."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.align.draws import Draws
from collegium.core.protocols import LanguageModel
from collegium.experts.average import average_whole
from collegium.models import Base, after_context


class WholePolicy:
    """A copy of a base, in float32 whatever the original's dtype: near one, a bfloat16 takes no step of 1e-5."""

    usual_rate = 1e-5
    trunk = None

    def __init__(self, base: Base) -> None:
        """Take a base of its own, whose weights are trained in place."""
        self.base = base
        base.model.requires_grad_(True)

    @staticmethod
    def fresh(original: Base) -> "WholePolicy":
        """Return a policy with a copy of the original's weights."""
        return WholePolicy(average_whole([original], [1.0], name=f"a policy on {original.name}", dtype=torch.float32))

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Every weight of the model."""
        return dict(self.base.model.named_parameters())

    @property
    def state_size(self) -> int:
        """The model's hidden size."""
        return int(self.base.config.hidden_size)

    def speaker(self) -> LanguageModel:
        """Return the model itself: its weights are as they are now."""
        return self.base

    def learn(self, draws: Draws) -> Float[Tensor, "sample seq"]:
        """Return log pi of each token with gradient."""
        read = after_context(draws.tokens, draws.context)
        return -self.base.token_nats(draws.tokens, lengths=draws.lengths, scored=read).cpu()

    def states(self, draws: Draws) -> Float[Tensor, "sample seq hidden"]:
        """Return the last hidden states."""
        with torch.no_grad():
            return self.base.hidden(draws.tokens).float().cpu()

    @contextlib.contextmanager
    def reading(self, draws: Draws) -> Iterator[None]:
        """Nothing is shared with the original: every weight differs."""
        yield

    def twin(self) -> "WholePolicy":
        """Return another policy with a copy of the weights."""
        return WholePolicy.fresh(self.base)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over weights."""
        with torch.no_grad():
            for name, tensor in self.weights.items():
                tensor.copy_(weights[name])

    def close(self) -> None:
        """Freeze the weights."""
        self.base.model.requires_grad_(False)
