"""What people wrote in a rendered chat, without what the chat template wrote around it."""

from collections.abc import Sequence

from collegium.core.protocols import Tokenizer

_TURNS = (("user",), ("user", "assistant", "user"), ("system", "user", "assistant", "user"))
"""Chats whose rendering shows every place where a template writes: with a system message and without."""
_CONTENT = "Xq{}Zv"


def template_parts(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Return what the tokenizer's chat template writes before, between and behind messages, longest first.

    Empty for a tokenizer without a template. A chat that the template refuses (some have no system message) shows
    nothing.

    >>> from collegium.testing.pico import byte_tokenizer
    >>> template_parts(byte_tokenizer())[0]
    '<|im_end|>\\n<|im_start|>assistant\\n'
    """
    if not getattr(tokenizer, "chat_template", None):
        return ()
    parts = {part for roles in _TURNS for part in _written(roles, tokenizer) if part.strip()}
    return tuple(sorted(parts, key=lambda part: (-len(part), part)))


def content_of(text: str, parts: Sequence[str]) -> str:
    """Return a text without the template's parts; what was never in a template stays as it is.

    The text may end anywhere: a part that is cut off at the end of a chat goes as well, and a text that is no more
    than the beginning of one is empty.

    >>> parts = ("<end><user>", "<user>", "<end>")
    >>> content_of("<user>To be<end><us", parts), content_of("<us", parts), content_of("a < b", parts)
    ('To be', '', 'a < b')
    """
    if any(part.startswith(text) for part in parts):
        return ""
    found = text
    for part in parts:
        found = found.replace(part, "\n")
    if found == text:
        return text
    cut = max((_overlap(found, part) for part in parts), default=0)
    return found[: len(found) - cut].strip("\n")


def _written(roles: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """Return what stands around the contents of a chat with these turns, as the tokenizer decodes it."""
    import jinja2

    contents = [_CONTENT.format(number) for number in range(len(roles))]
    turns = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    try:
        rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)  # pyright: ignore[reportAttributeAccessIssue]
    except (jinja2.TemplateError, IndexError, ValueError):
        return []
    rest, parts = tokenizer.decode(tokenizer.encode(rendered, add_special_tokens=False)), []
    for content in contents:
        before, found, rest = rest.partition(content)
        if not found:
            return []
        parts.append(before)
    return [*parts, rest]


def _overlap(text: str, part: str) -> int:
    """Return the length of the longest beginning of a part that the text ends with."""
    return next((size for size in range(len(part) - 1, 0, -1) if text.endswith(part[:size])), 0)
