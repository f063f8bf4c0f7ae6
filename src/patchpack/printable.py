"""Names on a terminal and in pictures: one line, without characters that act on what shows them.

File names, class names and texts come from users' files. Printed as they are, they could move the
cursor, recolor or retitle a terminal, add lines that look like a program's, or reverse what stands
behind them. JSON output needs nothing of this: there, names stay exact.
"""

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


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


def console(*, stderr: bool = False) -> "Console":
    """A terminal on which texts stay as they are: `[red]` and `:cat:` are no markup."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)
