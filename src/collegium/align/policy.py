"""Policies: language models that are moved, each with the original model that it began as.

An adapter is worn by the original model, whatever that is composed of, so that policy and original share all weights
and, below the first block that either changes, every hidden state. A whole policy has weights of its own.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.align.draws import Draws
from collegium.compose.wearing import Wearable, carrier, first_block, learnt_scores, wearing
from collegium.core.protocols import LanguageModel
from collegium.experts import FitConfig
from collegium.experts.fresh import fresh_adapter, with_tensors
from collegium.models import Adapter, Base
from collegium.models.rows import RowPlan
from collegium.models.trunk import Trunk

LEARNING, SPEAKING = ".policy", ".policy speaking"
"""Names under which a policy's adapter is attached: with gradient, and as it is now."""
_TRIED = 8
"""Tokens on which is seen whether the blocks below all adapters can stand in."""


@runtime_checkable
class Policy(Protocol):
    """A language model that is moved.

    `usual_rate` is a learning rate that suits it. `trunk` is what lies below all that policy and original change, None
    where there is nothing; texts drawn from either may note its states. `speaker()` is the policy as it is now, to
    draw from and to score with; it is asked for anew once weights changed. `twin()` is another policy, equal now, with
    weights of its own: a proposal that `load` brings up to date.
    """

    @property
    def usual_rate(self) -> float:
        """AdamW's learning rate where none is asked for."""
        ...

    @property
    def trunk(self) -> Trunk | None:
        """What policy and original share."""
        ...

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """What is trained, by name."""
        ...

    @property
    def state_size(self) -> int:
        """How many numbers `states` has at a position."""
        ...

    def speaker(self) -> LanguageModel:
        """Return the policy as it is now."""
        ...

    def learn(self, draws: Draws) -> Float[Tensor, "sample seq"]:
        """Return log pi of each token of completions, ends counted, 0 elsewhere, with gradient."""
        ...

    def states(self, draws: Draws) -> Float[Tensor, "sample seq hidden"]:
        """Return what a value head sees of each position, without gradient."""
        ...

    def reading(self, draws: Draws) -> contextlib.AbstractContextManager[None]:
        """Give the context in which texts are scored and learnt from several times at a lower price."""
        ...

    def twin(self) -> "Policy":
        """Return another policy that says the same, with weights of its own."""
        ...

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over weights."""
        ...

    def close(self) -> None:
        """Leave the original model as it was."""
        ...


def noted(policy: Policy, draws: Draws) -> Draws:
    """Return the same texts with the states of what policy and original share, for texts that are read often."""
    if policy.trunk is None or draws.trunk is not None:
        return draws
    return replace(draws, trunk=policy.trunk.states(draws.tokens))


class AdapterPolicy:
    """An adapter worn by the original model."""

    usual_rate = 1e-3

    def __init__(self, reference: Wearable, adapter: Adapter, *, name: str = "") -> None:
        """Attach the adapter, whose tensors are trained in place. name: tells several policies on one base apart."""
        self.reference, self.adapter, self.name = reference, adapter, name
        self.base: Base = carrier(reference)
        self.base.attach(self.learning, adapter)

    @staticmethod
    def fresh(reference: Wearable, config: FitConfig, *, label: str = "policy") -> "AdapterPolicy":
        """Return a policy that says what the original model does, with a new adapter; config is resolved."""
        start = torch.zeros(1, 1, dtype=torch.long)
        return AdapterPolicy(reference, fresh_adapter(carrier(reference), config, label, tokens=start))

    @property
    def learning(self) -> str:
        """The name under which the adapter is attached with gradient."""
        return f"{LEARNING}{self.name}"

    @property
    def speaking(self) -> str:
        """The name under which the adapter is attached as it is now."""
        return f"{SPEAKING}{self.name}"

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The adapter's tensors."""
        return {f"{path}.{key}": each for path, part in self.adapter.items() for key, each in part.tensors.items()}

    @property
    def state_size(self) -> int:
        """The base's hidden size."""
        return int(self.base.config.hidden_size)

    def speaker(self) -> LanguageModel:
        """Return the original model that wears the adapter as it is now."""
        if self.speaking in self.base.attached:
            self.base.detach(self.speaking)
        self.base.attach(self.speaking, with_tensors(self.adapter, lambda each: each.detach()))
        return wearing(self.reference, self.speaking)

    def learn(self, draws: Draws) -> Float[Tensor, "sample seq"]:
        """Return log pi of each token with gradient."""
        model = wearing(self.reference, self.learning)
        return learnt_scores(model, draws.tokens, lengths=draws.lengths, context=draws.context).cpu()

    def states(self, draws: Draws) -> Float[Tensor, "sample seq hidden"]:
        """Return the last hidden states of the original model's base that wears the adapter."""
        with torch.no_grad():
            return self.base.hidden(draws.tokens, plan=RowPlan.one(self.learning)).float().cpu()

    @contextlib.contextmanager
    def reading(self, draws: Draws) -> Iterator[None]:
        """Let the blocks below all adapters be run once for all that is read of these texts, or not at all if noted."""
        if self.trunk is None:
            yield
            return
        with self.trunk.given(self.trunk.states(draws.tokens) if draws.trunk is None else draws.trunk):
            yield

    @property
    def trunk(self) -> Trunk | None:
        """The blocks below all adapters of policy and original; None where there are none or they cannot stand in."""
        return self._shared

    @functools.cached_property
    def _shared(self) -> Trunk | None:
        first = min(first_block(self.reference), *(self.base.sites[path].block for path in self.adapter))
        trunk = Trunk(self.base, first)
        tokens = torch.arange(_TRIED).remainder(self.base.vocab_size)[None]
        return trunk if first and trunk.refusal(tokens, plan=RowPlan.one(self.learning)) is None else None

    def twin(self) -> "AdapterPolicy":
        """Return another policy with a copy of the adapter."""
        copied = with_tensors(self.adapter, lambda each: each.detach().clone())
        return AdapterPolicy(self.reference, copied, name=f"{self.name} twin")

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over an adapter's tensors."""
        with torch.no_grad():
            for name, tensor in self.weights.items():
                tensor.copy_(weights[name])

    def close(self) -> None:
        """Take the adapter off the base again."""
        for name in (self.learning, self.speaking):
            if name in self.base.attached:
                self.base.detach(name)
