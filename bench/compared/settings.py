"""What both sides are told alike: no line of either answers for these, so they are counted for neither."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How adapters are trained, and how text is read.

    layers:   adapters sit in the top so many blocks.
    warmup:   share of the steps in which the learning rate grows; a cosine to a tenth of its peak follows.
    context:  leading tokens of a window, which the router may read and no perplexity counts.
    snippets: stretches of each domain's training texts that a router of the peer's is fitted on.
    """

    rank: int = 16
    alpha: float = 32.0
    layers: int = 10
    steps: int = 48
    batch: int = 4
    window: int = 128
    learning_rate: float = 1e-3
    warmup: float = 0.08
    weight_decay: float = 0.01
    evaluate_every: int = 24
    dev_tokens: int = 1024
    context: int = 32
    snippets: int = 2000
    seed: int = 0
    dtype: str = "float32"
    threads: int = 2
