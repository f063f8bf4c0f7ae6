"""A section of an evaluation report: text, tables, pictures and numbers.

HTML, Markdown and JSON reports render the same Section, so they agree.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from patchpack.printable import printable
from patchpack.visualize.html import Picture, paragraph, pictures, table


@dataclass(frozen=True)
class Table:
    """A table of text cells. The first cell of each row is its label."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Section:
    """The results of one evaluation suite."""

    name: str  # suite name, key in the JSON report
    title: str
    text: Sequence[str] = ()  # paragraphs before the tables
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    numbers: dict[str, Any] = field(default_factory=dict)  # the JSON report of the suite

    def html(self) -> str:
        """Return the section as HTML, without its title."""
        parts = [paragraph(text) for text in self.text]
        parts += [table(t.header, t.rows) for t in self.tables]
        return "".join(parts) + (pictures(*self.pictures) if self.pictures else "")

    def markdown(self, folder: str) -> str:
        """Return the section as Markdown with links to pictures `folder/<picture name>`."""
        lines = [f"## {markdown_text(self.title)}", *map(markdown_text, self.text)]
        lines += ["\n".join(markdown_table(t)) for t in self.tables]
        for name, picture in zip(self.picture_names(), self.pictures, strict=True):
            lines.append(f"![{markdown_text(picture.caption)}]({folder}/{name})")
        return "\n\n".join(lines) + "\n"

    def picture_names(self) -> list[str]:
        """Return the file name of each picture."""
        return [f"{self.name}-{number}.png" for number in range(1, len(self.pictures) + 1)]


def markdown_table(content: Table) -> list[str]:
    """Return the lines of a Markdown table."""
    header, *rows = (
        "| " + " | ".join(map(markdown_text, row)) + " |" for row in (content.header, *content.rows)
    )
    return [header, "|" + "---|" * len(content.header), *rows]


def markdown_text(text: str) -> str:
    """Return plain text in one line of Markdown, in which names start no tag, link or cell."""
    return re.sub(r"[\\`\[\]<>|]", lambda match: f"\\{match[0]}", printable(text))
