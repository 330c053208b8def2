"""The floor beside every accuracy: what words alone tell, by logistic regression on differences of tf-idf vectors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from collegium.core.samples import plain_text
from collegium.data.preferences import Pair


def word_floor(train: Sequence[Pair], test: Sequence[Pair]) -> Bool[np.ndarray, " test"] | None:
    """Return which test pairs are ranked rightly by words alone; None without training pairs.

    A pair's features are tfidf(chosen) - tfidf(rejected) of words and pairs of words, learnt from the training pairs;
    each is given both ways round, so there is no intercept. A tie is no right answer.

    >>> pairs = [Pair("p", f"good {n}", f"bad {n}") for n in range(8)]
    >>> word_floor(pairs[:6], pairs[6:]).tolist()
    [True, True]
    """
    from scipy.sparse import vstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    if not train or not test:
        return None
    words: Any = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\w+|[^\w\s]")
    try:
        words.fit([plain_text(text) for pair in train for text in (pair.chosen, pair.rejected)])
    except ValueError:  # no word in any text
        return np.zeros(len(test), dtype=bool)

    def differences(pairs: Sequence[Pair]) -> Any:  # noqa: ANN401 - a sparse matrix of scipy's
        chosen, rejected = ([plain_text(getattr(pair, side)) for pair in pairs] for side in ("chosen", "rejected"))
        return words.transform(chosen) - words.transform(rejected)

    own = differences(train)
    labels = np.repeat([1, 0], len(train))
    fitted = LogisticRegression(C=10.0, fit_intercept=False, max_iter=1000).fit(vstack([own, -own]), labels)
    return np.asarray(fitted.decision_function(differences(test)) > 0)
