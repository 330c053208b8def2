"""The prompt that two answers begin with, where a row has no column for it."""

import re
from collections.abc import Sequence
from itertools import takewhile

from collegium.data.preferences import Text

_TURN = re.compile(r"(?:\A|\n)Assistant:")
_SPACE = re.compile(r"\s")


def split_prompt(chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """Return the prompt, the chosen and the rejected answer of two texts that both begin with the prompt.

    Of two chats the prompt is the leading messages they share. Of two plain texts it is the characters they share: up
    to the last line that begins with `Assistant:`, that mark included; without one, up to their last white space, so
    that no word is cut. The white space goes to the prompt, but a single blank to the answers, as tokenizers have it.
    What both answers begin with counts as prompt too, where no such mark ends it.

    Each answer is the rest: prompt and answer make the text again. Where nothing is shared the prompt is empty.

    >>> split_prompt("\\n\\nHuman: Hi\\n\\nAssistant: Hello", "\\n\\nHuman: Hi\\n\\nAssistant: He sighs")
    ('\\n\\nHuman: Hi\\n\\nAssistant:', ' Hello', ' He sighs')
    >>> split_prompt("2+2 is four", "2+2 is five")
    ('2+2 is', ' four', ' five')
    """
    end = _shared(chosen, rejected)
    if isinstance(chosen, str):
        end = _boundary(chosen[:end])
    return chosen[:end], chosen[end:], rejected[end:]


def _shared(one: Sequence[object], other: Sequence[object]) -> int:
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))


def _boundary(shared: str) -> int:
    marks = [each.end() for each in _TURN.finditer(shared)]
    if marks:
        return marks[-1]
    end = max((each.end() for each in _SPACE.finditer(shared)), default=0)
    single_blank = end > 1 and shared[end - 1] == " " and not shared[end - 2].isspace()
    return end - 1 if single_blank else end
