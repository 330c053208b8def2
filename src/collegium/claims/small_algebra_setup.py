"""What the small-scale experiment on arithmetic is made of: settings, halves of a domain, a task of real text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from collegium.claims.small_setup import SmallTexts, passages
from collegium.core.errors import DataError
from collegium.core.protocols import Tokenizer
from collegium.data import Document
from collegium.experts import FitConfig
from collegium.infer import HeldOut
from collegium.recipes.held_out import windows_of

ARCHAIC = ("thou", "thee", "thy", "thine", "thyself", "hath", "hast", "hadst", "doth", "dost", "didst", "shalt", "wilt")
"""Words that tell old drama from everything else that is read here."""


@dataclass(frozen=True)
class AlgebraSettings:
    """Sizes of the experiment, and what was fixed before it ran.

    source, target: the domains whose modules are made; the target's is the one that is negated.
    steps:     of a module of half a domain's text; one of all of it, and one of the task, take twice as many.
    pool:      passages of a domain; passage: their tokens.
    strengths: how much of the target's module is subtracted from the base.
    weights:   of the task's module in the analogy, the best of which is chosen on the target's dev text.
    feature:   the words whose rate is to fall; samples, sample_tokens: texts written from the beginning of each of the
               target's held-out windows to count them in, and how long they are.
    task_items, test_items, dev_items: tokens of an item are `item`; of its words the first `left` stand before the
               blank, the next `blank` are asked for.
    """

    base: str = "smollm2-135m"
    dtype: str = "bfloat16"
    source: str = "speeches"
    target: str = "drama"
    rank: int = 16
    layers: str = "top:10"
    rate: float = 2e-3
    steps: int = 24
    batch: int = 4
    window: int = 128
    context: int = 32
    pool: int = 20
    passage: int = 480
    eval_tokens: int = 4096
    dev_tokens: int = 1536
    scoring_batch: int = 4
    strengths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    weights: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9)
    feature: tuple[str, ...] = ARCHAIC
    samples: int = 2
    sample_tokens: int = 40
    item: int = 52
    left: int = 14
    blank: int = 8
    task_items: int = 192
    test_items: int = 192
    dev_items: int = 96

    @property
    def pair(self) -> tuple[str, str]:
        """The two domains whose modules are made."""
        return (self.source, self.target)

    def fit(self, *, seed: int, steps: int) -> FitConfig:
        """Return the settings of one fit: every module keeps its last weights, unless the first were better on dev."""
        return FitConfig(
            rank=self.rank,
            layers=self.layers,
            steps=steps,
            batch=self.batch,
            window=self.window,
            learning_rate=self.rate,
            evaluate_every=steps,
            patience=0,
            dev_tokens=self.dev_tokens,
            seed=seed,
        )


@dataclass(frozen=True)
class Texts:
    """What a module learns from, and what it is measured by while it is made."""

    train: tuple[Document, ...]
    dev: tuple[Document, ...]


@dataclass(frozen=True)
class Reader:
    """Draws a seed's texts, each for its own use."""

    texts: SmallTexts
    tokenizer: Tokenizer
    settings: AlgebraSettings
    seed: int

    def drawn(self, domain: str, part: str, *, tokens: int, count: int) -> tuple[Document, ...]:
        """Return passages of one part (train, dev, test) of a domain."""
        found = next(each for each in self.texts.seen if each.name == domain)
        documents = getattr(found.split(), part)
        return passages(documents, self.tokenizer, tokens=tokens, count=count, seed=self.seed, name=domain)

    def module_texts(self, domain: str, which: str) -> Texts:
        """Return a domain's first or second half, or the whole: passages go to the halves in turn."""
        settings = self.settings
        train = self.drawn(domain, "train", tokens=settings.passage, count=settings.pool)
        halves = {"first": train[::2], "second": train[1::2], "whole": train}
        return Texts(halves[which], self._windows(domain, "dev", settings.dev_tokens))

    def task_texts(self) -> Texts:
        """Return the source's task."""
        settings = self.settings
        return Texts(
            self._items(settings.source, "train", settings.task_items),
            self._items(settings.source, "dev", settings.dev_items),
        )

    def held_out(self) -> HeldOut:
        """Return held-out windows of every domain."""
        windows = {name: self._windows(name, "test", self.settings.eval_tokens) for name in self.texts.names}
        return self._judged(windows)

    def target_task(self, part: str) -> HeldOut:
        """Return the target's task, of which the answers count: dev to choose the weight by, test to judge by."""
        count = self.settings.dev_items if part == "dev" else self.settings.test_items
        return self._judged({self.settings.target: self._items(self.settings.target, part, count)})

    def _windows(self, domain: str, part: str, tokens: int) -> tuple[Document, ...]:
        window = self.settings.window
        return self.drawn(domain, part, tokens=window - 1, count=max(1, tokens // window))

    def _items(self, domain: str, part: str, count: int) -> tuple[Document, ...]:
        settings = self.settings
        drawn = self.drawn(domain, part, tokens=settings.item, count=count)
        return tuple(filled_blanks(drawn, left=settings.left, blank=settings.blank))

    def _judged(self, documents: dict[str, tuple[Document, ...]]) -> HeldOut:
        settings = self.settings
        return windows_of(
            documents, self.tokenizer, window=settings.window, context=settings.context, budget_tokens=None
        )


def filled_blanks(documents: Sequence[Document], *, left: int, blank: int) -> list[Document]:
    """Return a pair for each text: it with some of its words left out, and these words.

    The first and the last word may be cut and are left away. A text with no word behind the blank is passed over;
    raises DataError when that leaves none.

    >>> filled_blanks([Document(text="a b c d e f g")], left=2, blank=2)[0].prompt
    'Text: b c [...] f\\nThe missing words:'
    """
    found = []
    for document in documents:
        words = document.plain.split()[1:-1]
        if len(words) > left + blank:
            before, after = " ".join(words[:left]), " ".join(words[left + blank :])
            prompt = f"Text: {before} [...] {after}\nThe missing words:"
            answer = " " + " ".join(words[left : left + blank])
            found.append(Document(prompt=prompt, completion=answer, origin=document.origin))
    if not found:
        raise DataError(f"no text has more than {left + blank + 2} words; give longer ones.")
    return found


def feature_tokens(tokenizer: Tokenizer, vocab_size: int, words: Sequence[str]) -> list[int]:
    """Return the ids of the tokens that spell one of the words whole, whatever their case and the space before.

    Raises DataError when the tokenizer has none.
    """
    wanted = set(words)
    found = [token for token in range(vocab_size) if tokenizer.decode([token]).strip().lower() in wanted]
    if not found:
        raise DataError(f"this tokenizer has no token that is one of {', '.join(words)}.")
    return found


def feature_share(texts: Sequence[str], words: Sequence[str]) -> float:
    """Return which share of all words of the texts is one of these.

    >>> feature_share(["Thou art", "as thou wert!"], ["thou"])
    0.4
    """
    wanted = set(words)
    spoken = [word for text in texts for word in re.findall(r"[a-z']+", text.lower())]
    return sum(word in wanted for word in spoken) / max(1, len(spoken))
