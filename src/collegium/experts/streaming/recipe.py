"""Recipes of whole-model merges, read from and written as the part of mergekit's YAML that says the same.

    merge_method: ties
    base_model: ./base
    models:
      - model: ./law
        parameters: {weight: 0.6, density: 0.5}
      - model: ./code
    parameters: {normalize: true}
    dtype: bfloat16

Methods: `linear`, `task_arithmetic`, `ties`, `dare_linear`, `dare_ties`. What else mergekit knows (layer ranges,
weights per layer, tokenizer surgery) is refused by name.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from collegium.core.errors import ConfigError
from collegium.core.tables import nearest

MergeMethod = Literal["linear", "task_arithmetic", "ties", "dare_linear", "dare_ties"]
NORMALIZED: Mapping[str, bool] = {
    "linear": True,
    "task_arithmetic": False,
    "ties": True,
    "dare_linear": False,
    "dare_ties": True,
}
"""Whether a method's weights are divided by their sum unless told otherwise; as mergekit has it."""

_KEYS = ("merge_method", "models", "base_model", "parameters", "dtype")
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class MergeSource:
    """A model that takes part: its folder, its weight, and the share of its changes kept (ties and dare)."""

    model: str
    weight: float = 1.0
    density: float = 1.0


@dataclass(frozen=True)
class MergeRecipe:
    """How whole models become one.

    normalize: divide by the sum of weights; None = the method's own way. dtype: of the result; None = the first
    model's (with a base: the base's). seed: of what `dare` drops.

    Raises ConfigError with everything that is out of bounds.
    """

    method: MergeMethod
    models: tuple[MergeSource, ...]
    base_model: str | None = None
    normalize: bool | None = None
    dtype: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        problems = []
        if not self.changes:
            problems.append("a merge has at least one model beside its base")
        if self.method != "linear" and not self.base_model:
            problems.append(f"{self.method} merges changes of a base: say base_model")
        for source in self.models:
            if not math.isfinite(source.weight):
                problems.append(f"the weight of {source.model!r} is a finite number, got {source.weight}")
            if not 0 < source.density <= 1:
                problems.append(f"the density of {source.model!r} is above 0 and at most 1, got {source.density}")
        if self.dtype is not None and self.dtype not in _DTYPES:
            problems.append(f"dtype is one of {', '.join(_DTYPES)}, got {self.dtype!r}")
        if not problems and self.normalized and math.fsum(each.weight for each in self.changes) == 0:
            problems.append("weights that sum to zero cannot be normalised: set normalize: false")
        if problems:
            raise ConfigError("the merge recipe: " + "; ".join(problems) + ".")

    @property
    def changes(self) -> tuple[MergeSource, ...]:
        """The models whose weights are merged; the base among them says nothing new where changes are merged."""
        return tuple(each for each in self.models if self.method == "linear" or each.model != self.base_model)

    @property
    def normalized(self) -> bool:
        """Whether weights are divided by their sum."""
        return NORMALIZED[self.method] if self.normalize is None else self.normalize


def read_recipe(text: str) -> MergeRecipe:
    """Return the recipe that YAML text holds; raises ConfigError, naming what it cannot do.

    >>> read_recipe("merge_method: linear\\nmodels: [{model: a}, {model: b}]").method
    'linear'
    """
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the merge recipe is not YAML: {error}.") from error
    if not isinstance(found, dict) or not isinstance(found.get("models"), list) or "merge_method" not in found:
        raise ConfigError("a merge recipe says merge_method and models, a list; see the page on merging.")
    _known(found, _KEYS, where="the merge recipe")
    common = _parameters(found.get("parameters"), ("weight", "density", "normalize", "seed"), where="parameters")
    normalize, seed = common.pop("normalize", None), common.pop("seed", 0)
    if not isinstance(normalize, bool | None) or not isinstance(seed, int):
        raise ConfigError(f"normalize is true or false and seed a whole number, got {normalize!r} and {seed!r}.")
    models = tuple(_source(each, common) for each in found["models"])
    base, dtype = found.get("base_model"), found.get("dtype")
    return MergeRecipe(
        _method(found["merge_method"]), models, None if base is None else str(base), normalize, dtype, seed
    )


def write_recipe(recipe: MergeRecipe) -> str:
    """Return a recipe as YAML; `read_recipe` gives it back.

    >>> read_recipe(write_recipe(MergeRecipe("linear", (MergeSource("a", 0.5),)))).models[0].weight
    0.5
    """
    import yaml

    dropping = recipe.method not in ("linear", "task_arithmetic")
    models = [
        {"model": each.model, "parameters": {"weight": each.weight, **({"density": each.density} if dropping else {})}}
        for each in recipe.models
    ]
    drawn = {"seed": recipe.seed} if recipe.method.startswith("dare") and recipe.seed else {}
    found: dict[str, Any] = {"merge_method": recipe.method, "models": models}
    if recipe.base_model is not None:
        found["base_model"] = recipe.base_model
    found["parameters"] = {"normalize": recipe.normalized, **drawn}
    if recipe.dtype is not None:
        found["dtype"] = recipe.dtype
    return yaml.safe_dump(found, sort_keys=False)


def _method(name: object) -> MergeMethod:
    for known in get_args(MergeMethod):
        if name == known:
            return known
    raise ConfigError(f"the merge recipe: unknown merge_method {name!r}. {nearest(str(name), get_args(MergeMethod))}")


def _source(entry: object, common: Mapping[str, float]) -> MergeSource:
    if not isinstance(entry, dict) or not isinstance(entry.get("model"), str):
        raise ConfigError(f"each of the recipe's models is `model: FOLDER` with parameters, got {entry!r}.")
    _known(entry, ("model", "parameters"), where=f"model {entry['model']!r}")
    own = _parameters(entry.get("parameters"), ("weight", "density"), where=f"model {entry['model']!r}")
    return MergeSource(entry["model"], **{**common, **own})


def _parameters(found: object, known: tuple[str, ...], *, where: str) -> dict[str, Any]:
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{where}: parameters are a table of names and values, got {found!r}.")
    _known(found, known, where=where)
    odd = {
        key: value
        for key, value in found.items()
        if key in ("weight", "density") and (isinstance(value, bool) or not isinstance(value, int | float))
    }
    if odd:
        raise ConfigError(f"{where}: {odd} must be one number each; weights per layer or module are not supported.")
    return {key: float(value) if key in ("weight", "density") else value for key, value in found.items()}


def _known(found: Mapping[Any, object], known: tuple[str, ...], *, where: str) -> None:
    for key in found:
        if key not in known:
            raise ConfigError(f"{where}: {key!r} is not supported. {nearest(str(key), known)}")
