"""One request: its prompt, its seat among the rows, its writing."""

from dataclasses import dataclass

import torch

from collegium.compose import Asked
from collegium.core.protocols import Decoding, Tokenizer
from collegium.infer.engine.values import Event, Finished, Said
from collegium.infer.sampling import Sampling, processors
from collegium.infer.writing import Writing, draw, end_tokens, grow, last_shares, note
from collegium.models import Seat


@dataclass(eq=False)
class Request:
    """A request that waits, has its prompt read, or is being continued.

    decoding: made of its seat when the prompt has been read; None before.
    """

    number: int
    tokenizer: Tokenizer | None
    writing: Writing
    sampling: Sampling
    asked: Asked
    seat: Seat
    decoding: Decoding | None = None

    def __post_init__(self) -> None:
        """Prepare the chain its tokens are drawn through."""
        self._chain = processors(self.sampling)
        self._ends = end_tokens(self.tokenizer)

    @property
    def rows(self) -> int:
        """How many rows it has now."""
        return self.seat.rows.count

    @property
    def most_rows(self) -> int:
        """How many rows it may have: those that have left may come back."""
        return len(self.asked.plan.groups)

    @property
    def longest_tokens(self) -> int:
        """How long its text may become."""
        return len(self.writing.prompt) + self.writing.most

    @property
    def lane(self) -> tuple[int, int]:
        """Requests with the same base and gates run together."""
        return id(self.asked.base), id(self.seat.rows.gates)

    @property
    def experts(self) -> tuple[str, ...]:
        """The names its shares are in order of."""
        routing = None if self.decoding is None else self.decoding.routing
        return () if routing is None else routing.experts

    def begin(self) -> None:
        """Become a decoding, now that the prompt has been read."""
        self.decoding = self.asked.begin(self.seat)

    def speak(self) -> list[Event]:
        """Draw the next token and ask for it to be read, or end."""
        decoding, writing = self.decoding, self.writing
        assert decoding is not None
        log_probs = decoding.next_logprobs()[0]
        token = draw(log_probs, writing, self.sampling, self._chain)
        log_prob = float(log_probs[token])
        drawn = torch.tensor([token])
        shares = decoding.shares(drawn)
        note(writing, token, log_prob, None if shares is None else shares[0])
        text = grow(writing, self.tokenizer, self.sampling, self._ends)
        said = Said(self.number, token, log_prob, text, last_shares(writing, self.experts))
        if writing.ended:
            return [said, Finished(self.number, writing.finished(self.experts))]
        decoding.step(drawn)
        return [said]
