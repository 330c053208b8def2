"""Stepwise decoding of many rows with caches: one row per text in the trunk, one per group and text above it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import DataError, RoutingError
from collegium.core.routing import Routing
from collegium.models.rows import RowPlan, Rows, last_weights, left_padded_weights, shift_left, shift_right
from collegium.models.slots import Trace
from collegium.models.tail import log_probs, target_log_probs

if TYPE_CHECKING:
    from collegium.models.base import Base


class RowDecoding:
    """Texts continued token by token in every group of a plan.

    states:   the last hidden states of what was read last: a prompt, padded on the left, or one token.
    trace:    what gates said there, by module path, where it was asked for.
    plan:     what the next step is run with; weights of earlier positions stay with their keys and values.

    Prompts of different length are padded on the left, inside.
    """

    def __init__(self, base: "Base", prompts: Sequence[Sequence[int]], plan: RowPlan, *, traced: bool = False) -> None:
        """Read the prompts. Raises DataError for an empty one, BaseModelError for one that is too long."""
        from transformers import DynamicCache

        if not prompts or not all(len(prompt) for prompt in prompts):
            raise DataError("every prompt has at least one token; begin with the base's first token or a word.")
        rows = plan.rows(len(prompts))
        self._base, self._groups = base, len(plan.groups)
        self.lengths = torch.tensor([len(prompt) for prompt in prompts], device=base.device)
        self._prompt_lengths = self.lengths
        self._prompts = _right_padded(prompts).to(base.device)
        seq = self._prompts.shape[1]
        place = torch.arange(seq, device=base.device)
        self._mask = place >= (seq - self.lengths)[:, None]
        self._padded = bool((self.lengths != seq).any())
        self._cache: Any = DynamicCache(config=base.config)
        self._first: int | None = None
        self.trace: Trace | None = {} if traced else None
        tokens = shift_right(self._prompts, self.lengths) if self._padded else self._prompts
        positions = (place - (seq - self.lengths)[:, None]).clamp(min=0)
        hidden = self._forward(tokens, positions, left_padded_weights(rows, self.lengths) if self._padded else rows)
        self.plan = last_weights(rows, self.lengths)
        self._prompt_hidden: Tensor | None = hidden
        self.states: Float[Tensor, "row seq hidden"] = hidden
        self._logprobs: Tensor | None = None
        self._prompt_scores: Tensor | None = None

    @property
    def texts(self) -> int:
        """How many texts are being continued."""
        return self.lengths.shape[0]

    @property
    def logprobs(self) -> Float[Tensor, "group batch vocab"]:
        """Log-probabilities of the token that follows each text, float32; computed when first asked for."""
        if self._logprobs is None:
            self._logprobs = self._next(self.states)
        return self._logprobs

    @property
    def prompt_states(self) -> Float[Tensor, "row seq hidden"]:
        """The last hidden states of the prompts, right-padded; until the first step."""
        return shift_left(self.states, self._prompt_lengths.repeat(self._groups)) if self._padded else self.states

    @property
    def prompt_scores(self) -> Float[Tensor, "group batch seq"]:
        """Each prompt token's log-probability given those before it, right-padded; 0 at position 0 and padding.

        Computed when first read: nobody but a router that weighs likelihoods pays for the output layer here.
        """
        if self._prompt_scores is None:
            assert self._prompt_hidden is not None
            self._prompt_scores, self._prompt_hidden = self._score_prompts(self._prompt_hidden), None
        return self._prompt_scores

    def step(self, tokens: Int[Tensor, " batch"], plan: RowPlan | None = None) -> None:
        """Append one token to every text, from here on with a new plan if one is given.

        Raises RoutingError when the plan has another number of groups or changes blocks below the trunk.
        """
        if plan is not None:
            if len(plan.groups) != self._groups:
                raise RoutingError(
                    f"these texts are open in {self._groups} groups, the new plan has {len(plan.groups)}."
                )
            self.plan = plan.rows(self.texts)
        self._mask = torch.cat([self._mask, self._mask.new_ones(self.texts, 1)], dim=1)
        hidden = self._forward(tokens.to(self._base.device)[:, None], self.lengths[:, None], self.plan)
        self.lengths = self.lengths + 1
        self.states, self._logprobs = hidden, None

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these texts alone, in this order, in every group."""
        rows = rows.to(self._base.device)
        texts, self._mask = self.texts, self._mask[rows]
        every = _every_group(rows, self._groups, texts)
        for layer in self._cache.layers:
            if layer.is_initialized:
                layer.batch_select_indices(rows if layer.keys.shape[0] == texts else every)
        self._prompts, self._prompt_lengths = self._prompts[rows], self._prompt_lengths[rows]
        if self._prompt_hidden is not None:
            self._prompt_hidden = self._prompt_hidden[every]
        if self._prompt_scores is not None:
            self._prompt_scores = self._prompt_scores[:, rows]
        self.states = self.states[every]
        if self._logprobs is not None:
            self._logprobs = self._logprobs[:, rows]
        if self.trace is not None:
            self.trace = {
                path: (said[every], index if index is None else index[every])
                for path, (said, index) in self.trace.items()
            }
        self.lengths, self.plan = self.lengths[rows], self.plan.take_texts(rows.cpu())

    def _forward(self, tokens: Tensor, positions: Tensor, rows: Rows) -> Tensor:
        base = self._base
        base.check_length(int(positions.max()) + 1)
        with torch.no_grad(), base.running(rows, first=self._first, trace=self.trace) as run:
            self._first = run.first
            hidden = base.inner(
                input_ids=tokens,
                attention_mask=self._mask if self._padded else None,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
            ).last_hidden_state
        return run.widen(hidden, len(base.blocks))

    def _next(self, hidden: Tensor) -> Tensor:
        with torch.no_grad():
            return log_probs(self._base.output, hidden[:, -1]).view(self._groups, self.texts, -1)

    def _score_prompts(self, hidden: Tensor) -> Tensor:
        prompts = self._prompts.repeat(self._groups, 1)
        lengths = self._prompt_lengths.repeat(self._groups)
        if self._padded:
            hidden = shift_left(hidden, lengths)
        read = torch.arange(1, prompts.shape[1], device=prompts.device) < lengths[:, None]
        scores = torch.zeros(prompts.shape, device=prompts.device)
        scores[:, 1:][read] = target_log_probs(self._base.output, hidden[:, :-1][read], prompts[:, 1:][read])
        return scores.view(self._groups, self.texts, -1)


class BaseDecoding:
    """One voice, as a `Decoding`."""

    def __init__(self, rows: RowDecoding) -> None:
        """Take over a decoding of one group."""
        self.routing: Routing | None = None
        self._rows = rows

    @property
    def prompt_scores(self) -> Float[Tensor, "batch seq"]:
        """Each prompt token's log-probability given those before it; see `RowDecoding.prompt_scores`."""
        return self._rows.prompt_scores[0]

    def next_logprobs(self) -> Float[Tensor, "batch vocab"]:
        """Return the log-probabilities of the token that follows each text."""
        return self._rows.logprobs[0]

    def shares(self, tokens: Int[Tensor, " batch"]) -> None:
        """Return None: nobody shares with a single voice."""

    def step(self, tokens: Int[Tensor, " batch"]) -> None:
        """Append one token to every text."""
        self._rows.step(tokens)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these texts alone."""
        self._rows.keep(rows)


def _right_padded(prompts: Sequence[Sequence[int]]) -> Tensor:
    longest = max(len(prompt) for prompt in prompts)
    return torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts])


def _every_group(rows: Tensor, groups: int, texts: int) -> Tensor:
    """Return where these texts stand among groups x texts rows."""
    return (torch.arange(groups, device=rows.device)[:, None] * texts + rows).flatten()
