"""What the parts promise to each other; interfaces are for orientation, nothing is inherited."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.routing import Routing
from collegium.core.samples import Sample


@runtime_checkable
class Tokenizer(Protocol):
    """The part of a transformers tokenizer that Collegium uses."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text."""
        ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of token ids."""
        ...


@runtime_checkable
class Decoding(Protocol):
    """Texts being continued token by token; holds caches, one per row of the model."""

    @property
    def routing(self) -> Routing | None:
        """The routing with which the next token is predicted (seq axis of size one); None for a plain model."""
        ...

    def next_logprobs(self) -> Float[Tensor, "batch vocab"]:
        """Return the log-probabilities of the token that follows each text."""
        ...

    def shares(self, tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch expert"] | None:
        """Return who would have spoken these next tokens: weight times probability, normalised; None for one voice."""
        ...

    def step(self, tokens: Int[Tensor, " batch"]) -> None:
        """Append one token to every text."""
        ...

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these texts alone."""
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """Anything that gives a distribution over the next token: a base, an expert on it, a composed model.

    tokens are right-padded; `lengths` says how far each row goes (default: all the way); `context` (int or one per
    row, at least 1) is how many leading tokens a coarse router may read before it decides. Tokens may lie on any
    device; what is returned lies on the model's own. A model that reads only so many tokens has an attribute
    `context_tokens` that says how many; see `context_limit`.
    """

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, or None for a base that serves token ids."""
        ...

    @property
    def vocab_size(self) -> int:
        """The size of the vocab axis."""
        ...

    def logprobs(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Return log p(next token | tokens up to here) at every position: the exact reference."""
        ...

    def score(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq"]:
        """Return each token's log-probability given those before it; 0 for i < context and for padding."""
        ...

    def open(self, prompts: Sequence[Sequence[int]]) -> Decoding:
        """Return a decoding that continues the prompts (token ids, each with at least one)."""
        ...


def context_limit(*readers: object) -> int | None:
    """Return the longest text that all of these models or voices read, None when none of them says."""
    limits = [getattr(reader, "context_tokens", None) for reader in readers]
    return min((limit for limit in limits if limit is not None), default=None)


@dataclass(frozen=True)
class Context:
    """What a router may read before the first weight is needed.

    tokens, lengths: the context's token ids, right-padded.
    texts:   the same as text, None when the base has no tokenizer.
    domains: the true domain of each text, given by `eval` and `compare` to the oracle alone.
    """

    tokens: Int[Tensor, "batch seq"]
    lengths: Int[Tensor, " batch"]
    texts: tuple[str, ...] | None = None
    domains: tuple[str, ...] | None = None

    @property
    def batch(self) -> int:
        """How many texts."""
        return self.tokens.shape[0]


@runtime_checkable
class Feature(Protocol):
    """Gives each sample a number: a reward model, a classifier's probability, whether a word stands in it."""

    @property
    def name(self) -> str:
        """What reports and targets call it."""
        ...

    def __call__(self, samples: Sequence[Sample]) -> Float[Tensor, " sample"]:
        """Return a value for each sample, in their order, float32."""
        ...


RouterState = Any
"""A tree of values, never changed in place: tensors are batch-first, a list has one entry per text, tuples nest."""


@runtime_checkable
class PrefixRouter(Protocol):
    """Sees text and, where it needs them, each expert's running likelihoods; never looks ahead.

    `step(state, tokens, log_likelihoods)` reads n more tokens of every text and returns weights
    `Float["batch n k"]` (or `batch 1 k` from a coarse router, which decided in `start`): the weights after token i,
    used to predict token i + 1. `log_likelihoods[b, i, e]` is expert e's log-probability of `tokens[b, i]` given
    those before, in the order of `experts`, and 0 for the first token of a text. A negative token is padding: it
    moves nothing and its weights are those before it. Reading n tokens at once or one by one is the same.
    """

    @property
    def experts(self) -> tuple[str, ...]:
        """The names its weights and likelihoods are in order of."""
        ...

    @property
    def needs_likelihoods(self) -> bool:
        """Whether `step` must be given `log_likelihoods`."""
        ...

    @property
    def growth(self) -> Literal["exact", "refit"]:
        """Whether experts come and go without a new fit."""
        ...

    def start(self, context: Context) -> RouterState:
        """Return the state before the first token, having read the context."""
        ...

    def step(
        self,
        state: RouterState,
        tokens: Int[Tensor, "batch seq"],
        log_likelihoods: Float[Tensor, "batch seq expert"] | None,
    ) -> tuple[Routing, RouterState]:
        """Return the routing after each of these tokens, and the new state."""
        ...


RouterChange = Callable[[dict[str, Tensor], dict[str, Any]], tuple[Mapping[str, Tensor], Mapping[str, Any]]]
"""Given a fit's tensors and card, returns the new ones; writes nothing itself."""


@runtime_checkable
class Shelf(Protocol):
    """Where fitted routers lie: tensors and a card under a name (a library's `routers/` folder)."""

    def expert_digest(self, name: str) -> str | None:
        """Return the checksum of an expert's payload, by which a row fitted for another of its name is told apart."""
        ...

    def load_router(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the card; raises UnknownName."""
        ...

    def save_router(self, name: str, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
        """Write both, whole or not at all; replaces an earlier fit."""
        ...

    def update_router(self, name: str, change: RouterChange) -> None:
        """Write what `change` makes of both, alone from the look to the writing; raises UnknownName."""
        ...


@runtime_checkable
class RouterRecipe(Protocol):
    """A router before it knows its experts: a frozen dataclass, as made by `collegium.routers.posterior()`."""

    @property
    def name(self) -> str:
        """Its row in the table `ROUTERS`."""
        ...

    def bind(
        self, experts: tuple[str, ...], *, shelf: Shelf | None = None, tokenizer: Tokenizer | None = None
    ) -> PrefixRouter:
        """Return the router over these experts; raises RoutingError when it was never fitted or is stale."""
        ...


@runtime_checkable
class Gate(Protocol):
    """A small module inside a slot: who speaks at one linear layer, from that layer's own input.

    It looks at one position at a time. Fitted parts are tensors of a library's shelf, like any router's.
    """

    def __call__(
        self, hidden: Float[Tensor, "*tokens hidden"]
    ) -> tuple[Float[Tensor, "*tokens k"], Int[Tensor, "*tokens k"] | None]:
        """Return weights, and which experts they are for (positions in the gates' experts); None = all, in order."""
        ...
