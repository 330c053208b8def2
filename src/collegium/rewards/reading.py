"""How a judge reads a text: up to how many tokens, and which of the hidden states its head is given."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import CorruptExpert
from collegium.models import BASE_ROWS, Base, OpenTrace, RowPlan, Trace
from collegium.ops.pooling import last_tokens, mean_of, real_tokens, taken_at
from collegium.rewards.texts import TextBatch

Pooling = Literal["last", "mean", "first"]
"""last: the rightmost token that is not the pad token, as transformers' sequence classification models of decoders do.
mean: over all tokens. first: the first token, through the encoder's own pooler where it has one."""


@dataclass(frozen=True)
class Reading:
    """What belongs to a judge's weights and is none of them.

    text_tokens: the most tokens of a text. pad_token: which token `last` passes over, None = none.
    """

    text_tokens: int
    pooling: Pooling
    pad_token: int | None = None

    @staticmethod
    def of(base: Base, *, text_tokens: int, pooling: Pooling | None = None) -> "Reading":
        """Return how judges on a base read when nothing else is said: `last` for decoders, `mean` for encoders."""
        pad = getattr(base.config, "pad_token_id", None)
        if pad is None:
            pad = getattr(base.tokenizer, "pad_token_id", None)
        return Reading(text_tokens, pooling or ("last" if base.causal else "mean"), pad)

    def to_constants(self) -> dict[str, Any]:
        """Return it as a card keeps it."""
        return asdict(self)

    @staticmethod
    def from_constants(constants: Mapping[str, Any], *, where: str) -> "Reading":
        """Return what a card keeps; raises CorruptExpert when it is nothing of the kind."""
        tokens, pooling, pad = (constants.get(name) for name in ("text_tokens", "pooling", "pad_token"))
        known = [each for each in get_args(Pooling) if each == pooling]
        if type(tokens) is not int or not known or not (pad is None or type(pad) is int):
            raise CorruptExpert(
                f"{where}: a judge's card says how it reads: text_tokens, a whole number, and pooling, one of "
                f"{', '.join(get_args(Pooling))}; this one says {dict(constants)}. Fit it again."
            )
        return Reading(tokens, known[0], pad)

    def pool(
        self, base: Base, hidden: Float[Tensor, "row seq hidden"], tokens: Int[Tensor, "row seq"], lengths: Tensor
    ) -> Float[Tensor, "row hidden"]:
        """Return the state that stands for each row's text, float32."""
        if self.pooling == "mean":
            return mean_of(hidden, real_tokens(tokens, lengths))
        if self.pooling == "last":
            return taken_at(hidden, last_tokens(tokens, lengths, self.pad_token)).float()
        pooler = getattr(base.inner, "pooler", None)
        return hidden[:, 0].float() if pooler is None else pooler(hidden).float()


def pooled(
    base: Base,
    batch: TextBatch,
    *,
    plan: RowPlan = BASE_ROWS,
    reading: Reading,
    trace: OpenTrace | Trace | None = None,
) -> Float[Tensor, "group text hidden"]:
    """Return the state that stands for each text in each group of a plan, float32."""
    hidden = base.hidden(batch.tokens, lengths=batch.lengths, plan=plan, trace=trace)
    groups = hidden.shape[0] // len(batch)
    tokens, lengths = batch.tokens.repeat(groups, 1), batch.lengths.repeat(groups)
    return reading.pool(base, hidden, tokens.to(hidden.device), lengths).view(groups, len(batch), -1)


def prompt_states(base: Base, hidden: Float[Tensor, "row seq hidden"], batch: TextBatch) -> Float[Tensor, "row hidden"]:
    """Return the state at the end of each row's prompt; in a causal base it knows of nothing behind."""
    return taken_at(hidden, (batch.prompts - 1).repeat(hidden.shape[0] // len(batch))).float()
