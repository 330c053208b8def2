"""Text from bytes, and documents from one long text."""

import re
from pathlib import Path

from collegium.core.errors import DataError

MINIMUM_CHARACTERS = 2000

_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
_WIDE_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def read_text(path: Path) -> str:
    """Return a file's text with plain line breaks; raises DataError when it is binary or not UTF-8."""
    return decode_text(read_file(path), where=str(path))


def read_file(path: Path) -> bytes:
    """Return a file's bytes; raises DataError when it is not there, no plain file, or may not be read."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe could wait for ever
            raise DataError(
                f"{path} must be a plain file, but is a folder, pipe, socket or device. Take it away, or hide it with "
                "a leading dot."
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        kind = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        raise DataError(f"{path} {kind}. Check the path.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error


def decode_text(content: bytes, *, where: str) -> str:
    """Return UTF-8 bytes as text with plain line breaks.

    Raises DataError that names the first wrong byte and a likely encoding.

    >>> decode_text(b"one\\r\\ntwo", where="a.txt")
    'one\\ntwo'
    """
    mark = _WIDE_MARKS.get(content[:2])
    if mark:
        raise DataError(
            f"{where}: text must be UTF-8, this file begins with the mark of {mark}. {_convert(where, mark)}"
        )
    if b"\0" in content:
        place = content.index(b"\0")
        raise DataError(
            f"{where}: text must be UTF-8, byte {place} is zero, so this is a binary file (or UTF-16 without a mark). "
            "Take it away, or save it as plain text."
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(_wrong_byte(content, where)) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _wrong_byte(content: bytes, where: str) -> str:
    try:
        content.decode("utf-8")
        place = 0
    except UnicodeDecodeError as error:
        place = error.start
    line = content.count(b"\n", 0, place) + 1
    found = f"{where}: text must be UTF-8, byte {place} (line {line}) is 0x{content[place]:02x}."
    try:
        content.decode("cp1252")
    except UnicodeDecodeError:
        return f"{found} {_convert(where, 'ISO-8859-1')}"
    return f"{found} {_convert(where, 'WINDOWS-1252')}"


def _convert(where: str, encoding: str) -> str:
    return f"It is probably {encoding}: convert it with `iconv -f {encoding} -t UTF-8 {Path(where).name}`."


def cut_at_blank_lines(text: str, *, minimum: int = MINIMUM_CHARACTERS) -> list[str]:
    """Return a long text as documents of at least `minimum` characters, cut at blank lines alone.

    A rest that is shorter joins the document before it; only blank lines between documents are lost.

    >>> cut_at_blank_lines("one\\n\\ntwo\\n\\nthree", minimum=5)
    ['one\\n\\ntwo', 'three']
    """
    starts, begin = [0], 0
    for gap in _BLANK_LINES.finditer(text):
        if len(text[begin : gap.start()].strip()) >= minimum:
            begin = gap.end()
            starts.append(begin)
    if len(starts) > 1 and len(text[starts[-1] :].strip()) < minimum:
        starts.pop()
    ends = [*starts[1:], len(text)]
    pieces = (text[start:end].strip("\n") for start, end in zip(starts, ends, strict=True))
    return [piece for piece in pieces if piece.strip()]
