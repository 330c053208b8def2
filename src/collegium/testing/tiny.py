"""Language models small enough to enumerate: the oracle for everything that sums over texts."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.protocols import Tokenizer
from collegium.core.randomness import generator
from collegium.core.routing import Routing


@dataclass(frozen=True)
class LetterTokenizer:
    """Token ids are places in an alphabet; characters outside it are dropped."""

    alphabet: str = "\nabcdefghijklmnopqrstuvwxyz ."

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text.

        >>> LetterTokenizer().encode("ab!")
        [1, 2]
        """
        return [self.alphabet.index(letter) for letter in text if letter in self.alphabet]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of token ids."""
        return "".join(self.alphabet[token] for token in token_ids)


@dataclass(frozen=True)
class TinyLM:
    """A language model that is a table: one row of logits per history of `order` tokens. Is a `LanguageModel`.

    A text begins with the token `start` (given, never predicted) and ends with its first `eos`, or when it is cut at
    a length. Before its beginning stands `start`. With `order` as long as the texts the table holds any distribution
    over texts whatever; with order 1 it is a bigram model. Gradients flow into `logits`.

    logits: row `h_1 V^(n-1) + ... + h_n` is for the history `h_1 ... h_n`, n = order, V = vocab.
    eos:    None = a text never ends by itself.
    """

    logits: Float[Tensor, "history vocab"]
    order: int = 1
    start: int = 0
    eos: int | None = 0
    tokenizer: Tokenizer | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Check that the table has a row for every history."""
        assert self.logits.shape[0] == self.vocab_size**self.order, (tuple(self.logits.shape), self.order)

    @property
    def vocab_size(self) -> int:
        """The size of the vocab axis."""
        return self.logits.shape[-1]

    def next_logprobs(self, histories: Int[Tensor, "*batch order"]) -> Float[Tensor, "*batch vocab"]:
        """Return log p(next token | the last `order` tokens)."""
        powers = self.vocab_size ** torch.arange(self.order - 1, -1, -1)
        return self.logits.log_softmax(dim=-1)[(histories * powers).sum(dim=-1)]

    def logprobs(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Return log p(next token | tokens up to here) at every position; neither lengths nor context matter."""
        before = tokens.new_full((tokens.shape[0], self.order - 1), self.start)
        return self.next_logprobs(torch.cat([before, tokens], dim=1).unfold(1, self.order, 1))

    def score(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq"]:
        """Return each token's log-probability given those before it; 0 for i < context and for padding."""
        return gathered_scores(self.logprobs(tokens), tokens, lengths=lengths, context=context)

    def open(self, prompts: Sequence[Sequence[int]]) -> "TinyDecoding":
        """Return a decoding that continues the prompts."""
        before = [self.start] * self.order
        return TinyDecoding(self, torch.tensor([[*before, *prompt][-self.order :] for prompt in prompts]))

    def log_prob(self, text: Sequence[int]) -> float:
        """Return the log-probability of a text, its end counted; the first token is given.

        >>> import math
        >>> model = TinyLM(torch.zeros(3, 3))
        >>> round(math.exp(model.log_prob([0, 1, 2, 0])) * 27, 6)
        1.0
        """
        return float(self.score(torch.tensor([list(text)])).sum())

    def enumerate_texts(self, length: int) -> list[tuple[int, ...]]:
        """Return every text of at most `length` tokens after `start`: those that end with eos, and those cut there.

        Their probabilities sum to 1.

        >>> len(TinyLM(torch.zeros(3, 3), eos=None).enumerate_texts(3))
        27
        """
        letters = [token for token in range(self.vocab_size) if token != self.eos]
        cut = [(self.start, *body) for body in itertools.product(letters, repeat=length)]
        if self.eos is None:
            return cut
        shorter = [itertools.product(letters, repeat=before) for before in range(length)]
        return [(self.start, *body, self.eos) for body in itertools.chain.from_iterable(shorter)] + cut

    def sample(self, batch: int, *, length: int, generator: torch.Generator) -> Int[Tensor, "batch seq"]:
        """Return texts of `start` and `length` drawn tokens; what comes after an eos is a new text."""
        tokens = torch.full((batch, self.order), self.start)
        for _ in range(length):
            probabilities = self.next_logprobs(tokens[:, -self.order :]).exp().detach()
            tokens = torch.cat([tokens, torch.multinomial(probabilities, 1, generator=generator)], dim=1)
        return tokens[:, self.order - 1 :]


class TinyDecoding:
    """Texts continued by a `TinyLM`; remembers the last `order` tokens of each."""

    def __init__(self, model: TinyLM, histories: Int[Tensor, "batch order"]) -> None:
        """Begin after these histories."""
        self.routing: Routing | None = None
        self._model = model
        self._histories = histories

    def next_logprobs(self) -> Float[Tensor, "batch vocab"]:
        """Return the log-probabilities of the token that follows each text."""
        return self._model.next_logprobs(self._histories)

    def shares(self, tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch expert"] | None:
        """Return None: one voice."""
        return None

    def step(self, tokens: Int[Tensor, " batch"]) -> None:
        """Append one token to every text."""
        self._histories = torch.cat([self._histories[:, 1:], tokens[:, None]], dim=1)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these texts alone."""
        self._histories = self._histories[rows]


def gathered_scores(
    logprobs: Float[Tensor, "batch seq vocab"],
    tokens: Int[Tensor, "batch seq"],
    *,
    lengths: Int[Tensor, " batch"] | None = None,
    context: int | Int[Tensor, " batch"] = 1,
) -> Float[Tensor, "batch seq"]:
    """Return what `score` must return, given `logprobs`: the reference of the conformance suites."""
    predicted = logprobs[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1)
    scores = torch.cat([predicted.new_zeros(tokens.shape[0], 1), predicted], dim=1)
    place = torch.arange(tokens.shape[1])
    silent = place < torch.as_tensor(context).reshape(-1, 1)
    if lengths is not None:
        silent = silent | (place >= lengths[:, None])
    return scores.masked_fill(silent, 0.0)


def tiny_lm(
    seed: int, *, symbols: int = 3, order: int = 3, sharpness: float = 1.0, eos: int | None = 0, name: str = "tiny"
) -> TinyLM:
    """Return a `TinyLM` with a random table in float64; order 3 is the full history of texts of three tokens.

    >>> import math
    >>> model = tiny_lm(0)
    >>> texts = model.enumerate_texts(3)
    >>> len(texts), round(sum(math.exp(model.log_prob(text)) for text in texts), 9)
    (15, 1.0)
    """
    drawn = torch.randn(symbols**order, symbols, generator=generator(seed, name), dtype=torch.float64)
    return TinyLM(sharpness * drawn, order, eos=eos)


def bigram_lm(seed: int, *, symbols: int = 20, sharpness: float = 2.0, name: str = "bigram") -> TinyLM:
    """Return a random bigram model that never ends a text: one domain of a toy claim."""
    return tiny_lm(seed, symbols=symbols, order=1, sharpness=sharpness, eos=None, name=name)
