"""How the next token is drawn: transformers' own logits processors."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collegium.core.errors import ConfigError

if TYPE_CHECKING:
    from transformers import LogitsProcessorList

_COLDEST = 1e-4
"""Below this temperature, scores divided by it are no longer finite."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn."""

    tokens: int = 100
    """At most this many new tokens."""
    temperature: float = 0.8
    """Above 1 is bolder, below 1 safer; 0 takes the likeliest token."""
    top_k: int = 0
    """Draw among this many likeliest tokens; 0 = all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this probability."""
    repetition_penalty: float = 1.0
    """Above 1 makes what was said less likely."""
    stop: tuple[str, ...] = ()
    """Strings that end a text; cut off with all that follows."""

    def __post_init__(self) -> None:
        """Report every impossible value at once."""
        wrong = [
            message
            for bad, message in (
                (self.tokens < 1, f"--tokens must be at least 1, got {self.tokens}."),
                (
                    self.temperature != 0 and not _COLDEST <= self.temperature < math.inf,
                    f"--temperature must be 0 (greedy), or {_COLDEST:g} or more, got {self.temperature}.",
                ),
                (self.top_k < 0, f"--top-k must be 0 (all) or more, got {self.top_k}."),
                (not 0 < self.top_p <= 1, f"--top-p lies in (0, 1], got {self.top_p}."),
                (
                    not 0 < self.repetition_penalty < math.inf,
                    f"--repetition-penalty is a number above 0, got {self.repetition_penalty}.",
                ),
                (
                    isinstance(self.stop, str) or not all(self.stop),
                    f"--stop takes strings of at least one character, each by itself, got {self.stop!r}.",
                ),
            )
            if bad
        ]
        if wrong:
            raise ConfigError(" ".join(wrong))


def processors(sampling: Sampling) -> "LogitsProcessorList":
    """Return the chain of transformers' logits processors that a sampling stands for."""
    from transformers import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    chain = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(penalty=float(sampling.repetition_penalty)))
    if sampling.temperature not in {0, 1}:
        chain.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        chain.append(TopKLogitsWarper(top_k=sampling.top_k))
    if sampling.top_p < 1:
        chain.append(TopPLogitsWarper(top_p=float(sampling.top_p)))
    return chain
