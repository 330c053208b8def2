"""The trunk: the embedding and the blocks below the first one that experts change, run once and stood in for after.

Below the first changed block a text's hidden states depend on the text alone. `Trunk.states` computes them without the
blocks above; inside `Trunk.given` the blocks below answer with such states at once, and everything else a model does
(masks, positions, what it adds from the embedding) is its own, so that the blocks above see what they always see.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from collegium.core.errors import BaseModelError
from collegium.models.base import Base
from collegium.models.rows import BASE_ROWS, RowPlan

_FORWARD = "forward"


@dataclass(frozen=True, eq=False)
class Trunk:
    """The blocks of a base below block `first`.

    lengths: of what each block gives back where it is a tuple, by block; filled by `refusal`.
    """

    base: Base
    first: int
    lengths: dict[int, int] = field(default_factory=dict)

    @property
    def frozen(self) -> bool:
        """Whether equal texts give equal states: nothing of the base is trained, and nothing is dropped at random."""
        inner = self.base.inner
        return not any(module.training for module in inner.modules()) and not any(
            weight.requires_grad for weight in inner.parameters()
        )

    def states(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        segments: Int[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq hidden"]:
        """Return what enters block `first`; the blocks from there on are not run. See `Base.hidden`."""
        entered: list[Tensor] = []

        def keep(hidden: Tensor) -> Tensor:
            entered.append(hidden)
            return hidden

        with torch.no_grad(), self._standing_in(range(self.first, len(self.base.blocks)), keep):
            self.base.hidden(tokens, lengths=lengths, plan=BASE_ROWS, segments=segments)
        return entered[0]

    @contextmanager
    def noting(self) -> Iterator[list[Tensor]]:
        """Collect, inside the `with`, what enters block `first` in each run of the model, in order."""
        entered: list[Tensor] = []

        def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            entered.append(inputs[0] if inputs else named["hidden_states"])

        handle = self.base.blocks[self.first].register_forward_pre_hook(hook, with_kwargs=True)
        try:
            yield entered
        finally:
            handle.remove()

    @contextmanager
    def given(self, states: Float[Tensor, "batch seq hidden"]) -> Iterator[None]:
        """Let the blocks below answer with these states inside the `with`; their weights are not touched.

        What is read there must be told the lengths or segments that the states were computed with.
        """
        with self._standing_in(range(self.first), lambda hidden: states):
            yield

    def refusal(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        plan: RowPlan,
        lengths: Int[Tensor, " batch"] | None = None,
        segments: Int[Tensor, "batch seq"] | None = None,
    ) -> str | None:
        """Return None when the blocks above give the same to the last bit on these texts, else what forbids it.

        So it is seen, for any architecture, whether blocks above take more from those below than hidden states: keys
        and values shared over layers, say.
        """
        with torch.no_grad():
            whole = self._observed(tokens, lengths, segments, plan)
            try:
                states = self.states(tokens, lengths=lengths, segments=segments)
                if states.shape != whole.shape:
                    return f"its blocks hand on states of shape {tuple(states.shape)}, not one for each token"
                with self.given(states):
                    again = self.base.hidden(tokens, lengths=lengths, plan=plan, segments=segments)
            except (BaseModelError, AttributeError, LookupError, TypeError, ValueError) as error:
                return f"its upper blocks do not run without the lower ones ({type(error).__name__}: {error})"
        read = _read(tokens, lengths, segments).to(whole.device)
        if torch.equal(whole[read], again[read]):
            return None
        gap = float((whole[read] - again[read]).abs().max())
        return f"its upper blocks take more from the lower ones than hidden states (they differ by {gap:.2g} without)"

    def _observed(self, tokens: Tensor, lengths: Tensor | None, segments: Tensor | None, plan: RowPlan) -> Tensor:
        """Return the last hidden states of an ordinary run, in which is seen what each block gives back."""

        def note(index: int) -> Callable[[nn.Module, Any, Any], None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ANN401 - torch's hook
                if isinstance(output, tuple):
                    self.lengths[index] = len(output)

            return hook

        handles = [block.register_forward_hook(note(index)) for index, block in enumerate(self.base.blocks)]
        try:
            return self.base.hidden(tokens, lengths=lengths, plan=plan, segments=segments)
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _standing_in(self, indices: Sequence[int], answer: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Let blocks give what `answer` makes of the hidden states they get, in place of their own forward."""

        def stand_in(index: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever a block is called with
                hidden = answer(args[0] if args else kwargs["hidden_states"])
                length = self.lengths.get(index)
                return hidden if length is None else (hidden, *(None for _ in range(length - 1)))

            return forward

        blocks = [self.base.blocks[index] for index in indices]
        before = [vars(block).get(_FORWARD) for block in blocks]
        try:
            for index, block in zip(indices, blocks, strict=True):
                setattr(block, _FORWARD, stand_in(index))
            yield
        finally:
            for block, known in zip(blocks, before, strict=True):
                vars(block).pop(_FORWARD, None)
                if known is not None:
                    setattr(block, _FORWARD, known)


def _read(tokens: Tensor, lengths: Tensor | None, segments: Tensor | None) -> Tensor:
    """Return which tokens are no padding."""
    read = torch.ones_like(tokens, dtype=torch.bool)
    if lengths is not None:
        read &= torch.arange(tokens.shape[1], device=tokens.device) < lengths.to(tokens.device)[:, None]
    return read if segments is None else read & (segments >= 0).to(tokens.device)
