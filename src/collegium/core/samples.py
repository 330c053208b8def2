"""What a feature judges: a prompt and a completion, each a text or the turns of a chat."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
    """One turn of a chat: who (`system`, `user`, `assistant`) and what."""

    role: str
    content: str


Text = str | tuple[Message, ...]
"""A plain text, or the turns of a chat."""


@dataclass(frozen=True)
class Sample:
    """A prompt and what was answered to it.

    >>> Sample("To be, or", " not to be").completion
    ' not to be'
    """

    prompt: Text
    completion: Text


def plain_text(text: Text) -> str:
    """Return all of a text: a chat's turns a line each.

    >>> plain_text((Message("user", "Hi"), Message("assistant", "Hello")))
    'Hi\\nHello'
    """
    return text if isinstance(text, str) else "\n".join(each.content for each in text)
