"""Features that are learnt or read from files: labels, lexicons, reward models, functions of the user's own."""

import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.align.features import TextFeature, quoted, words_of
from collegium.core.errors import ConfigError, DataError
from collegium.core.protocols import Feature
from collegium.core.samples import Sample, plain_text
from collegium.core.tables import nearest
from collegium.data.labelled import read_labelled


@dataclass(frozen=True)
class LabelFeature:
    """Whether a completion is of a label (1 or 0), or how likely it is, by tf-idf and logistic regression.

    model: predicts labels of texts. place: of the label among its classes.
    """

    name: str
    model: Any = field(compare=False)
    place: int
    hard: bool

    def __call__(self, samples: Sequence[Sample]) -> Float[Tensor, " sample"]:
        """Return each completion's number."""
        if not samples:
            return torch.zeros(0)
        found = torch.tensor(self.model.predict_proba([plain_text(each.completion) for each in samples]))
        return (found.argmax(1) == self.place).double() if self.hard else found[:, self.place]


def classifier(data: str, label: str) -> LabelFeature:
    """Return 1 where a completion's likeliest label is this one, of those in a file of rows text and label, else 0."""
    return _label(data, label, hard=True)


def probability(data: str, label: str) -> LabelFeature:
    """Return the probability of a label, of those in a file of rows with text and label."""
    return _label(data, label, hard=False)


def _label(data: str, label: str, *, hard: bool) -> LabelFeature:
    model = _learnt(data, Path(data).stat().st_mtime_ns if Path(data).is_file() else 0)
    labels = list(model.classes_)
    if label not in labels:
        raise ConfigError(f"{data} has no label {label!r}. {nearest(label, labels)}")
    kind = "classifier" if hard else "probability"
    return LabelFeature(f"{kind}({quoted(data)}, {quoted(label)})", model, labels.index(label), hard)


@functools.lru_cache(maxsize=4)
def _learnt(data: str, changed: int) -> Any:  # noqa: ANN401 - scikit-learn's pipeline
    """Return what predicts a file's labels, fitted once for all of them. changed: when the file was written."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    del changed
    task, *others = read_labelled(data)
    if others:
        names = ", ".join(each.name for each in (task, *others))
        raise ConfigError(f"{data} holds the tasks {names}; name the file of one.")
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2), LogisticRegression(C=10.0, max_iter=1000)
    )
    return model.fit([row.text for row in task.train], [row.label for row in task.train])


def lexicon(path: str) -> TextFeature:
    """Return the mean weight of a completion's words by a file of lines `word<TAB>weight`; 0 where none is in it."""
    weights: dict[str, float] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is read as UTF-8 lines of a word, a tab and a weight: {error}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        word, _, weight = line.partition("\t")
        try:
            weights[" ".join(words_of(word))] = float(weight)
        except ValueError:
            raise DataError(f"{path}, line {number}: a word, a tab and a number are expected, got {line!r}.") from None
    if not weights:
        raise DataError(f"{path} has no word with a weight.")

    def judge(text: str) -> float:
        known = [weights[word] for word in words_of(text) if word in weights]
        return sum(known) / len(known) if known else 0.0

    return TextFeature(f"lexicon({quoted(path)})", judge)


@dataclass(frozen=True)
class RewardFeature:
    """A reward model as a feature of what a policy says, which may be nothing.

    A judge reads one token of an answer at least. A text that ends at once is judged as a blank: a number of its own
    would be worth reaching, or never worth trying.
    """

    name: str
    model: Feature = field(compare=False)

    def __call__(self, samples: Sequence[Sample]) -> Float[Tensor, " sample"]:
        """Return each completion's reward."""
        return self.model([each if each.completion else replace(each, completion=" ") for each in samples])


Function = Callable[[list[str], list[str]], Sequence[float]]


@dataclass(frozen=True)
class FunctionFeature:
    """A function of the user's own: f(prompts, completions) -> a number for each."""

    name: str
    function: Function = field(compare=False)

    def __call__(self, samples: Sequence[Sample]) -> Float[Tensor, " sample"]:
        """Return each completion's number."""
        prompts = [plain_text(each.prompt) for each in samples]
        return torch.tensor(self.function(prompts, [plain_text(each.completion) for each in samples])).double()


def python(place: str) -> FunctionFeature:
    """Return a feature of the user's own, `module:function`, found where Python finds modules; its code is run."""
    module, mark, name = place.partition(":")
    if not mark or not module or not name:
        raise ConfigError(f"a function is named module:function, got {place!r}.")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ConfigError(f"{place!r} cannot be imported: {error}. Run where Python finds the module.") from error
    if not callable(function):
        raise ConfigError(f"{place!r} is no function, but a {type(function).__name__}.")
    return FunctionFeature(f"python({quoted(place)})", cast("Function", function))
