"""Judging generated answers on prompt/completion rows: exact match, word F1, or a user's own function."""

import importlib
import math
import re
import string
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from collegium.core.errors import ConfigError
from collegium.core.protocols import LanguageModel, context_limit
from collegium.data import Document
from collegium.infer.generate import Sampling, encode_prompt, generate, room
from collegium.ops.intervals import bootstrap_interval
from collegium.train import check_rules

Metric = Callable[[str, str], float]
"""Given the answer and the reference, a number; higher is better."""


@dataclass(frozen=True)
class AnswerConfig:
    """Judging generated answers on prompt/completion rows."""

    answers: bool = True
    """On prompt/completion rows, generate an answer to each prompt and report exact match and word F1."""
    metric: str = ""
    """A function of (answer, reference) as module:function; needs --allow-code."""
    allow_code: bool = False
    """Allow --metric to import and run that module."""
    answer_tokens: int = 48
    """At most this many tokens an answer."""
    answer_rows: int = 32
    """At most this many rows a domain are answered."""

    def __post_init__(self) -> None:
        """Raise ConfigError with every setting out of its bounds."""
        rules = [
            ("answer_tokens", self.answer_tokens, self.answer_tokens >= 1, "is at least 1"),
            ("answer_rows", self.answer_rows, self.answer_rows >= 1, "is at least 1"),
        ]
        check_rules(rules, what="settings of the answers")


def normalise(text: str) -> str:
    """Return a text as answers are compared: lower case, without punctuation, articles and extra spaces.

    >>> normalise("The  Cat!")
    'cat'
    """
    plain = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(word for word in plain.split() if word not in {"a", "an", "the"})


def exact_match(answer: str, reference: str) -> float:
    """Return 1 when answer and reference are the same after `normalise`, else 0."""
    return float(normalise(answer) == normalise(reference))


def word_f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of word precision and recall.

    >>> round(word_f1("red cat", "cat"), 3)
    0.667
    """
    said, wanted = normalise(answer).split(), normalise(reference).split()
    shared = sum((Counter(said) & Counter(wanted)).values())
    if not said or not wanted:
        return float(said == wanted)
    return 0.0 if shared == 0 else 2 * shared / (len(said) + len(wanted))


def load_metric(name: str, *, allow_code: bool) -> Metric:
    """Return the function that `module:function` names.

    Raises ConfigError unless `allow_code`, and when there is no such function.
    """
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", name):
        raise ConfigError(f"--metric is module:function, got {name!r}.")
    if not allow_code:
        raise ConfigError(f"--metric {name} runs code from your machine: add --allow-code if you trust it.")
    module, function = name.split(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a user's own module lies in the working directory
    try:
        return getattr(importlib.import_module(module), function)
    except Exception as error:  # the user's own code may raise anything
        raise ConfigError(f"--metric {name} cannot be imported: {type(error).__name__}: {error}.") from error


def check_metric(config: AnswerConfig) -> None:
    """Raise ConfigError when `--metric` cannot be used, before anything is computed."""
    if config.metric:
        load_metric(config.metric, allow_code=config.allow_code)


def judge_answers(
    model: LanguageModel, documents: Mapping[str, Sequence[Document]], config: AnswerConfig, *, seed: int
) -> dict[str, Any]:
    """Return, for each domain of prompt/completion rows, each metric's mean and 95 % interval; empty unless asked.

    rows: how many were answered. too_long: how many were not, because their prompt fills all that the model reads.
    """
    if not config.answers and not config.metric:
        return {}
    metrics: dict[str, Metric] = {"exact_match": exact_match, "f1": word_f1}
    if config.metric:
        metrics[config.metric] = load_metric(config.metric, allow_code=config.allow_code)
    found = {}
    for domain, every in documents.items():
        rows = [each for each in every if each.kind == "pair"][: config.answer_rows]
        if rows:
            found[domain] = _judge(model, rows, metrics, config, seed=seed)
    return found


def _value(name: str, metric: Metric, answer: str, reference: str) -> float:
    try:
        value = float(metric(answer, reference))
    except Exception as error:  # the user's own code may raise anything
        raise ConfigError(f"--metric {name} failed on an answer: {type(error).__name__}: {error}.") from error
    if not math.isfinite(value):
        raise ConfigError(f"--metric {name} gives a finite number for each answer, got {value} for {answer!r:.60}.")
    return value


def _judge(
    model: LanguageModel, rows: list[Document], metrics: Mapping[str, Metric], config: AnswerConfig, *, seed: int
) -> dict[str, Any]:
    sampling, limit = Sampling(tokens=config.answer_tokens, temperature=0.0), context_limit(model)
    asked = [(encode_prompt(row.prompt or "", model.tokenizer), row.completion or "") for row in rows]
    asked = [(prompt, reference) for prompt, reference in asked if room(prompt, sampling.tokens, limit) > 0]
    answers = []
    for start in range(0, len(asked), 8):
        prompts = [prompt for prompt, _ in asked[start : start + 8]]
        answers += [generation.text for generation in generate(model, prompts, sampling=sampling, seed=seed)]
    result: dict[str, Any] = {"rows": len(asked), "too_long": len(rows) - len(asked)}
    for name, metric in metrics.items() if asked else ():
        pairs = zip(answers, asked, strict=True)
        values = torch.tensor([_value(name, metric, answer, reference) for answer, (_, reference) in pairs])
        bounds = bootstrap_interval(values)
        result[name] = {
            "mean": float(values.mean()),
            "interval": [bounds.low, bounds.high] if len(asked) > 1 else None,
        }
    return result
