"""Names on a terminal and in pictures: one line, without characters that act on what shows them.

File names, class names and texts come from users' files. Printed as they are, they could move the
cursor, recolor or retitle a terminal, add lines that look like a program's, or reverse what stands
behind them. JSON output needs nothing of this: there, names stay exact.
"""

import os
import unicodedata


def printable(text: object) -> str:
    """Return a text in one line, with unprintable characters as escapes: `\\n`, `\\x1b`, `\\u202e`.

    Control characters, line and paragraph separators, bidirectional and invisible format
    characters, and bytes that are no UTF-8 are escaped; letters, marks, symbols and spaces stay.
    """
    return "".join(c if _is_printable(c) else _escape(c) for c in str(text))


def _is_printable(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def message_of(error: Exception) -> str:
    """Return an error in one line; of the system's errors, the file and the reason."""
    if isinstance(error, OSError) and isinstance(error.filename, str | bytes) and error.strerror:
        return printable(f"{os.fsdecode(error.filename)}: {error.strerror}")
    return printable(error)
