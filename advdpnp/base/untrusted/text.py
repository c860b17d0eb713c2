"""Texts of strangers (names, labels, captions) made safe for the place they go to."""

import re
import unicodedata
from typing import Any

LONGEST_NAME = 255
"""Characters of a name in tables, as of a file name."""


def printable(text: str, most: int | None = None) -> str:
    """The text with an escape ("\\x1b", "\\n", "\\u202e") for each sign that has no shape or moves others.

    So nothing in it can end a line, colour a terminal, turn the direction of reading, or fail to be encoded.

    Args:
        most: characters after which it is cut, with "…" at the end.
    """
    if most is not None and len(text) > most:
        text = f"{text[: most - 1]}…"
    return text if text.isprintable() else "".join(_shown(sign) for sign in text)


def _shown(sign: str) -> str:
    if sign.isprintable():
        return sign
    if unicodedata.category(sign) == "Zs":
        return " "
    return sign.encode("unicode_escape", "surrogatepass").decode("ascii")


def shown(value: object, most: int = 60) -> str:
    """A value of any kind in a message: its ``repr``, cut after so many characters."""
    if isinstance(value, str | bytes):
        value = value[: most + 1]
    elif isinstance(value, int) and abs(value) >= 10**most:
        return f"a number of {most} digits or more"
    elif isinstance(value, list | tuple | dict | set) and len(value) > most:
        return f"a {type(value).__name__} of {len(value)}"
    try:
        return printable(repr(value), most)
    except RecursionError:
        return f"a {type(value).__name__}"


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_cell(value: Any) -> Any:
    """A cell of a CSV table: a text that spreadsheets would run as a formula gets an apostrophe before it.

    Numbers stay numbers, also those that are texts already.
    """
    if not isinstance(value, str) or not value:
        return value
    value = printable(value)
    return f"'{value}" if value.startswith((*_FORMULA, "'")) and not _NUMBER.fullmatch(value) else value


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def from_csv_cell(text: str) -> str:
    """The text that ``csv_cell`` made this of."""
    return text[1:] if text[:1] == "'" and text[1:].startswith((*_FORMULA, "'")) else text


_MARKDOWN = str.maketrans({
    **{sign: f"\\{sign}" for sign in "\\`*_|[]~"}, "&": "&amp;", "<": "&lt;", "$": "&#36;", "@": "&#64;",
})  # fmt: skip
_LINKS = re.compile(r"(?i)(?<=[a-z]):(?=//)|(?<=www)\.")


def markdown(text: str) -> str:
    """Text in Markdown: no emphasis, code, cell, link, image, mention, formula or tag comes of it."""
    return _LINKS.sub(lambda found: f"&#{ord(found[0])};", printable(text).translate(_MARKDOWN))
