"""The output layer, applied to hidden states in chunks and only where somebody reads."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from collegium.core.errors import BaseModelError
from collegium.models.architectures import is_classifier

_CHUNK_NUMBERS = 2**23
"""Logits held at once; 32 MB in float32."""
_WALK_POSITIONS = 1024
_WALK_NUMBERS = 2**21
"""Logits held at once where the vocabulary is walked through; 8 MB in float32."""
_PROBE = (1, 2, 3, 0)
_PROBE_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}


@dataclass(frozen=True, eq=False)
class Tail:
    """What a base does to its last hidden states: a linear layer, a factor, a soft cap."""

    layer: nn.Module
    vocab_size: int
    factor: float = 1.0
    cap: float | None = None

    def __call__(self, hidden: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows vocab"]:
        """Return the logits in float32."""
        logits = self.layer(hidden)
        if self.factor != 1.0:
            logits = logits * self.factor
        if self.cap is not None:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits.float()

    @property
    def chunk(self) -> int:
        """How many positions are computed at once."""
        return max(1, _CHUNK_NUMBERS // self.vocab_size)


def find_tail(model: Any, config: Any) -> Tail | None:  # noqa: ANN401 - a transformers model and its configuration
    """Return the model's tail, None for a sequence classifier; raises BaseModelError for another without any."""
    if is_classifier(model):
        return None
    layer = model.get_output_embeddings()
    if layer is None:
        raise BaseModelError(
            f"{type(model).__name__} has no output layer over a vocabulary, nor a head over a text; load a causal "
            "language model or a sequence classifier."
        )
    cap = getattr(config, "final_logit_softcapping", None)
    factor = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return Tail(layer, int(layer.weight.shape[0]), factor, None if cap is None else float(cap))


def check_tail(model: Any, inner: Any, tail: Tail) -> None:  # noqa: ANN401 - transformers models
    """Raise BaseModelError unless the tail gives the model's own logits on four tokens, and these are finite."""
    place = next(tail.layer.parameters()).device
    probe = torch.tensor([_PROBE]).remainder(tail.vocab_size).to(place)
    with torch.no_grad():
        own = model(input_ids=probe, use_cache=False).logits.float()
        ours = tail(inner(input_ids=probe, use_cache=False).last_hidden_state)
    dtype = next(model.parameters()).dtype
    if not bool(own.isfinite().all()):
        raise BaseModelError(
            f"{type(model).__name__} gives logits that are not finite on a probe: its weights are damaged, or too "
            f"large for {str(dtype).removeprefix('torch.')}. Copy the base again, or fold with smaller weights."
        )
    tolerance = _PROBE_TOLERANCE.get(dtype, 5e-2) * max(1.0, float(own.abs().max()))
    gap = float((own - ours).abs().max())
    if not gap <= tolerance:
        raise BaseModelError(
            f"{type(model).__name__} does more to its logits than Collegium knows (a linear layer, a factor, a soft "
            f"cap): they differ by {gap:.2g} on a probe. Use a base of another architecture."
        )


@torch.no_grad()
def target_log_probs(
    tail: Tail, hidden: Float[Tensor, "position hidden"], targets: Int[Tensor, " position"]
) -> Float[Tensor, " position"]:
    """Return log p(target) at each position, float32, holding a chunk of logits at a time."""
    parts = [
        _chunk_log_probs(tail, part, goal)
        for part, goal in zip(hidden.split(tail.chunk), targets.split(tail.chunk), strict=True)
    ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def _chunk_log_probs(tail: Tail, hidden: Tensor, targets: Tensor) -> Tensor:
    return -nn.functional.cross_entropy(tail(hidden), targets, reduction="none")


def log_probs(tail: Tail, hidden: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows vocab"]:
    """Return log p(. | so far) at each position, float32."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    out = torch.empty(flat.shape[0], tail.vocab_size, device=hidden.device)
    for start in range(0, flat.shape[0], tail.chunk):
        part = slice(start, start + tail.chunk)
        torch.log_softmax(tail(flat[part]), -1, out=out[part])
    return out.view(*hidden.shape[:-1], tail.vocab_size)


def target_nats(
    tail: Tail, hidden: Float[Tensor, "position hidden"], targets: Int[Tensor, " position"]
) -> Float[Tensor, " position"]:
    """Return -log p(target) with gradient, holding a chunk of logits at a time.

    Each number depends on its own hidden state alone, so the derivative is taken on the way forward and only
    multiplied on the way back: no logits are kept. A tail that is trained itself is computed plainly.
    """
    if not torch.is_grad_enabled() or any(weight.requires_grad for weight in tail.layer.parameters()):
        parts = [
            -_chunk_log_probs(tail, part, goal)
            for part, goal in zip(hidden.split(tail.chunk), targets.split(tail.chunk), strict=True)
        ]
        return torch.cat(parts) if parts else hidden.float().sum(-1)
    return _FrozenTail.apply(hidden, targets, tail)  # pyright: ignore[reportReturnType]


class _FrozenTail(torch.autograd.Function):
    """-log p(target) through a frozen output layer."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, tail: Tail) -> Tensor:  # noqa: ANN401 - torch's context
        if _is_plain(tail, hidden):
            layer: Any = tail.layer
            nats, slopes = plain_nats(hidden, targets, layer.weight, factor=tail.factor)
        else:
            nats, slopes = _chunked_nats(hidden, targets, tail)
        ctx.save_for_backward(slopes)
        return nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # noqa: ANN401  # pyright: ignore[reportIncompatibleMethodOverride]
        (slopes,) = ctx.saved_tensors
        return slopes * grad_outputs[0][:, None].to(slopes.dtype), None, None


def _is_plain(tail: Tail, hidden: Tensor) -> bool:
    """Return whether the tail is a matrix and a factor in float32, and nothing else."""
    layer = tail.layer
    return (
        type(layer) is nn.Linear
        and layer.bias is None
        and tail.cap is None
        and layer.weight.dtype == hidden.dtype == torch.float32
        and not torch.is_autocast_enabled(hidden.device.type)
    )


def _chunked_nats(hidden: Tensor, targets: Tensor, tail: Tail) -> tuple[Tensor, Tensor]:
    """Return -log p(target) and its slope by the hidden state, some positions at a time."""
    nats = torch.empty(hidden.shape[0], device=hidden.device)
    slopes = torch.empty_like(hidden)
    for start in range(0, hidden.shape[0], tail.chunk):
        rows = slice(start, start + tail.chunk)
        with torch.enable_grad():
            part = hidden[rows].detach().requires_grad_()
            values = -_chunk_log_probs(tail, part, targets[rows])
        (slopes[rows],) = torch.autograd.grad(values, part, torch.ones_like(values))
        nats[rows] = values.detach()
    return nats, slopes


def plain_nats(
    hidden: Float[Tensor, "position hidden"],
    targets: Int[Tensor, " position"],
    weight: Float[Tensor, "vocab hidden"],
    *,
    factor: float = 1.0,
) -> tuple[Float[Tensor, " position"], Float[Tensor, "position hidden"]]:
    """Return -log p(target) and its slope by the hidden state, in one walk over pieces of the vocabulary.

    With l = factor * W h, the running maximum m and the sums s = sum_v exp(l_v - m) and g = sum_v exp(l_v - m) W_v,
    both rescaled whenever m grows: nats = m + log s - l_target, slope = factor * (g / s - W_target). What a piece says
    stays in the processor's cache, and the exponential of a logit is taken once.

    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> [each.tolist() for each in plain_nats(torch.zeros(1, 2), torch.tensor([0]), weight)]
    [[0.6931471824645996], [[-0.5, 0.5]]]
    """
    nats, slopes = [], []
    for part, goal in zip(hidden.split(_WALK_POSITIONS), targets.split(_WALK_POSITIONS), strict=True):
        top = part.new_full((len(part), 1), float("-inf"))
        total, lean = torch.zeros_like(top), torch.zeros_like(part)
        for piece in weight.split(max(1, _WALK_NUMBERS // max(1, len(part)))):
            logits = part @ piece.T
            if factor != 1.0:
                logits *= factor
            new = torch.maximum(top, logits.amax(1, keepdim=True))
            shrunk = (top - new).exp_()
            logits.sub_(new).exp_()
            total.mul_(shrunk).add_(logits.sum(1, keepdim=True))
            lean.mul_(shrunk).addmm_(logits, piece)
            top = new
        said = weight[goal]
        nats.append((top + total.log())[:, 0] - factor * (part * said).sum(-1))
        slopes.append(factor * (lean / total - said))
    return torch.cat(nats), torch.cat(slopes)
