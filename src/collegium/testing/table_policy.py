"""A policy that is a table: every estimate of it can be compared with a sum over all texts."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.align.draws import Draws
from collegium.testing.tiny import TinyLM


class TablePolicy:
    """A `TinyLM` whose logits are moved. Is a `collegium.align.policy.Policy`.

    With `order` as long as the texts it can become any distribution over them; with order 1 it is a bigram model.
    """

    usual_rate = 0.05
    trunk = None

    def __init__(self, model: TinyLM) -> None:
        """Begin as a model, with logits of its own."""
        self.inner = model
        self.logits = model.logits.detach().clone().requires_grad_()

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The logits."""
        return {"logits": self.logits}

    @property
    def state_size(self) -> int:
        """How many histories there are."""
        return len(self.logits)

    def model(self, logits: Tensor) -> TinyLM:
        """Return the table with these logits."""
        return TinyLM(logits, self.inner.order, self.inner.start, self.inner.eos, self.inner.tokenizer)

    def speaker(self) -> TinyLM:
        """Return the policy as it is now."""
        return self.model(self.logits.detach().clone())

    def learn(self, draws: Draws) -> Float[Tensor, "sample seq"]:
        """Return log pi of each token with gradient."""
        return self.model(self.logits).score(draws.tokens, lengths=draws.lengths, context=draws.context)

    def states(self, draws: Draws) -> Float[Tensor, "sample seq hidden"]:
        """Return a one where the history is, at each position."""
        before = draws.tokens.new_full((len(draws), self.inner.order - 1), self.inner.start)
        histories = torch.cat([before, draws.tokens], dim=1).unfold(1, self.inner.order, 1)
        powers = self.inner.vocab_size ** torch.arange(self.inner.order - 1, -1, -1)
        return torch.nn.functional.one_hot((histories * powers).sum(-1), len(self.logits)).float()

    @contextlib.contextmanager
    def reading(self, draws: Draws) -> Iterator[None]:
        """Nothing is shared."""
        yield

    def twin(self) -> "TablePolicy":
        """Return another policy with a copy of the logits."""
        return TablePolicy(self.speaker())

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over logits."""
        with torch.no_grad():
            self.logits.copy_(weights["logits"])

    def close(self) -> None:
        """Nothing is held."""
