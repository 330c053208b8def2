"""Merging whole models: a tensor of each at a time, in float32, into a new transformers folder.

linear           theta = sum_e w_e theta_e
task_arithmetic  theta = base + sum_e w_e d_e,  d_e = theta_e - base                         [ilharco2023task]
ties             the same over t_e = w_e trim(d_e) that agree with the elected sign          [yadav2023ties]
dare_*           d_e with each entry dropped by chance 1 - density, the rest divided by it   [yu2024dare]

Normalised: divided by sum_e w_e; for ties, by the weights of those that agree at each entry (disjoint mean).
Departures: an entry as large as the last one that trimming keeps is kept too, and nothing is rescaled after trimming.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.cards import read_json
from collegium.core.errors import ConfigError, CorruptExpert, IncompatibleExpert, ResourceError
from collegium.core.files import disk_errors, staged_folder
from collegium.core.randomness import generator
from collegium.experts.streaming.files import WeightFiles, pieces, write_tensors
from collegium.experts.streaming.recipe import MergeRecipe
from collegium.models.fingerprint import hash_config
from collegium.ops.entrywise import agreeing, dropped, least_kept

_PIECE = 2**22
_OWN_FILES = ("card.json", "metrics.jsonl")
_WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.gguf")
_TOKENIZER = "tokenizer.json"

Progress = Callable[[int, int], None]
"""Told after each tensor: how many of how many bytes are written."""


@dataclass(frozen=True)
class MergedModel:
    """What a merge comes to.

    tensors, parameters: how many. bytes: of the result. working_bytes: what is held at once, at most, beside mapped
    files.
    """

    folder: Path
    tensors: int
    parameters: int
    bytes: int
    working_bytes: int


@dataclass(frozen=True)
class _Opened:
    """The files of a merge, checked against each other."""

    base: WeightFiles | None
    models: tuple[WeightFiles, ...]
    dtype: torch.dtype

    @property
    def first(self) -> WeightFiles:
        return self.base or self.models[0]

    def close(self) -> None:
        for each in (self.base, *self.models):
            if each is not None:
                each.close()


def plan_merge(recipe: MergeRecipe, out: Path) -> MergedModel:
    """Return what a merge would come to, having checked every model; writes nothing.

    Raises IncompatibleExpert, naming the tensor or field, when models differ in build; CorruptExpert for damage.
    """
    opened = _open(recipe)
    try:
        return _planned(opened, out)
    finally:
        opened.close()


def merge_models(recipe: MergeRecipe, out: Path, *, progress: Progress = lambda done, whole: None) -> MergedModel:
    """Write the merge of whole models into a new folder, whole or not at all, with the first model's other files.

    Raises what `plan_merge` raises, ResourceError when the disk is too small, ConfigError when `out` exists.
    """
    if out.exists():
        raise ConfigError(f"{out} exists; a merge is written into a new folder.")
    opened = _open(recipe)
    try:
        found = _planned(opened, out)
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out.parent).free
        if found.bytes > free:
            raise ResourceError(
                f"the merge takes {found.bytes / 1e9:.2f} GB, {out.parent} has {free / 1e9:.2f} GB free."
            )
        with disk_errors(out), staged_folder(out) as folder:
            shutil.copytree(
                opened.first.folder,
                folder,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns(*_WEIGHT_FILES, *_OWN_FILES),
            )
            parts = _merged(recipe, opened, lambda done: progress(done, found.bytes))
            write_tensors(folder / "model.safetensors", opened.first.shapes, opened.dtype, parts)
        return found
    finally:
        opened.close()


def _open(recipe: MergeRecipe) -> _Opened:
    base = None if recipe.base_model is None or recipe.method == "linear" else WeightFiles(Path(recipe.base_model))
    models = tuple(WeightFiles(Path(each.model)) for each in recipe.changes)
    first = base or models[0]
    for other in models:
        _check_alike(first, other)
    stored = first.dtype(max(first.shapes, key=lambda name: torch.Size(first.shapes[name]).numel()))
    dtype = getattr(torch, recipe.dtype) if recipe.dtype else stored
    return _Opened(base, models, dtype)


def _check_alike(first: WeightFiles, other: WeightFiles) -> None:
    lacking = sorted(first.shapes.keys() ^ other.shapes.keys())
    if lacking:
        owner = first if lacking[0] in first.shapes else other
        raise IncompatibleExpert(
            f"{first.folder} and {other.folder} do not hold the same tensors: {lacking[0]!r} and {len(lacking) - 1} "
            f"more are in one alone ({owner.folder})."
        )
    for name, shape in first.shapes.items():
        if other.shapes[name] != shape:
            raise IncompatibleExpert(
                f"tensor {name!r} is {list(shape)} in {first.folder} and {list(other.shapes[name])} in {other.folder}."
            )
    configs = [hash_config(read_json(each.folder / "config.json")) for each in (first, other)]
    if configs[0] != configs[1]:
        raise IncompatibleExpert(f"{first.folder} and {other.folder} are of different architecture (config.json).")
    texts = [each.folder / _TOKENIZER for each in (first, other)]
    if all(each.is_file() for each in texts) and texts[0].read_bytes() != texts[1].read_bytes():
        raise IncompatibleExpert(f"{first.folder} and {other.folder} have different tokenizers ({_TOKENIZER}).")


def _planned(opened: _Opened, out: Path) -> MergedModel:
    sizes = [torch.Size(shape).numel() for shape in opened.first.shapes.values()]
    working = 4 * (2 * max(sizes, default=0) + 4 * _PIECE * (1 + len(opened.models)))
    return MergedModel(out, len(sizes), sum(sizes), opened.dtype.itemsize * sum(sizes), working)


def _merged(recipe: MergeRecipe, opened: _Opened, progress: Callable[[int], None]) -> Iterator[Tensor]:
    """Return the merged tensors, piece by piece."""
    done = 0
    for name in opened.first.shapes:
        tensors = [each.tensor(name).view(-1) for each in opened.models]
        base = None if opened.base is None else opened.base.tensor(name).view(-1)
        if not opened.first.tensor(name).is_floating_point():
            raise IncompatibleExpert(f"tensor {name!r} holds {opened.first.dtype(name)}; only weights can be merged.")
        for part in _merged_tensor(recipe, name, base, tensors):
            if not bool(part.isfinite().all()):
                raise CorruptExpert(_culprit(name, opened))
            done += opened.dtype.itemsize * part.numel()
            yield part.to(opened.dtype)
        progress(done)


def _culprit(name: str, opened: _Opened) -> str:
    for each in (opened.base, *opened.models):
        if each is not None and not bool(each.tensor(name).isfinite().all()):
            return f"{each.folder}: tensor {name!r} holds NaN or infinity; get the model again."
    return f"tensor {name!r} overflows in the merge; use smaller weights."


def _merged_tensor(
    recipe: MergeRecipe, name: str, base: Tensor | None, tensors: Sequence[Tensor]
) -> Iterator[Float[Tensor, " some"]]:
    """Return one merged tensor in pieces, float32."""
    weights = [each.weight for each in recipe.changes]
    densities = [each.density for each in recipe.changes]
    total = math.fsum(weights) if recipe.normalized else 1.0
    shares = [weight / total for weight in weights]
    least = [0.0] * len(tensors)
    if recipe.method == "ties":
        assert base is not None
        least = [
            least_kept((each.float() - base.float()).abs_(), density) if density < 1 else 0.0
            for each, density in zip(tensors, densities, strict=True)
        ]
    draws = [generator(recipe.seed, "dare", str(place), name) for place in range(len(tensors))]
    for span in pieces(tensors[0].numel(), _PIECE):
        if base is None:
            yield _weighted([each[span] for each in tensors], shares)
            continue
        own = base[span].float()
        changes = [each[span].float() - own for each in tensors]
        if recipe.method == "ties":
            for change, limit in zip(changes, least, strict=True):
                change.masked_fill_(change.abs() < limit, 0.0)
        if recipe.method.startswith("dare"):
            changes = [
                dropped(change, density, generator=draw)
                for change, density, draw in zip(changes, densities, draws, strict=True)
            ]
        if recipe.method.endswith("ties"):
            yield own + agreeing(changes, weights, disjoint_mean=recipe.normalized)
        else:
            yield own + _weighted(changes, shares)


def _weighted(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    if len(tensors) == 1 and weights[0] == 1.0:
        return tensors[0].float()
    out = tensors[0].float() * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        out.add_(tensor.float(), alpha=weight)
    return out
