"""Tables on a terminal."""

from rich.table import Table


def new_table(*titles: str) -> Table:
    """A table without lines; cells are right-aligned."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title in titles:
        table.add_column(title, justify="right")
    return table
