"""How well found clusters agree with labels."""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

from collegium.data.documents import Corpus


def found_and_labels(found: Corpus, labelled: Corpus) -> tuple[list[str], list[str]]:
    """Return the found and the labelled domain of each document; one that has two labels is left out."""
    labels: dict[str, list[str]] = {}
    for domain in labelled:
        for document in domain.documents:
            labels.setdefault(document.hash, []).append(domain.name)
    pairs = [(domain.name, labels[document.hash]) for domain in found for document in domain.documents]
    single = [(name, own[0]) for name, own in pairs if len(own) == 1]
    return [name for name, _ in single], [label for _, label in single]


def normalised_mutual_information(found: Sequence[Hashable], labels: Sequence[Hashable]) -> float:
    """Return 2 I(found; labels) / (H(found) + H(labels)): 1 when they are the same up to names, 0 when independent.

    >>> normalised_mutual_information([0, 0, 1, 1], ["law", "law", "code", "code"])
    1.0
    """
    total = len(labels)
    both, rows, columns = Counter(zip(found, labels, strict=True)), Counter(found), Counter(labels)
    entropy = _entropy(rows.values(), total) + _entropy(columns.values(), total)
    if entropy == 0:
        return 1.0
    shared = sum(
        count / total * math.log(count * total / (rows[row] * columns[column]))
        for (row, column), count in sorted(both.items(), key=repr)
    )
    return min(1.0, max(0.0, 2 * shared / entropy))


def purity(found: Sequence[Hashable], labels: Sequence[Hashable]) -> float:
    """Return the share of documents that have their cluster's commonest label.

    >>> purity([0, 0, 0, 1], ["law", "law", "code", "code"])
    0.75
    """
    both = Counter(zip(found, labels, strict=True))
    most = {row: max(count for (other, _), count in both.items() if other == row) for row in set(found)}
    return sum(most.values()) / len(labels)


def size_ratio(found: Sequence[Hashable]) -> float:
    """Return the largest cluster's size over the smallest's; clusters without documents are not known here.

    >>> size_ratio([0, 0, 0, 1])
    3.0
    """
    sizes = Counter(found).values()
    return max(sizes) / min(sizes)


def _entropy(counts: Iterable[int], total: int) -> float:
    return -sum(count / total * math.log(count / total) for count in counts)
