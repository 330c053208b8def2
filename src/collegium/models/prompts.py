"""What was read when texts were opened: scored only when somebody asks."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from collegium.models.rows import shift_left
from collegium.models.tail import target_log_probs

if TYPE_CHECKING:
    from collegium.models.base import Base


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompt each row has read.

    tokens: right-padded. hidden: last hidden states, left-padded; let go once `scores` are known.
    """

    tokens: Int[Tensor, "row seq"]
    lengths: Int[Tensor, " row"]
    hidden: Float[Tensor, "row seq hidden"] | None
    scores: Float[Tensor, "row seq"] | None = None

    @property
    def states(self) -> Float[Tensor, "row seq hidden"]:
        """The last hidden states, right-padded."""
        assert self.hidden is not None
        return shift_left(self.hidden, self.lengths)

    def take(self, rows: Int[Tensor, " kept"]) -> "Prompts":
        """Return the prompts of these rows."""
        rows = rows.to(self.tokens.device)
        hidden = None if self.hidden is None else self.hidden[rows]
        scores = None if self.scores is None else self.scores[rows]
        return Prompts(self.tokens[rows], self.lengths[rows], hidden, scores)

    def append(self, tokens: Int[Tensor, "row n"], hidden: Float[Tensor, "row n hidden"]) -> "Prompts":
        """Return the prompts with more tokens read behind them."""
        assert self.hidden is not None
        many = tokens.shape[1]
        place = self.lengths[:, None] + torch.arange(many, device=tokens.device)
        longer = pad(self.tokens, (0, many)).scatter(1, place, tokens)
        return Prompts(longer, self.lengths + many, torch.cat([self.hidden, hidden], dim=1))

    def scored(self, base: "Base") -> "Prompts":
        """Return the prompts with each token's log-probability given those before it; 0 at position 0 and padding."""
        if self.scores is not None:
            return self
        hidden = self.states
        read = torch.arange(1, self.tokens.shape[1], device=self.tokens.device) < self.lengths[:, None]
        scores = torch.zeros(self.tokens.shape, device=self.tokens.device)
        with torch.no_grad():
            said = target_log_probs(base.require_output(), hidden[:, :-1][read], self.tokens[:, 1:][read])
        scores[:, 1:][read] = said
        return replace(self, hidden=None, scores=scores)

    def join(self, other: "Prompts", base: "Base") -> "Prompts":
        """Return the other's rows behind these; scored as soon as one of both is."""
        if (self.scores is None) != (other.scores is None):
            return self.scored(base).join(other.scored(base), base)
        seq = max(self.tokens.shape[1], other.tokens.shape[1])
        both = (self, other)
        tokens = torch.cat([pad(each.tokens, (0, seq - each.tokens.shape[1])) for each in both])
        lengths = torch.cat([self.lengths, other.lengths])
        if self.scores is not None:
            scores = [pad(each.scores, (0, seq - each.tokens.shape[1])) for each in both if each.scores is not None]
            return Prompts(tokens, lengths, None, torch.cat(scores))
        hidden = [pad(each.hidden, (0, 0, seq - each.tokens.shape[1], 0)) for each in both if each.hidden is not None]
        return Prompts(tokens, lengths, torch.cat(hidden))
