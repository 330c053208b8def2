"""llama.cpp: a low-rank expert as one GGUF file.

The file says general.type = adapter, adapter.type = lora, general.architecture and one adapter.lora.alpha; each layer
gives `blk.N.NAME.weight.lora_a` and `.lora_b`, A as it is, B with its rows in llama.cpp's order (gguf_rows). llama.cpp
computes W x + (alpha / r) B (A x) with r = B's own rank, so alpha is the commonest s r of the layers; where a layer's
s r is another, B takes up the rest: B' = (s r / alpha) B. All numbers are written in float32.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from collegium.core.errors import IncompatibleExpert
from collegium.experts.export.formats import Served, lora_of
from collegium.experts.export.gguf_rows import family_of, row_order
from collegium.experts.payloads import Expert
from collegium.models import LoraWeights


def check_gguf(experts: Sequence[Expert], served: Served) -> None:
    """Raise IncompatibleExpert, naming it, for a base or a layer that llama.cpp has no name for."""
    for expert in experts:
        gguf_tensors(lora_of(expert), served.config)


def write_gguf(experts: Sequence[Expert], served: Served, folder: Path, place: Path) -> dict[str, Any]:
    """Write NAME.gguf for each expert."""
    for expert in experts:
        _write(expert, served.config, folder / f"{expert.name}.gguf")
    return {"adapters": {expert.name: str(place / f"{expert.name}.gguf") for expert in experts}}


def gguf_alpha(adapter: Mapping[str, LoraWeights]) -> float:
    """Return the one alpha of a file: the commonest scale * rank; zero would mean to llama.cpp that there is none.

    >>> import torch
    >>> gguf_alpha({"q": LoraWeights(torch.ones(2, 1), torch.ones(1, 2), 4.0)})
    8.0
    """
    products = [part.scale * part.rank for part in adapter.values() if part.scale != 0]
    return float(statistics.mode(products)) if products else 1.0


def gguf_tensors(adapter: Mapping[str, LoraWeights], config: Any) -> dict[str, Tensor]:  # noqa: ANN401
    """Return llama.cpp's name -> tensor of an adapter on a base with this configuration.

    Raises IncompatibleExpert, naming the layer, where llama.cpp has no tensor of its own.
    """
    import gguf

    architecture = family_of(config).architecture
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    alpha = gguf_alpha(adapter)
    tensors: dict[str, Tensor] = {}
    for path, part in adapter.items():
        name = names.get_name(path)
        if name is None:
            raise IncompatibleExpert(
                f"llama.cpp has no tensor for {path!r} in a base of type {config.model_type!r}. Export a merged "
                "checkpoint (--to merged) and convert that with llama.cpp."
            )
        rest = part.scale * part.rank / alpha
        b = part.b.detach().float().cpu()[row_order(path, part.b.shape[0], config)]
        tensors[f"{name}.weight.lora_a"] = part.a.detach().float().cpu()
        tensors[f"{name}.weight.lora_b"] = b if rest == 1 else rest * b
    return tensors


def _write(expert: Expert, config: Any, path: Path) -> None:  # noqa: ANN401 - a transformers configuration
    import gguf

    adapter = lora_of(expert)
    writer = gguf.GGUFWriter(path, family_of(config).architecture)
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, gguf_alpha(adapter))
        writer.add_name(expert.name)
        tensors = {name: tensor.contiguous().numpy() for name, tensor in gguf_tensors(adapter, config).items()}
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        _write_numbers(writer, tensors.values())
    finally:
        writer.close()


def _write_numbers(writer: Any, tensors: Iterable[Any]) -> None:  # noqa: ANN401 - gguf's and numpy's
    """Write the tensors' numbers; the writer's own way (numpy.tofile) is silent when the disk is full."""
    (file,) = writer.fout
    writer.write_padding(file, file.tell())
    for tensor in tensors:
        file.write(tensor.tobytes())
        writer.write_padding(file, tensor.nbytes)
    file.flush()
