"""Voices and models that note what they are asked for, so that claims about cost are counted and not assumed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose import Choice, Voices
from collegium.compose.voices import VoicesDecoding
from collegium.core.protocols import Decoding, LanguageModel, Tokenizer


@dataclass
class CountingVoices:
    """Voices that note how many rows a text was given each time they were asked."""

    voices: Voices
    asked: list[int] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        """The voices' names."""
        return self.voices.names

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The voices' tokenizer."""
        return self.voices.tokenizer

    @property
    def vocab_size(self) -> int:
        """The voices' vocabulary."""
        return self.voices.vocab_size

    def score(
        self,
        tokens: Int[Tensor, "batch seq"],
        choice: Choice,
        *,
        lengths: Int[Tensor, " batch"] | None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq row"]:
        """Return the voices' scores."""
        self.asked.append(choice.rows)
        return self.voices.score(tokens, choice, lengths=lengths, context=context)

    def logprobs(
        self,
        tokens: Int[Tensor, "batch seq"],
        choice: Choice,
        *,
        lengths: Int[Tensor, " batch"] | None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "row batch seq vocab"]:
        """Return the voices' distributions."""
        self.asked.append(choice.rows)
        return self.voices.logprobs(tokens, choice, lengths=lengths, context=context)

    def open(self, prompts: Sequence[Sequence[int]], choice: Choice) -> VoicesDecoding:
        """Return the voices' decoding."""
        self.asked.append(choice.rows)
        return self.voices.open(prompts, choice)


@dataclass
class CountingModel:
    """A language model that notes how many texts it was asked to read."""

    model: LanguageModel
    texts: int = 0

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer."""
        return self.model.tokenizer

    @property
    def vocab_size(self) -> int:
        """The model's vocabulary."""
        return self.model.vocab_size

    def logprobs(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Return the model's distributions."""
        self.texts += len(tokens)
        return self.model.logprobs(tokens, lengths=lengths, context=context)

    def score(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq"]:
        """Return the model's scores."""
        self.texts += len(tokens)
        return self.model.score(tokens, lengths=lengths, context=context)

    def open(self, prompts: Sequence[Sequence[int]]) -> Decoding:
        """Return the model's decoding."""
        self.texts += len(prompts)
        return self.model.open(prompts)
