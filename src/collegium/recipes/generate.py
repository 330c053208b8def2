"""`generate`: go on from a prompt, saying who spoke."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tyro.conf import OmitArgPrefixes, Positional

from collegium.compose import TaskMixture
from collegium.core.errors import ConfigError
from collegium.core.protocols import LanguageModel
from collegium.infer import Generation, Sampling, chat_prompt, generate
from collegium.infer.generate import Stream, encode_prompt
from collegium.recipes.common import Common
from collegium.recipes.opening import Opened, open_reference
from collegium.recipes.run_card import RunCard, make_card
from collegium.recipes.watch import Watch


@dataclass(frozen=True)
class GenerateConfig:
    """Go on from a prompt, and say which experts spoke."""

    prompt: Positional[str]
    """The text to go on from; `-` reads it from standard input."""
    model: str = "smollm2-135m"
    """A base, LIB, LIB?router=posterior&compose=ensemble, or LIB#NAME."""
    experts: str = ""
    """Fixed weights in place of the library's router: a=.7,b=.3 (what is missing to 1 goes to the base); with
    compose=merge any."""
    task: str = ""
    """Of a model of many tasks (`multitask fit`): the task, in place of what the prompt looks like."""
    chat: bool = False
    """Take the prompt as a user's message, in the base's chat template."""
    sampling: OmitArgPrefixes[Sampling] = field(default_factory=Sampling)
    """How the next token is drawn."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def parse_weights(text: str, *, flag: str = "--experts") -> dict[str, float] | None:
    """Return expert weights written as a=.7,b=.3; None for an empty text.

    >>> parse_weights("a=.7,b=.3")
    {'a': 0.7, 'b': 0.3}
    """
    if not text:
        return None
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        name = name.strip()
        if name in weights:
            raise ConfigError(f"{flag} weighs each expert once; {name!r} comes twice.")
        try:
            weights[name] = float(number)
        except ValueError:
            raise ConfigError(f"{flag} is NAME=WEIGHT,...; cannot read {part!r}.") from None
    return weights


def run(config: GenerateConfig, *, watch: Watch, stream: Stream | None = None) -> RunCard:
    """Return the run's card; its result holds the text and each expert's share in it."""
    start = time.perf_counter()
    opened = open_reference(config.model, config.common, watch=watch, weights=parse_weights(config.experts))
    prompt = sys.stdin.read() if config.prompt == "-" else config.prompt
    asked = [chat_prompt([{"role": "user", "content": prompt}], opened.base.tokenizer)] if config.chat else [prompt]
    model = of_task(opened.model, config.task)
    found = generate(model, asked, sampling=config.sampling, seed=config.common.seed, stream=stream)[0]
    if found.ended == "length" and len(found.tokens) < config.sampling.tokens:
        watch.say(f"stopped after {len(found.tokens)} tokens: this model reads no further")
    seconds = time.perf_counter() - start
    result = describe(found, prompt, opened, seconds)
    if isinstance(model, TaskMixture):
        result["task"] = told_task(model, asked[0])
    return make_card("generate", config, result, seconds)


def of_task(model: LanguageModel, task: str) -> LanguageModel:
    """Return a model of one of the tasks it has learnt; raises ConfigError for a model that knows no tasks."""
    if not task:
        return model
    if not isinstance(model, TaskMixture):
        raise ConfigError(f"--task is for a model of many tasks (`multitask fit`), got {task!r} for another.")
    return model.given(task)


def told_task(model: TaskMixture, prompt: str | Sequence[int]) -> dict[str, Any]:
    """Return which task a prompt is of, and how sure that is; of a task that was given, no probability."""
    if model.task is not None:
        return {"name": model.task, "probability": None}
    said = model.task_log_probs(torch.tensor([encode_prompt(prompt, model.tokenizer)]))[0].exp()
    return {"name": model.experts[int(said.argmax())], "probability": round(float(said.max()), 6)}


def describe(found: Generation, prompt: str, opened: Opened, seconds: float) -> dict[str, Any]:
    """Return a generation as plain values."""
    speakers: Mapping[str, float] = found.speakers
    return {
        "prompt": prompt,
        "text": found.text,
        "tokens": len(found.tokens),
        "token_ids": list(found.tokens),
        "log_prob_nats": found.log_prob,
        "ended": found.ended,
        "speakers": {name: round(share, 6) for name, share in speakers.items()},
        "composition": opened.way.label if opened.way else "single",
        "seconds": round(seconds, 3),
    }
