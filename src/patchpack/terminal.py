"""The terminal that every verb prints on."""

from typing import Any

from rich.console import Console

from patchpack.printable import printable


class Terminal(Console):
    """A terminal that shows texts as they are: escapes, `[red]` and `:cat:` change nothing."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, highlight=False, emoji=False)

    def print(self, *objects: Any, **style: Any) -> None:
        """Print texts, each in one line, and tables."""
        super().print(*(printable(o) if isinstance(o, str) else o for o in objects), **style)
