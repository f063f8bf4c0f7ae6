"""A part of a report: what was found, as words, tables, pictures and numbers.

One Section becomes HTML (`report.py`), Markdown and JSON, so the three never say different things.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from patchpack.visualize.html import Picture, paragraph, pictures, rows


@dataclass(frozen=True)
class Table:
    """Figures in rows; the first cell of each names it."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Section:
    """What one suite found."""

    name: str  # of the suite
    title: str
    text: Sequence[str] = ()  # paragraphs, before the tables
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    numbers: dict[str, Any] = field(default_factory=dict)

    def html(self) -> str:
        parts = [paragraph(text) for text in self.text]
        parts += [rows(table.header, table.rows) for table in self.tables]
        return "".join(parts) + (pictures(*self.pictures) if self.pictures else "")

    def markdown(self, folder: str) -> str:
        """The pictures lie in a folder of this name, as `picture_names` calls them."""
        lines = [f"## {self.title}"]
        lines += list(self.text)
        for table in self.tables:
            lines.append("\n".join(markdown_table(table)))
        for name, picture in zip(self.picture_names(), self.pictures, strict=True):
            lines.append(f"![{picture.caption}]({folder}/{name})")
        return "\n\n".join(lines) + "\n"

    def picture_names(self) -> list[str]:
        return [f"{self.name}-{number}.png" for number in range(1, len(self.pictures) + 1)]


def markdown_table(table: Table) -> list[str]:
    lines = ["| " + " | ".join(table.header) + " |", "|" + "---|" * len(table.header)]
    return lines + ["| " + " | ".join(row) + " |" for row in table.rows]
