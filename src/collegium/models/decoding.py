"""Stepwise decoding of many rows with caches: one entry per text in the trunk, one per row above it.

Rows come and go while the others go on: texts leave (`keep`), rows leave with caches of their own (`split`), rows come
in (`join`). None of it changes what another row says.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import DataError, RoutingError
from collegium.core.routing import Routing
from collegium.models.prompts import Prompts
from collegium.models.rows import NOBODY, RowPlan, Rows, last_weights, left_padded_weights, shift_right
from collegium.models.slots import Trace
from collegium.models.tail import log_probs, target_log_probs

if TYPE_CHECKING:
    from collegium.models.base import Base
    from collegium.models.seats import RowReader


class RowDecoding:
    """Texts continued token by token in rows.

    rows:    what the next step is run with; weights of earlier positions stay with their keys and values.
    lengths: how many tokens of each text have been read.
    states:  the last hidden states of what was read last: a prompt, padded on the left, or as many tokens.
    trace:   what gates said there, by module path, where it was asked for.

    Texts of different length are aligned at their ends, inside.
    """

    def __init__(
        self, base: "Base", prompts: Sequence[Sequence[int]], plan: RowPlan | Rows, *, traced: bool = False
    ) -> None:
        """Read the prompts. Raises DataError for an empty one, BaseModelError for one that is too long."""
        from collegium.models.caches import open_cache

        if not prompts or not all(len(prompt) for prompt in prompts):
            raise DataError("every prompt has at least one token; begin with the base's first token or a word.")
        rows = plan if isinstance(plan, Rows) else plan.rows(len(prompts))
        if rows.texts != len(prompts):
            raise RoutingError(f"the rows read {rows.texts} texts, {len(prompts)} are opened.")
        self._base = base
        self._cache: Any = open_cache(base.config, len(base.blocks))
        self._seq, self._level, self._settled = 0, len(base.blocks), None
        self.trace: Trace | None = {} if traced else None
        tokens = _right_padded(prompts).to(base.device)
        seq = tokens.shape[1]
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=base.device)
        self.lengths: Int[Tensor, " text"] = lengths
        positions = (torch.arange(seq, device=base.device) - (seq - lengths)[:, None]).clamp(min=0)
        even = bool((lengths == seq).all())
        shown = tokens if even else shift_right(tokens, lengths)
        self._forward(shown, positions, rows if even else left_padded_weights(rows, lengths))
        self.rows: Rows = last_weights(rows, lengths)
        text = rows.text.to(base.device)
        self._prompts: Prompts | None = Prompts(tokens[text], lengths[text], self.states)

    @property
    def texts(self) -> int:
        """How many texts are being continued."""
        return self.lengths.shape[0]

    @property
    def held_bytes(self) -> int:
        """The memory that caches have set aside."""
        return sum(layer.held_bytes for layer in self._cache.layers)

    @property
    def logprobs(self) -> Float[Tensor, "row vocab"]:
        """Log-probabilities of the token that follows, for every row, float32; computed when first asked for."""
        if self._logprobs is None:
            with torch.no_grad():
                self._logprobs = log_probs(self._base.require_output(), self.states[:, -1])
        return self._logprobs

    @property
    def prompt_states(self) -> Float[Tensor, "row seq hidden"]:
        """The last hidden states of the prompts, right-padded; until they are scored or forgotten."""
        if self._prompts is None or self._prompts.hidden is None:
            raise RoutingError("the prompts' hidden states were let go; read `prompt_states` before.")
        return self._prompts.states

    @property
    def prompt_scores(self) -> Float[Tensor, "row seq"]:
        """Each prompt token's log-probability given those before it, right-padded; 0 at position 0 and padding.

        Computed when first read: nobody but a router that weighs likelihoods pays for the output layer here.
        """
        if self._prompts is None:
            raise RoutingError("the prompts of these texts were forgotten; read `prompt_scores` before.")
        self._prompts = self._prompts.scored(self._base)
        assert self._prompts.scores is not None
        return self._prompts.scores

    def prompt_scores_of(self, rows: Int[Tensor, " some"]) -> Float[Tensor, "some seq"]:
        """Return the `prompt_scores` of these rows, computing them for these alone."""
        if self._prompts is None:
            raise RoutingError("the prompts of these texts were forgotten; read `prompt_scores` before.")
        scores = self._prompts.take(rows).scored(self._base).scores
        assert scores is not None
        return scores

    def forget_prompts(self) -> None:
        """Let go of what `prompt_scores` is computed from."""
        self._prompts = None

    def step(self, tokens: Int[Tensor, " text"], rows: RowPlan | Rows | None = None) -> None:
        """Append one token to every text, from here on with other experts or weights if rows are given.

        Raises RoutingError when these are rows of other texts, or another number of them.
        """
        self.read(tokens[:, None], rows)

    def read(self, tokens: Int[Tensor, "text n"], rows: RowPlan | Rows | None = None, *, prompt: bool = False) -> None:
        """Append several tokens to every text in one forward; `prompt`: they are still part of the prompts."""
        if rows is not None:
            self._follow(rows if isinstance(rows, Rows) else rows.rows(self.texts))
        tokens = tokens.to(self._base.device)
        positions = self.lengths[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        self._forward(tokens, positions, self.rows, read=tokens.shape[1])
        self.rows = _at_end(self.rows, tokens.shape[1])
        if prompt and self._prompts is not None:
            self._prompts = self._prompts.append(tokens[self.rows.text.to(tokens.device)], self.states)

    def extend(self, tokens: Int[Tensor, "text n"], rows: RowPlan | Rows | None = None) -> Float[Tensor, "row n"]:
        """Append several tokens to every text in one forward and return each one's log-probability, in every row."""
        before = self.logprobs
        self.read(tokens, rows)
        said = tokens.to(before.device)[self.rows.text.to(before.device)]
        first = before.gather(-1, said[:, :1])
        with torch.no_grad():
            rest = target_log_probs(
                self._base.require_output(), self.states[:, :-1].flatten(0, 1), said[:, 1:].flatten()
            )
        return torch.cat([first, rest.view(len(said), -1)], dim=1)

    def rewind(self, tokens: int) -> None:
        """Forget the last so many tokens of every text, fewer than were read in one forward just before.

        Raises RoutingError for more: what came before them was read too long ago to go on from.
        """
        read = min(self.states.shape[1], int(self.lengths.min()))
        if not 0 <= tokens < read:
            raise RoutingError(
                f"{read} tokens were read in one forward, 0 to {read - 1} can be forgotten; got {tokens}."
            )
        if not tokens:
            return
        for layer in self._cache.layers:
            layer.rewind(tokens)
        self._seq, self.lengths, self._logprobs = self._seq - tokens, self.lengths - tokens, None
        self.states = self.states[:, :-tokens]
        if self.trace is not None:
            self.trace = {
                path: (said[:, :-tokens], None if index is None else index[:, :-tokens])
                for path, (said, index) in self.trace.items()
            }

    def keep(self, texts: Int[Tensor, " kept"]) -> None:
        """Go on with these texts alone, in this order."""
        texts = texts.cpu()
        if torch.equal(texts, torch.arange(self.texts)):
            return
        chosen, rows = self.rows.rows_of(texts), self.rows.take_texts(texts)
        self._select(texts, chosen, rows)

    def split(self, rows: Int[Tensor, " leaving"]) -> "RowDecoding":
        """Return these rows, in this order, as a decoding of its own, with copies of the texts; the others go on.

        A text that no row reads any more leaves too. Raises RoutingError when no row would go on.
        """
        return self.split_each([rows])[0]

    def split_each(self, groups: Sequence[Int[Tensor, " _"]]) -> "list[RowDecoding]":
        """Return each group of rows as a decoding of its own, as `split` does; those who go on move once for all."""
        groups = [rows.cpu() for rows in groups]
        stay, leaving = torch.ones(self.rows.count, dtype=torch.bool), torch.cat(list(groups))
        stay[leaving] = False
        rest = stay.nonzero().flatten()
        if not len(rest) or not all(map(len, groups)):
            raise RoutingError(f"of {self.rows.count} rows {len(leaving)} would leave; some leave, some go on.")
        others: list[RowDecoding] = [copy.copy(self) for _ in groups]
        for part, chosen in zip((*others, self), (*groups, rest), strict=True):
            texts = part.rows.text[chosen].unique()
            part._select(texts, chosen, part.rows.take(chosen), fresh=part is not self)
        return others

    def join(self, other: "RowDecoding", texts: Int[Tensor, " other_text"] | None = None) -> None:
        """Take another decoding's rows in, behind these; the other is spent.

        texts: which of these texts each of the other's is (as long, and read by the trunk already), `NOBODY` = a new
               one, which comes behind; None = all of them are new.
        Raises RoutingError when a text is not the one it is said to be by its length, or gates differ.
        """
        mine = torch.full((other.texts,), NOBODY) if texts is None else texts.cpu()
        self._check_lengths(other, mine)
        new = (mine == NOBODY).nonzero().flatten()
        place = mine.clone()
        place[new] = self.texts + torch.arange(len(new))
        both = self.rows.joined(other.rows)
        text = torch.cat([self.rows.text, place[other.rows.text]])
        rows = replace(both, texts=self.texts + len(new), text=text)
        level = min([self._first_block(rows), *(each._level for each in (self, other) if each._apart)])
        for each in (self, other):
            each._lower(level)
        every = torch.arange(other.rows.count)
        layers = zip(self._cache.layers, other._cache.layers, strict=True)
        self._cache.layers = [one.join(two, new if at < level else every) for at, (one, two) in enumerate(layers)]
        self._seq = max(self._seq, other._seq)
        self.lengths = torch.cat([self.lengths, other.lengths[new.to(other.lengths.device)]])
        self._logprobs = torch.cat([self.logprobs, other.logprobs])
        self.states = torch.cat([self.states[:, -1:], other.states[:, -1:]])
        self.trace = _joined_trace(self.trace, other.trace)
        read, theirs = self._prompts, other._prompts
        self._prompts = None if read is None or theirs is None else read.join(theirs, self._base)
        self.rows, self._settled = rows, None

    def sort_rows(self) -> None:
        """Let the rows of each text stand together, in the texts' order."""
        order = self.rows.text.argsort(stable=True)
        self._select(torch.arange(self.texts), order, self.rows.take(order))

    @property
    def _apart(self) -> bool:
        """Whether rows are more, or others, than texts."""
        return self.rows.groups != 1

    def _check_lengths(self, other: "RowDecoding", mine: Tensor) -> None:
        known = (mine != NOBODY).nonzero().flatten().tolist()
        for text in known:
            own, theirs = int(self.lengths[mine[text]]), int(other.lengths[text])
            if own != theirs:
                raise RoutingError(
                    f"rows join a text at its end: text {int(mine[text])} has {own} tokens, "
                    f"the rows have read {theirs}; extend them first."
                )

    def _follow(self, rows: Rows) -> None:
        if not torch.equal(rows.text, self.rows.text):
            raise RoutingError(
                f"these texts are open in {self.rows.count} rows, the new plan has {rows.count}; "
                "let rows in with `join`, and out with `split` or `keep`."
            )
        self.rows = rows

    def _forward(self, tokens: Tensor, positions: Tensor, rows: Rows, *, read: int = 0) -> None:
        """Run the rows over more tokens: so many of each text, whose lengths they are when nothing was read before."""
        base, lengths, seq = self._base, self.lengths + read, self._seq + tokens.shape[1]
        base.check_length(int(positions.max()) + 1)
        self._settle(rows)
        with torch.no_grad(), base.running(rows, first=self._level, trace=self.trace) as run:
            hidden = base.inner(
                input_ids=tokens,
                attention_mask=self._mask(seq, lengths),
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
            ).last_hidden_state
        self._seq, self.lengths = seq, lengths
        self.states: Float[Tensor, "row seq hidden"] = run.widen(hidden, len(base.blocks))
        self._logprobs: Tensor | None = None

    def _mask(self, seq: int, lengths: Tensor) -> Tensor | None:
        """Return which of so many columns each text fills; None when all do."""
        left = seq - lengths
        return torch.arange(seq, device=left.device) >= left[:, None] if bool(left.any()) else None

    def _settle(self, rows: Rows) -> None:
        """Let caches begin to be by row where these rows begin to differ, or stay lower down if they do already."""
        if rows is self._settled:
            return
        level = self._first_block(rows)
        if not self._seq:
            self._level = level
        elif rows.groups == 1 or level < self._level:
            self._lower(level)
        self._settled = rows

    def _lower(self, level: int) -> None:
        """Let caches be by row from this block on; where rows are texts they are already."""
        if self._apart:
            layers = self._cache.layers
            for at in range(level, self._level):
                layers[at] = layers[at].select(self.rows.text)
        self._level = level

    def _first_block(self, rows: Rows) -> int:
        """Return the first block that an expert of these rows changes."""
        with self._base.running(rows) as run:
            return run.first

    def _select(self, texts: Tensor, chosen: Tensor, rows: Rows, *, fresh: bool = False) -> None:
        """Go on with these texts and rows, in caches of its own if `fresh`."""
        self.lengths = self.lengths[texts.to(self.lengths.device)]
        seq = int(self.lengths.max())
        dropped = self._seq - seq
        cache = copy.copy(self._cache)
        cache.layers = []
        for at, layer in enumerate(self._cache.layers):
            entries = texts if at < self._level else chosen
            same = not fresh and not dropped and layer.is_initialized and _is_all(entries, layer.keys.shape[0])
            cache.layers.append(layer if same else layer.select(entries, dropped=dropped))
        self._cache, self._seq = cache, seq
        on_device = chosen.to(self.states.device)
        self.states = self.states[on_device]
        self._logprobs = None if self._logprobs is None else self._logprobs[on_device]
        self.trace = None if self.trace is None else _taken_trace(self.trace, on_device)
        self._prompts = None if self._prompts is None else self._prompts.take(chosen)
        self.rows, self._settled = rows, None


class BaseDecoding:
    """One voice, as a `Decoding`."""

    def __init__(self, rows: "RowReader") -> None:
        """Take over a decoding of one row per text."""
        self.routing: Routing | None = None
        self._rows = rows

    @property
    def prompt_scores(self) -> Float[Tensor, "batch seq"]:
        """Each prompt token's log-probability given those before it; see `RowDecoding.prompt_scores`."""
        return self._rows.prompt_scores

    def next_logprobs(self) -> Float[Tensor, "batch vocab"]:
        """Return the log-probabilities of the token that follows each text."""
        return self._rows.logprobs

    def shares(self, tokens: Int[Tensor, " batch"]) -> None:
        """Return None: nobody shares with a single voice."""

    def step(self, tokens: Int[Tensor, " batch"]) -> None:
        """Append one token to every text."""
        self._rows.step(tokens)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these texts alone."""
        self._rows.keep(rows)


def _right_padded(prompts: Sequence[Sequence[int]]) -> Tensor:
    longest = max(len(prompt) for prompt in prompts)
    return torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts])


def _is_all(entries: Tensor, count: int) -> bool:
    return torch.equal(entries, torch.arange(count))


def _at_end(rows: Rows, tokens: int) -> Rows:
    """Return the rows with the weights of the last of so many tokens alone."""
    held = rows.weights is None or rows.weights.shape[-2] == 1
    return rows if held else last_weights(rows, torch.full((rows.texts,), tokens))


def _taken_trace(trace: Trace, rows: Tensor) -> Trace:
    return {path: (said[rows], None if index is None else index[rows]) for path, (said, index) in trace.items()}


def _joined_trace(one: Trace | None, two: Trace | None) -> Trace | None:
    """Return what gates said of the last position of all rows; nothing where it was not asked for of both."""
    if one is None or two is None:
        return None
    joined: Trace = {}
    for path in one.keys() & two.keys():
        (said, index), (other, theirs) = one[path], two[path]
        chosen = None if index is None or theirs is None else torch.cat([index[:, -1:], theirs[:, -1:]])
        joined[path] = (torch.cat([said[:, -1:], other[:, -1:]]), chosen)
    return joined
