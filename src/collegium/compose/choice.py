"""Which voices are asked about which texts, and how that is shared out among several owners of voices."""

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Choice:
    """Which voices are asked: the same for every text, or k of them for each.

    names: the voices; index: `Int["batch k"]` positions in `names`, None = all of them for every text.
    """

    names: tuple[str, ...]
    index: Int[Tensor, "batch k"] | None = None

    @property
    def rows(self) -> int:
        """How many rows each text costs."""
        return len(self.names) if self.index is None else self.index.shape[1]

    def keep(self, rows: Int[Tensor, " kept"]) -> "Choice":
        """Return the choice for these texts alone."""
        return self if self.index is None else Choice(self.names, self.index[rows])


@dataclass(frozen=True)
class Share:
    """What one owner of voices is asked: its own choice, about its own texts alone.

    texts: which texts those are. ranks: which row of the whole choice each of its rows is; where a text has fewer
    voices here than another, its first one is asked again.
    """

    choice: Choice
    texts: Int[Tensor, " text"]
    ranks: Int[Tensor, "text k"]

    def keep(self, rows: Int[Tensor, " kept"]) -> tuple["Share", Int[Tensor, " own"]]:
        """Return the share of these texts alone, in their order, and which of its own texts they were."""
        same = rows[:, None] == self.texts
        here = same.any(dim=1)
        own = same[here].int().argmax(dim=1)
        return Share(self.choice.keep(own), here.nonzero().flatten(), self.ranks[own]), own


def share_out(choice: Choice, batch: int, owners: Sequence[Collection[str]]) -> list[Share | None]:
    """Return what each owner of voices is asked, None where that is nothing.

    >>> shares = share_out(Choice(("law", "code"), torch.tensor([[1], [0], [1]])), 3, [["law"], ["code"]])
    >>> [each.texts.tolist() for each in shares]
    [[1], [0, 2]]
    """
    return [_share(choice, batch, own) for own in owners]


def _share(choice: Choice, batch: int, own: Collection[str]) -> Share | None:
    places = [place for place, name in enumerate(choice.names) if name in own]
    names = tuple(choice.names[place] for place in places)
    if choice.index is None:
        return Share(Choice(names), torch.arange(batch), torch.tensor(places).expand(batch, -1)) if names else None
    mine = torch.isin(choice.index, torch.tensor(places, dtype=torch.long))
    texts = mine.any(dim=1).nonzero().flatten()
    if not len(texts):
        return None
    mine = mine[texts]
    ranks = mine.int().argsort(dim=1, descending=True, stable=True)[:, : int(mine.sum(dim=1).max())]
    ranks = torch.where(mine.gather(1, ranks), ranks, ranks[:, :1])
    index = torch.searchsorted(torch.tensor(places), choice.index[texts].gather(1, ranks))
    return Share(Choice(names, index), texts, ranks)


def put_together(
    answers: Sequence[tuple[Share, Float[Tensor, "..."]]], *, batch: int, rows: int
) -> Float[Tensor, "batch row *rest"]:
    """Return what every owner answered (`text k *rest`, each of its own shape), each row in its place."""
    first = answers[0][1]
    dtype = functools.reduce(torch.promote_types, (answer.dtype for _, answer in answers))
    whole = first.new_zeros(batch, rows, *first.shape[2:], dtype=dtype)
    for share, answer in answers:
        whole[share.texts[:, None], share.ranks] = answer.to(whole)
    return whole
