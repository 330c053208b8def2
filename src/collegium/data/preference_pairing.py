"""Pairs of answers that were labelled or rated one by one."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from collegium.core.cards import content_hash
from collegium.core.errors import DataError
from collegium.data.preference_rows import WAY_OUT, Judged
from collegium.data.preferences import Pair, plain_value

PAIRS_PER_PROMPT = 8


@dataclass(frozen=True)
class Paired:
    """Pairs made of single answers, and how many answers (surplus: pairs) were left out, as PairDomain counts them."""

    pairs: tuple[Pair, ...]
    duplicates: int = 0
    unusable: int = 0
    alone: int = 0
    surplus: int = 0


def pair_up(answers: Sequence[Judged], *, drop_unusable: bool = False) -> Paired:
    """Return the better over the worse of each two answers to one prompt (of one group), at most eight a prompt.

    A true label is better than a false one; of two ratings the higher is, and the pair's margin is their difference.
    A prompt's answers stand in the order of their hashes: neighbours are paired first, then those two apart, and so
    on until there are eight pairs, so that nothing depends on the order of rows and many answers come in.

    An answer with one label or rating twice counts once; one with several says nothing: it raises DataError or, with
    drop_unusable, is left out.

    >>> pair_up([Judged("2+2=", "4", 1.0, False), Judged("2+2=", "5", 0.0, False)]).pairs[0].chosen
    '4'
    """
    prompts: dict[object, list[Judged]] = {}
    for each in answers:
        prompt = content_hash(plain_value(each.prompt))
        prompts.setdefault((prompt, each.group, each.rated), []).append(each)
    parts = [_pair_prompt(listed, drop_unusable) for listed in prompts.values()]
    return Paired(
        tuple(pair for part in parts for pair in part.pairs),
        *(sum(getattr(part, name) for part in parts) for name in ("duplicates", "unusable", "alone", "surplus")),
    )


def _pair_prompt(answers: Sequence[Judged], drop_unusable: bool) -> Paired:
    by_text: dict[str, list[Judged]] = {}
    for each in answers:
        by_text.setdefault(content_hash(plain_value(each.answer)), []).append(each)
    clear = [by_text[key] for key in sorted(by_text) if len({each.worth for each in by_text[key]}) == 1]
    if len(clear) < len(by_text) and not drop_unusable:
        raise _two_ways(next(same for same in by_text.values() if len({each.worth for each in same}) > 1))
    kept = [same[0] for same in clear]
    duplicates = sum(map(len, clear)) - len(kept)
    unusable = len(answers) - sum(map(len, clear))
    counts = Counter(each.worth for each in kept)
    if len(counts) < 2:
        return Paired((), duplicates, unusable, alone=len(kept))
    pairs = tuple(islice(_differing(kept), PAIRS_PER_PROMPT))
    every = (len(kept) ** 2 - sum(count**2 for count in counts.values())) // 2
    return Paired(pairs, duplicates, unusable, surplus=every - len(pairs))


def _differing(kept: Sequence[Judged]) -> Iterator[Pair]:
    for apart in range(1, len(kept)):
        for one, other in zip(kept, kept[apart:], strict=False):
            if one.worth != other.worth:
                yield _pair(*((one, other) if one.worth > other.worth else (other, one)))


def _pair(better: Judged, worse: Judged) -> Pair:
    origin = f"{better.origin} over {worse.origin}"
    margin = better.worth - worse.worth if better.rated else None
    if margin is not None and not math.isfinite(margin):
        raise DataError(f"{origin}: the difference of these ratings is no finite number. Scale the ratings.")
    return Pair(better.prompt, better.answer, worse.answer, margin, better.group, origin)


def _two_ways(same: Sequence[Judged]) -> DataError:
    first = same[0]
    other = next(each for each in same if each.worth != first.worth)
    what = "rating" if first.rated else "label"
    return DataError(
        f"{other.origin}: an answer to a prompt has one {what}, this one has {other.worth:g} here and {first.worth:g} "
        f"at {first.origin}. {WAY_OUT}"
    )
