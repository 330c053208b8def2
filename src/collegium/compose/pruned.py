"""An ensemble whose unlikely experts leave: rows that are parked, and asked again when the survivors are surprised.

At each length that is a multiple of 16 tokens, experts whose posterior lies under epsilon leave; the others share their
weight. `collegium.ops.pruning` says what that costs. Prompts are read by everybody.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose.asking import Asked
from collegium.compose.tracks import ABSENT, Track, gather
from collegium.core.errors import RoutingError
from collegium.core.protocols import PrefixRouter
from collegium.core.routing import Routing
from collegium.models.base import Base
from collegium.models.decoding import RowDecoding
from collegium.models.rows import RowPlan
from collegium.models.seats import RowReader, Seat
from collegium.ops.pruning import BLOCK_TOKENS

ALONE_BLOCKS = 4
"""How many blocks a text with one expert left is read ahead at first; twice as many each time nobody is called."""


@dataclass(eq=False)
class Parked:
    """Rows of one text that left it, with everything they have read."""

    text: int
    who: Int[Tensor, " row"]
    rows: RowDecoding

    @property
    def read(self) -> int:
        """How many tokens they have read."""
        return int(self.rows.lengths[0])


@dataclass(eq=False)
class PrunedRows:
    """Rows of several texts, a row per expert that is present; those that left are parked.

    experts: how many there are. who: which of them each row is.
    """

    experts: int
    rows: RowReader
    who: Int[Tensor, " row"]
    parked: list[Parked] = field(default_factory=list)

    @property
    def waiting(self) -> bool:
        """Whether a token that was appended has not been read yet: others are read in the same forward."""
        return isinstance(self.rows, Seat) and self.rows.pending is not None

    @property
    def _own(self) -> RowDecoding:
        assert isinstance(self.rows, RowDecoding)
        return self.rows

    def said(self, values: Float[Tensor, "row n"]) -> Float[Tensor, "text n expert"]:
        """Return what rows say by text and expert, `ABSENT` where there is no row."""
        table = torch.full((self.rows.texts, values.shape[1], self.experts), ABSENT)
        table[self.rows.rows.text, :, self.who] = values.float().cpu()
        return table

    def extend(self, tokens: Int[Tensor, "text n"]) -> Float[Tensor, "text n expert"]:
        """Return what everybody present says of these tokens, having read them."""
        return self.said(self._own.extend(tokens))

    def rewind(self, tokens: int) -> None:
        """Forget the last so many tokens, which were read in one forward."""
        self._own.rewind(tokens)

    def by_rows(self) -> tuple[list[int], list[int]]:
        """Return the texts that have one row, and the others."""
        many = torch.bincount(self.rows.rows.text, minlength=self.rows.texts).tolist()
        return [text for text, rows in enumerate(many) if rows == 1], [
            text for text, rows in enumerate(many) if rows > 1
        ]

    def settle(self, tracks: Mapping[int, Track]) -> None:
        """Let experts come back and leave, of texts at the end of a block."""
        for text, track in tracks.items():
            if track.calls():
                track.reenter(self._return(text, track.tokens))
        gone = {text: track.leave() for text, track in tracks.items()}
        leaving = {
            text: ((self.rows.rows.text == text) & who[self.who]).nonzero().flatten()
            for text, who in gone.items()
            if bool(who.any())
        }
        if not leaving:
            return
        parts = self.rows.split_each(list(leaving.values()))
        self.parked += [
            Parked(text, self.who[rows], part) for (text, rows), part in zip(leaving.items(), parts, strict=True)
        ]
        self.who = self.who[_others(torch.cat(list(leaving.values())), len(self.who))]

    def _return(self, text: int, tokens: Sequence[int]) -> Float[Tensor, "gap expert"]:
        """Return what a text's parked experts say of what they have missed, having joined the others."""
        mine = [each for each in self.parked if each.text == text]
        self.parked = [each for each in self.parked if each.text != text]
        first = min(each.read for each in mine)
        table = torch.full((len(tokens) - first, self.experts), ABSENT)
        for each in mine:
            start = each.read
            said = each.rows.extend(torch.tensor([list(tokens[start:])]))
            table[start - first :, each.who] = said.T.float().cpu()
            self.rows.join(each.rows, torch.tensor([text]))
            self.who = torch.cat([self.who, each.who])
        return table

    def keep(self, texts: Int[Tensor, " kept"]) -> None:
        """Go on with these texts alone."""
        if torch.equal(texts, torch.arange(self.rows.texts)):
            return
        self.who = self.who[self.rows.rows.rows_of(texts)]
        self.rows.keep(texts)
        self.parked = _renumbered(self.parked, texts)

    def take(self, texts: Int[Tensor, " some"]) -> "PrunedRows":
        """Return these texts' rows, in ascending order, as rows of their own; the others go on."""
        rows = torch.isin(self.rows.rows.text, texts).nonzero().flatten()
        who, parked = self.who[rows], _renumbered(self.parked, texts)
        if len(rows) == len(self.who):
            return PrunedRows(self.experts, self.rows, who, parked)
        self.who = self.who[_others(rows, len(self.who))]
        self.parked = _renumbered(self.parked, _others(texts, self.rows.texts))
        return PrunedRows(self.experts, self._own.split(rows), who, parked)


def _others(chosen: Int[Tensor, " some"], many: int) -> Int[Tensor, " rest"]:
    every = torch.arange(many)
    return every[~torch.isin(every, chosen)]


def _renumbered(parked: Sequence[Parked], texts: Int[Tensor, " kept"]) -> list[Parked]:
    place = {text: at for at, text in enumerate(texts.tolist())}
    return [Parked(place[each.text], each.who, each.rows) for each in parked if each.text in place]


def open_pruned(
    base: Base, prompts: Sequence[Sequence[int]], plan: RowPlan
) -> tuple[PrunedRows, Float[Tensor, "text seq expert"]]:
    """Return the rows that have read the prompts, with everybody present, and what each said of them."""
    rows = base.open_rows(prompts, plan)
    opened = begin_pruned(rows, len(plan.groups))
    rows.forget_prompts()
    return opened


def begin_pruned(rows: RowReader, experts: int) -> tuple[PrunedRows, Float[Tensor, "text seq expert"]]:
    """Return rows that have read prompts as rows with everybody present, and what each said of them."""
    scores = rows.prompt_scores.view(experts, rows.texts, -1).permute(1, 2, 0).float().cpu()
    return PrunedRows(experts, rows, torch.arange(experts).repeat_interleave(rows.texts)), scores


@dataclass(frozen=True)
class Pruning:
    """How an ensemble's texts are pruned: whose rows, by which router, under which posterior."""

    base: Base
    plan: RowPlan
    router: PrefixRouter
    epsilon: float
    top_k: int | None = None

    def __post_init__(self) -> None:
        """Check epsilon and the router."""
        check_epsilon(self.epsilon)
        if not self.router.needs_likelihoods:
            raise RoutingError(
                "prune lets experts leave by their posterior, which this router does not carry: what it leaves silent "
                "is not computed anyway. Use router=posterior, or leave prune out."
            )

    def track(self, prompt: Sequence[int], said: Float[Tensor, "seq expert"]) -> Track:
        """Return the track of a text that begins with this prompt."""
        return Track(self.router, prompt, said, epsilon=self.epsilon, top_k=self.top_k, tokenizer=self.base.tokenizer)

    def follow(
        self, tokens: Int[Tensor, "batch seq"], *, lengths: Int[Tensor, " batch"], context: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch seq"], Routing]:
        """Return each token's log-probability, 0 in the context and at padding, and the weights after each token."""
        texts = [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
        ends = -(-context // BLOCK_TOKENS) * BLOCK_TOKENS
        found: dict[int, Track] = {}
        for end in ends.unique().tolist():
            places = (ends == end).nonzero().flatten().tolist()
            tracks = self._group([texts[place] for place in places], [int(context[place]) for place in places], end)
            found |= dict(zip(places, tracks, strict=True))
        return gather([found[place] for place in range(len(texts))], tokens.shape, lengths=lengths, context=context)

    def _group(self, texts: Sequence[Sequence[int]], context: Sequence[int], end: int) -> list[Track]:
        """Return the tracks of texts that everybody reads up to the same end of a block."""
        rows, said = open_pruned(self.base, _padded([text[:end] for text in texts]).tolist(), self.plan)
        tracks = []
        for text, read, table in zip(texts, context, said, strict=True):
            track = self.track(text[:read], table[:read])
            track.read(torch.tensor(text[read:end], dtype=torch.long), table[read : len(text)][: end - read])
            tracks.append(track)
        score_pruned(rows, tracks, texts)
        return tracks

    def open(self, prompts: Sequence[Sequence[int]]) -> "PrunedDecoding":
        """Return a decoding of the prompts."""
        return self._begin(prompts, *open_pruned(self.base, prompts, self.plan))

    def ask(self, prompts: Sequence[Sequence[int]]) -> Asked:
        """Return the rows that read the prompts, and how a decoding of them begins."""
        every = len(self.plan.groups)
        return Asked(self.base, self.plan, lambda rows: self._begin(prompts, *begin_pruned(rows, every)))

    def _begin(
        self, prompts: Sequence[Sequence[int]], rows: PrunedRows, said: Float[Tensor, "text seq expert"]
    ) -> "PrunedDecoding":
        tracks = [self.track(prompt, table[: len(prompt)]) for prompt, table in zip(prompts, said, strict=True)]
        return PrunedDecoding(self, rows, tracks)


def check_epsilon(epsilon: float) -> None:
    """Raise RoutingError unless an expert may leave under this posterior."""
    if not 0 <= epsilon < 0.5:
        raise RoutingError(
            f"prune is the posterior under which experts leave, from 0 (nobody) to below 0.5; got {epsilon}. Try 1e-3."
        )


class PrunedDecoding:
    """A pruned ensemble's texts being continued.

    At the end of a text's block its experts leave or come back when the next token is asked about: only then is what
    was appended sure to have been read, where the rows are read together with others'.
    """

    def __init__(self, pruning: Pruning, rows: PrunedRows, tracks: list[Track]) -> None:
        """Keep the rows; those whose prompt is the end of a block may leave."""
        self.pruning, self.rows, self.tracks = pruning, rows, tracks
        self._settled = False

    @property
    def routing(self) -> Routing | None:
        """The weights of the next token."""
        self._settle()
        return Routing(self.pruning.router.experts, self._weights()[:, None])

    def next_logprobs(self) -> Float[Tensor, "batch vocab"]:
        """Return the mixture's log-probabilities of the next token."""
        self._settle()
        said, text = self.rows.rows.logprobs, self.rows.rows.rows.text
        log_weights = self._weights()[text, self.rows.who].log()
        joint = said + log_weights.to(said.device)[:, None]
        text = text.to(said.device)[:, None].expand_as(joint)
        most = joint.new_full((len(self.tracks), joint.shape[1]), float("-inf")).scatter_reduce(0, text, joint, "amax")
        shares = (joint - most.gather(0, text)).exp()
        return most + torch.zeros_like(most).scatter_add(0, text, shares).log()

    def shares(self, tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch expert"] | None:
        """Return each expert's share in these next tokens: weight times probability, normalised."""
        self._settle()
        return (self._weights().log() + self._said(tokens)[:, 0]).softmax(dim=-1)

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, " batch"]) -> None:
        """Append one token to every text."""
        self._settle()
        said = self._said(tokens)
        self.rows.rows.step(tokens)
        for track, token, table in zip(self.tracks, tokens.cpu(), said, strict=True):
            track.read(token[None], table)
        self._settled = False

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these texts alone."""
        self.rows.keep(rows.cpu())
        self.tracks = [self.tracks[row] for row in rows.tolist()]

    def _weights(self) -> Float[Tensor, "batch expert"]:
        return torch.stack([track.weights for track in self.tracks])

    def _said(self, tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch 1 expert"]:
        every = self.rows.rows.logprobs
        own = tokens.to(every.device)[self.rows.rows.rows.text.to(every.device)]
        return self.rows.said(every.gather(-1, own[:, None]))

    @torch.no_grad()
    def _settle(self) -> None:
        """Let experts leave and come back, once for each token, as soon as it has been read."""
        if self._settled or self.rows.waiting:
            return
        self._settled = True
        ended = {text: each for text, each in enumerate(self.tracks) if len(each.tokens) % BLOCK_TOKENS == 0}
        self.rows.settle(ended)


def score_pruned(rows: PrunedRows, tracks: Sequence[Track], texts: Sequence[Sequence[int]]) -> None:
    """Let texts be read to their ends, all of which stand at the end of the same block, or at their own.

    What was said lies in the tracks. Texts are read ahead, twice as far each time that nobody left or came back on the
    way, and go back to where somebody does. Those with one expert left go on by themselves.
    """
    blocks = 1
    while going := [place for place, (track, text) in enumerate(zip(tracks, texts, strict=True)) if _more(track, text)]:
        rows.keep(torch.tensor(going))
        tracks, texts = [tracks[place] for place in going], [texts[place] for place in going]
        rows.settle(dict(enumerate(tracks)))
        alone, others = rows.by_rows()
        if alone:
            _score_alone(rows.take(torch.tensor(alone)), [tracks[at] for at in alone], [texts[at] for at in alone])
            tracks, texts = [tracks[at] for at in others], [texts[at] for at in others]
        if others:
            blocks = 2 * blocks if _read_ahead(rows, tracks, texts, blocks=blocks) else 1


def _read_ahead(rows: PrunedRows, tracks: Sequence[Track], texts: Sequence[Sequence[int]], *, blocks: int) -> bool:
    """Read some blocks in one forward, and go back to the first at whose end somebody leaves or is called back.

    Returns whether nobody was before the last one's end.
    """
    at = len(tracks[0].tokens)
    table = rows.extend(_padded([text[at : at + blocks * BLOCK_TOKENS] for text in texts]))
    for done in range(BLOCK_TOKENS, table.shape[1] + BLOCK_TOKENS, BLOCK_TOKENS):
        for track, text, said in zip(tracks, texts, table, strict=True):
            if _more(track, text):
                _read_block(track, text, said[done - BLOCK_TOKENS : done])
        changed = [track.changing() for track, text in zip(tracks, texts, strict=True) if _more(track, text)]
        if any(changed):
            rows.rewind(max(0, table.shape[1] - done))
            return done >= table.shape[1]
    return True


def _score_alone(rows: PrunedRows, tracks: Sequence[Track], texts: Sequence[Sequence[int]]) -> None:
    """Read texts with one expert left to their ends, or each to where it calls the others and on from there."""
    blocks = ALONE_BLOCKS
    while tracks:
        start = len(tracks[0].tokens)
        table = rows.extend(_padded([text[start : start + blocks * BLOCK_TOKENS] for text in texts]))
        back: dict[int, list[int]] = {}
        for place, (track, text) in enumerate(zip(tracks, texts, strict=True)):
            if _changes(track, text, table[place]):
                back.setdefault(len(track.tokens), []).append(place)
        left = list(range(len(texts)))
        for at, places in back.items():
            part = rows.take(torch.tensor([left.index(place) for place in places]))
            left = [place for place in left if place not in places]
            part.rewind(start + table.shape[1] - at)
            score_pruned(part, [tracks[place] for place in places], [texts[place] for place in places])
        going = [place for place in left if _more(tracks[place], texts[place])]
        if going:
            rows.keep(torch.tensor([left.index(place) for place in going]))
        tracks, texts, blocks = [tracks[place] for place in going], [texts[place] for place in going], 2 * blocks


def _changes(track: Track, text: Sequence[int], said: Float[Tensor, "n expert"]) -> bool:
    """Return whether a text changes hands before what was said ends, having read it up to there."""
    for at in range(0, len(said), BLOCK_TOKENS):
        if not _more(track, text):
            return False
        _read_block(track, text, said[at : at + BLOCK_TOKENS])
        if _more(track, text) and track.changing():
            return True
    return False


def _read_block(track: Track, text: Sequence[int], said: Float[Tensor, "n expert"]) -> None:
    at = len(track.tokens)
    tokens = torch.tensor(list(text[at : at + BLOCK_TOKENS]))
    track.read(tokens, said[: len(tokens)])


def _more(track: Track, text: Sequence[int]) -> bool:
    return len(track.tokens) < len(text)


def _padded(texts: Sequence[Sequence[int]]) -> Int[Tensor, "text width"]:
    width = max(map(len, texts))
    return torch.tensor([[*text, *[0] * (width - len(text))] for text in texts])
