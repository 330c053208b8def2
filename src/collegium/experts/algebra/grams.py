"""Gram matrices of the inputs that a base's layers see while an expert reads texts: what RegMean needs."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from collegium.core.routing import BASE
from collegium.data import Windows
from collegium.models import Base, RowPlan

_BATCH = 8


@torch.no_grad()
def collect_grams(
    base: Base, text: Windows, paths: Iterable[str], *, expert: str = BASE
) -> dict[str, Float[Tensor, "_ _"]]:
    """Return sum_x x x^T over the inputs of these linear layers at every token of the texts.

    expert: the attached expert that reads them; default = the base alone. Padding does not count.

    >>> from collegium.data import Document, cut
    >>> from collegium.testing.pico import pico_base
    >>> base = pico_base()
    >>> text = cut([Document(text="to be or not to be")], base.tokenizer, window=16)
    >>> grams = collect_grams(base, text, base.linear_sites(["q_proj"]))
    >>> sorted(gram.shape for gram in grams.values())
    [torch.Size([64, 64]), torch.Size([64, 64])]
    """
    grams: dict[str, Tensor] = {}
    inside: list[Bool[Tensor, "batch seq"]] = []

    def watch(path: str) -> Any:  # noqa: ANN401 - torch's hook
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen = inputs[0].reshape(inside[-1].shape[0], inside[-1].shape[1], -1)[inside[-1]].float()
            gram = (seen.T @ seen).cpu()
            grams[path] = gram if path not in grams else grams[path] + gram

        return hook

    handles = [base.model.get_submodule(path).register_forward_pre_hook(watch(path)) for path in paths]
    try:
        for rows in torch.arange(len(text)).split(_BATCH):
            longest = int(text.lengths[rows].max())
            inside.append((torch.arange(longest) < text.lengths[rows][:, None]).to(base.device))
            base.hidden(text.tokens[rows, :longest], plan=RowPlan.one(expert))
    finally:
        for handle in handles:
            handle.remove()
    return grams
