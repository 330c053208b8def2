"""PEFT's side: models of its own that hold our experts, and their steps of decoding."""

import copy
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.models import Base, LoraWeights

NO_PEFT = "PEFT is not installed: `pip install 'collegium[bench]'` compares with it."


def find_peer(module: str) -> ModuleType | None:
    """Return a peer's package, None when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


@contextmanager
def peers_own_warnings() -> Iterator[None]:
    """Hold back what a peer says of its own inner steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def own_copy(base: Base) -> Any:  # noqa: ANN401 - a transformers model
    """Return a copy of the base's model, into which a peer may build what it wants; nothing may be attached yet."""
    assert not base.attached, "a copy would take our slots along"
    return copy.deepcopy(base.model)


def peft_model(peft: ModuleType, base: Base, folders: Mapping[str, Path]) -> Any:  # noqa: ANN401 - a PeftModel
    """Return a PEFT model of a copy of the base with these adapters loaded under their names."""
    with peers_own_warnings():
        model = None
        for name, folder in folders.items():
            if model is None:
                model = peft.PeftModel.from_pretrained(own_copy(base), folder, adapter_name=name)
            else:
                model.load_adapter(folder, name)
    assert model is not None, "a PEFT model has at least one adapter"
    return model.eval()


def lora_names(parts: Mapping[str, LoraWeights]) -> dict[str, Tensor]:
    """Return an adapter's matrices under the names that PEFT has for them."""
    return {
        f"base_model.model.{path}.lora_{half}.weight": tensor.detach()
        for path, part in parts.items()
        for half, tensor in (("A", part.a), ("B", part.b))
    }


def arrow_model(peft: ModuleType, base: Base, folders: Sequence[Path], *, top_k: int) -> Any:  # noqa: ANN401
    """Return PEFT's Arrow over these adapters, on a copy of the base."""
    with peers_own_warnings():
        config = peft.ArrowConfig(top_k=top_k, router_temperature=1.0)
        return peft.create_arrow_model(own_copy(base), [str(folder) for folder in folders], config).eval()


def next_logprobs(model: Any, tokens: Int[Tensor, "batch seq"], **extra: Any) -> Float[Tensor, "batch vocab"]:  # noqa: ANN401
    """Return a transformers-like model's log-probabilities of what follows each text; the rest is not computed."""
    with torch.no_grad(), peers_own_warnings():
        return model(input_ids=tokens, logits_to_keep=1, use_cache=True, **extra).logits[:, -1].log_softmax(-1)


def stepper(
    model: Any,  # noqa: ANN401 - transformers' or PEFT's
    prompts: Int[Tensor, "batch seq"],
    **extra: Any,  # noqa: ANN401
) -> Callable[[], Float[Tensor, "batch vocab"]]:
    """Return a step of decoding that appends each prompt's first token once more; the prompts are read here, not timed.

    extra: what PEFT's forward takes besides, `adapter_names`.
    """
    token = prompts[:, :1]
    with torch.no_grad(), peers_own_warnings():
        cache = model(input_ids=prompts, logits_to_keep=1, use_cache=True, **extra).past_key_values

    def step() -> Tensor:
        with torch.no_grad():
            said = model(input_ids=token, past_key_values=cache, use_cache=True, **extra).logits
        return said[:, -1].log_softmax(-1)

    return step
