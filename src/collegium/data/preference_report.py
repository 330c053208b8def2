"""What preference data holds, in numbers: sizes, contradictions, leaks, and how far length alone would get."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from collegium.core.cards import Source
from collegium.core.protocols import Tokenizer
from collegium.data.documents import Document
from collegium.data.encoding import encode
from collegium.data.preference_leaks import Leaks, PromptLeak, find_leaks
from collegium.data.preferences import MINIMUM_PROMPTS, Pair, PairCorpus, PairDomain, PairSplit, Text, plain_text

_UNLIMITED = 10**9
"""A tokenizer that knows no limit names an enormous one."""


@dataclass(frozen=True)
class Lengths:
    """How the lengths of answers, in characters, go with what is preferred.

    chosen_longer: share of pairs whose chosen answer is the longer. matched: share whose lengths differ by at most a
    tenth of the longer. rule, rule_accuracy: the better of always preferring the longer and the shorter answer, and how
    often it is right; equal lengths count half. chosen, rejected: mean characters.
    """

    chosen_longer: float
    matched: float
    rule: Literal["longer", "shorter"]
    rule_accuracy: float
    chosen: float
    rejected: float


@dataclass(frozen=True)
class Tokens:
    """Tokens of a prompt with one answer: the most, and the share of pairs with more than the context holds.

    context, over_context: None where the context's size is not known.
    """

    longest: int
    context: int | None
    over_context: float | None


@dataclass(frozen=True)
class PreferenceDomain:
    """One domain of pairs in numbers.

    prompts: different ones. groups: different ones that the split goes by, prompts where pairs have no group.
    split: pairs in train, dev and test; None for under three groups. duplicates, unusable, alone, surplus: what was
    left out, as `PairDomain` says. contradictions: of two answers to a prompt each preferred to the other.
    leaks: test prompts that equal or resemble one of train or dev of any domain. shared_answers: different answers of
    test pairs that stand in train or dev of any domain. Both None without a split. tokens: None without a tokenizer.
    """

    name: str
    kind: str
    pairs: int
    prompts: int
    groups: int
    split: Mapping[str, int] | None
    duplicates: int
    unusable: int
    alone: int
    surplus: int
    contradictions: int
    leaks: int | None
    shared_answers: int | None
    lengths: Lengths
    tokens: Tokens | None
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class PreferenceDescription:
    """Preference data in numbers: its domains, and test prompts that resemble what is learned from."""

    domains: tuple[PreferenceDomain, ...]
    leaks: tuple[PromptLeak, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain values for JSON."""
        return asdict(self)


def describe_preferences(
    corpus: PairCorpus, tokenizer: Tokenizer | None = None, *, context_tokens: int | None = None
) -> PreferenceDescription:
    """Return domains of pairs in numbers; tokens are counted where there is a tokenizer.

    context_tokens: how many tokens a judge reads; by default what the tokenizer says of its model.

    Raises DataError for chats where the tokenizer has no usable chat template.

    >>> from collegium.data import Pair, PairCorpus, PairDomain
    >>> sums = PairDomain("sums", tuple(Pair(f"{n}+1=", f"{n + 1}", "many") for n in range(9)))
    >>> describe_preferences(PairCorpus((sums,))).domains[0].lengths.rule
    'shorter'
    """
    splits = {each.name: each.split() for each in corpus if len(_groups(each.pairs)) >= MINIMUM_PROMPTS}
    leaks, context = find_leaks(splits), context_tokens or _context(tokenizer)
    return PreferenceDescription(
        tuple(_describe(each, splits.get(each.name), leaks, tokenizer, context) for each in corpus), leaks.found
    )


def _describe(
    domain: PairDomain, split: PairSplit | None, leaks: Leaks, tokenizer: Tokenizer | None, context: int | None
) -> PreferenceDomain:
    return PreferenceDomain(
        name=domain.name,
        kind=domain.kind,
        pairs=len(domain.pairs),
        prompts=len({pair.prompt for pair in domain.pairs}),
        groups=len(_groups(domain.pairs)),
        split=_sizes(split),
        duplicates=domain.duplicates,
        unusable=domain.unusable,
        alone=domain.alone,
        surplus=domain.surplus,
        contradictions=_contradictions(domain),
        leaks=leaks.prompts.get(domain.name),
        shared_answers=leaks.answers.get(domain.name),
        lengths=_lengths(domain.pairs),
        tokens=None if tokenizer is None else _tokens(domain.pairs, tokenizer, context),
        sources=domain.sources,
    )


def _groups(pairs: Iterable[Pair]) -> set[str]:
    return {each.hash for each in pairs}


def _sizes(split: PairSplit | None) -> dict[str, int] | None:
    if split is None:
        return None
    return {"train": len(split.train), "dev": len(split.dev), "test": len(split.test)}


def _contradictions(domain: PairDomain) -> int:
    said = {(each.prompt, each.chosen, each.rejected) for each in domain.pairs}
    return sum((prompt, rejected, chosen) in said for prompt, chosen, rejected in said) // 2


def _lengths(pairs: Sequence[Pair]) -> Lengths:
    lengths = [(len(plain_text(each.chosen)), len(plain_text(each.rejected))) for each in pairs]
    count = max(len(pairs), 1)
    longer = sum(chosen > rejected for chosen, rejected in lengths)
    right = (longer + sum(chosen == rejected for chosen, rejected in lengths) / 2) / count
    return Lengths(
        chosen_longer=longer / count,
        matched=sum(each.length_matched for each in pairs) / count,
        rule="longer" if right >= 0.5 else "shorter",
        rule_accuracy=max(right, 1 - right),
        chosen=sum(chosen for chosen, _ in lengths) / count,
        rejected=sum(rejected for _, rejected in lengths) / count,
    )


def _context(tokenizer: Tokenizer | None) -> int | None:
    said = getattr(tokenizer, "model_max_length", None)
    return said if isinstance(said, int) and said < _UNLIMITED else None


def _tokens(pairs: Sequence[Pair], tokenizer: Tokenizer, context: int | None) -> Tokens:
    counted: dict[tuple[Text, Text], int] = {}
    longest = []
    for pair in pairs:
        for answer in (pair.chosen, pair.rejected):
            if (pair.prompt, answer) not in counted:
                counted[pair.prompt, answer] = _count(pair, answer, tokenizer)
        longest.append(max(counted[pair.prompt, each] for each in (pair.chosen, pair.rejected)))
    over = None if context is None or not pairs else sum(each > context for each in longest) / len(pairs)
    return Tokens(max(longest, default=0), context, over)


def _count(pair: Pair, answer: Text, tokenizer: Tokenizer) -> int:
    if isinstance(pair.prompt, str) or isinstance(answer, str):
        document = Document(prompt=plain_text(pair.prompt), completion=plain_text(answer), origin=pair.origin)
    else:
        document = Document(messages=(*pair.prompt, *answer), origin=pair.origin)
    encoded = encode(document, tokenizer)
    return len(encoded.prefix) + len(encoded.tokens)
