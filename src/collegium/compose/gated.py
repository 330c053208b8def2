"""Mix by gates: one row a text, weighed inside the base, layer by layer.

Gates in the slots read their layer's own input. A head reads the base's last hidden state: then the base is read
twice, each time with caches of its own.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose.asking import Asked
from collegium.compose.routed import right_padded, row_context, row_lengths
from collegium.core.errors import RoutingError
from collegium.core.protocols import Decoding, Tokenizer
from collegium.core.routing import BASE, Routing
from collegium.models import Base, Group, RowDecoding, RowPlan, RowReader, after_context
from collegium.routers.gates import Gating, HeadGates, SlotGates

_TRACED_TEXTS = 8
"""How many texts are traced at once."""

Said = Mapping[str, tuple[Tensor, Tensor | None]]
"""Module path -> weights and, where they are not all in order, whose."""


class GatedMix:
    """A language model: the base with a blend of adapters that gates decide anew at every position and layer.

    Weights at a position depend on tokens up to there alone, and stay with the keys and values written there.
    """

    def __init__(self, base: Base, keys: Mapping[str, str], gating: Gating) -> None:
        """Keep the base, its attached adapters by expert name, and the gates.

        Raises RoutingError when the gates know an expert that is not attached, or stand where this base has no layer.
        """
        unknown = [name for name in gating.experts if name not in keys]
        if unknown:
            raise RoutingError(f"the gates know {unknown}, this model has only {list(keys)}.")
        if isinstance(gating, SlotGates):
            foreign = sorted(set(gating.slots) - set(base.linear_sites()))
            if foreign:
                raise RoutingError(
                    f"the gates stand at {foreign[0]!r}, which is no linear layer of base {base.name}: they were made "
                    "for another base."
                )
        self.base, self.keys, self.gating = base, dict(keys), gating
        self._adapters = tuple(self.keys[name] for name in gating.experts)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The base's tokenizer."""
        return self.base.tokenizer

    @property
    def vocab_size(self) -> int:
        """The base's vocabulary."""
        return self.base.vocab_size

    @property
    def context_tokens(self) -> int | None:
        """The longest text that the base reads."""
        return self.base.context_tokens

    @property
    def experts(self) -> tuple[str, ...]:
        """The names its routing is in order of."""
        return self.gating.experts

    @torch.no_grad()
    def routing(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Routing:
        """Return the weights that act at each position: the mean over the places where gates act."""
        parts = [mean_weights(self._said(part), self.experts) for part in tokens.split(_TRACED_TEXTS)]
        return Routing(self.experts, torch.cat(parts), kind=self.gating.kind)

    @torch.no_grad()
    def trace(self, tokens: Int[Tensor, "batch seq"]) -> dict[str, Routing]:
        """Return what the gates say at each position: by a linear layer's path, or by a block's where a head speaks."""
        return {
            path: Routing(self.experts, weights.float().cpu(), None if index is None else index.cpu(), self.gating.kind)
            for path, (weights, index) in self._said(tokens).items()
        }

    def _said(self, tokens: Int[Tensor, "batch seq"]) -> Said:
        if isinstance(self.gating, HeadGates):
            return self._by_block(self.gating.head(self.base.hidden(tokens)))
        trace: dict[str, tuple[Tensor, Tensor | None]] = {}
        self.base.hidden(tokens, plan=self._slot_plan(self.gating), trace=trace)
        return trace

    def _by_block(self, weights: Float[Tensor, "layer batch seq expert"]) -> Said:
        prefix = next(path for path, module in self.base.model.named_modules() if module is self.base.blocks)
        return {f"{prefix}.{block}": (each, None) for block, each in enumerate(weights)}

    def _slot_plan(self, gating: SlotGates) -> RowPlan:
        elsewhere = torch.full((1, 1, len(self._adapters)), gating.elsewhere)
        return RowPlan((Group(self._adapters, elsewhere, gates=gating.slots),))

    def _head_plan(self, weights: Float[Tensor, "layer batch seq expert"]) -> RowPlan:
        return RowPlan((Group(self._adapters, weights),))

    def _plan(self, tokens: Int[Tensor, "batch seq"]) -> RowPlan:
        if isinstance(self.gating, SlotGates):
            return self._slot_plan(self.gating)
        return self._head_plan(self.gating.head(self.base.hidden(tokens)))

    @torch.no_grad()
    def score(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq"]:
        """Return each token's log-probability given those before it; 0 for i < context and for padding."""
        many = row_lengths(tokens, lengths)
        scored = after_context(tokens, row_context(context, many))
        return self.base.score_rows(tokens, lengths=many, plan=self._plan(tokens), scored=scored)[0]

    @torch.no_grad()
    def logprobs(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Return the distribution over the next token at every position."""
        return self.base.logprobs_rows(tokens, plan=self._plan(tokens))[0]

    @torch.no_grad()
    def open(self, prompts: Sequence[Sequence[int]]) -> Decoding:
        """Return a decoding of the prompts."""
        if isinstance(self.gating, SlotGates):
            asked = self.ask(prompts)
            return asked.begin(self.base.open_rows(prompts, asked.plan, traced=True))
        reader = self.base.open_rows(prompts)
        weights = self.gating.head(reader.prompt_states)
        _, lengths = right_padded(prompts)
        rows = self.base.open_rows(prompts, self._head_plan(weights))
        last = weights[:, torch.arange(len(prompts)), lengths - 1][:, :, None]
        return GatedDecoding(self, rows, reader, last)

    def ask(self, prompts: Sequence[Sequence[int]]) -> Asked:
        """Return the rows that read the prompts; raises RoutingError for a head, which reads them beside the blend."""
        if not isinstance(self.gating, SlotGates):
            raise RoutingError(
                "a head over the base's last hidden state reads every text twice, in rows that wait for each other; "
                "open the model by itself, or use gates inside the slots."
            )
        return Asked(self.base, self._slot_plan(self.gating), lambda rows: GatedDecoding(self, rows, None))


class GatedDecoding:
    """A gated mix's texts being continued; `reader` is the base's own reading, where a head needs one."""

    def __init__(
        self, model: GatedMix, rows: RowReader, reader: RowDecoding | None, weights: Tensor | None = None
    ) -> None:
        """Keep the rows, and what a head said last."""
        self.model, self.rows, self.reader = model, rows, reader
        self.weights: Float[Tensor, "layer batch one expert"] | None = weights

    @property
    def said(self) -> Said:
        """What the gates said at the last position read."""
        if self.weights is not None:
            return self.model._by_block(self.weights)
        last = self.rows.trace or {}
        return {path: (each[:, -1:], None if index is None else index[:, -1:]) for path, (each, index) in last.items()}

    @property
    def routing(self) -> Routing | None:
        """The weights that acted at the last position: the mean over the places where gates act."""
        return Routing(self.model.experts, mean_weights(self.said, self.model.experts), kind=self.model.gating.kind)

    def next_logprobs(self) -> Float[Tensor, "batch vocab"]:
        """Return the log-probabilities of the next token."""
        return self.rows.logprobs

    def shares(self, tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch expert"] | None:
        """Return the weights that act here, open ones as shares: inside one blended network nobody speaks alone."""
        weights = mean_weights(self.said, self.model.experts)[:, 0].abs()
        return weights / weights.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, " batch"]) -> None:
        """Append one token to every text; a head reads it first, its weights act at this position."""
        if self.reader is None or not isinstance(self.model.gating, HeadGates):
            self.rows.step(tokens)
            return
        self.reader.step(tokens)
        self.weights = self.model.gating.head(self.reader.states)
        self.rows.step(tokens, self.model._head_plan(self.weights))

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these texts alone."""
        self.rows.keep(rows)
        if self.reader is not None:
            self.reader.keep(rows)
        if self.weights is not None:
            self.weights = self.weights[:, rows.to(self.weights.device)]


def mean_weights(said: Said, experts: tuple[str, ...]) -> Float[Tensor, "batch seq expert"]:
    """Return the mean of what gates say over the places where they act, with a column per expert."""
    total, count = None, 0
    for weights, index in said.values():
        dense = weights if index is None else weights.new_zeros(*weights.shape[:-1], len(experts))
        dense = dense if index is None else dense.scatter(-1, index, weights)
        total, count = dense.float() if total is None else total + dense.float(), count + 1
    assert total is not None, f"gates over {experts} act somewhere, {BASE} alone has none"
    return (total / count).cpu()
