"""Made-up tasks of known overlap, for toys: which words tell a label, and which tell the task.

A text is eight words. Two are of its task's own topic, two tell its label, four are common to all tasks. Tasks of one
family have one set of label words and one set of labels between them: what is learnt of one helps with another. Tasks
of different families have nothing in common but the fillers.
"""

import random
from collections.abc import Sequence

from collegium.core.errors import DataError
from collegium.data.labelled import LabelledTask, LabelledText, labelled_task

_FILLERS = ("it", "was", "so", "we", "saw", "how", "they", "go", "on", "and", "all", "is", "well", "then", "as", "one")
_TOPICS = (
    "soup bread stew roast", "ring crown coin watch", "kite sail mill flag", "night tide orbit comet",
    "scarf glove coat rug", "horn piano drum club", "cheese cream butter yogurt", "vase brick tile kiln",
    "pond marsh lily ditch", "novel poem essay diary", "exam class grade tutor", "road race wheel chain",
    "barn plough hay tractor", "tent rope boot map", "queen duke palace throne", "lens film tripod flash",
)  # fmt: skip
_FAMILIES: tuple[tuple[tuple[str, str], tuple[str, str]], ...] = (
    (("good", "lovely fine superb sweet"), ("bad", "awful nasty vile sour")),
    (("past", "yesterday formerly ago once"), ("next", "tomorrow soon later upcoming")),
    (("many", "dozens plenty hundreds crowds"), ("few", "hardly single lone scarce")),
    (("loud", "roar shout thunder bang"), ("calm", "hush whisper still silent")),
)
SIZE = 8


def synthetic_tasks(
    families: Sequence[int] = (0, 0, 1, 2), *, rows: int = 300, seed: int = 0
) -> tuple[LabelledTask, ...]:
    """Return a task for each number of a family, named `task1`, `task2` and so on.

    Raises DataError for a family there is not, or more tasks than there are topics.

    >>> tasks = synthetic_tasks((0, 0, 1), rows=40)
    >>> [(task.name, task.labels) for task in tasks]
    [('task1', ('bad', 'good')), ('task2', ('bad', 'good')), ('task3', ('next', 'past'))]
    """
    if len(families) > 2 * len(_TOPICS) or any(not 0 <= each < len(_FAMILIES) for each in families):
        raise DataError(
            f"there are {2 * len(_TOPICS)} topics and families 0 to {len(_FAMILIES) - 1}, got {list(families)}."
        )
    found = []
    for number, family in enumerate(families):
        draw = random.Random(f"task {number} {family} {seed}")
        topic = _topic(number)
        texts = []
        for count in range(rows):
            label, words = _FAMILIES[family][count % 2]
            chosen = draw.sample(topic, 2) + draw.sample(words.split(), 2) + draw.sample(_FILLERS, SIZE - 4)
            draw.shuffle(chosen)
            texts.append(LabelledText(" ".join(chosen), label, f"row {count}"))
        found.append(labelled_task(f"task{number + 1}", texts))
    return tuple(found)


def _topic(number: int) -> list[str]:
    """Return a topic's words; those of the second half are words of the first, read from their ends."""
    backwards = number >= len(_TOPICS)
    return [word[::-1] if backwards else word for word in _TOPICS[number % len(_TOPICS)].split()]
