"""What an engine is told and what it says."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from collegium.core.errors import ConfigError
from collegium.infer.writing import Generation


@dataclass(frozen=True)
class EngineLimits:
    """How much an engine runs at once; what does not fit waits, what could never fit is refused."""

    rows: int = 64
    """Rows of all requests together: a blend costs one, an ensemble one per expert that may speak."""
    cache_tokens: int = 65_536
    """Cached positions of all rows together, each counted as long as the longest text may become."""
    waiting: int = 1_024
    """Requests that wait for a place."""
    prompt_tokens: int = 256
    """Prompt tokens that one step reads while others are being continued; alone, prompts are read whole."""

    def __post_init__(self) -> None:
        """Report every impossible value at once."""
        wrong = [
            f"{each.name} must be at least 1, got {getattr(self, each.name)}."
            for each in fields(self)
            if getattr(self, each.name) < 1
        ]
        if wrong:
            raise ConfigError(" ".join(wrong))


@dataclass
class EngineStats:
    """What an engine has done so far.

    prompt_tokens: of the requests whose prompts have been read; read_tokens: what was read of prompts in all. They are
                   equal as nothing is read twice. deciding_tokens: read beforehand, by routers that weigh likelihoods
                   to decide a blend. new_tokens: read back after they were drawn.
    forwards:      of the base, `mixed` of the steps had prompts and new tokens in them.
    """

    steps: int = 0
    forwards: int = 0
    mixed: int = 0
    prompt_tokens: int = 0
    read_tokens: int = 0
    deciding_tokens: int = 0
    new_tokens: int = 0
    finished: int = 0
    cancelled: int = 0
    most_rows: int = 0


@dataclass(frozen=True)
class Said:
    """A token of a request, and its log-probability before sampling settings bend it.

    text: what it has settled of the text, possibly nothing. shares: each expert's share in it, empty for one voice.
    """

    request: int
    token: int
    log_prob: float
    text: str
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """A request's end, with the whole of what was written."""

    request: int
    generation: Generation


Event = Said | Finished
"""What a step tells."""
