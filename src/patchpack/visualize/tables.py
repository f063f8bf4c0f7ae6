"""What the tables of all evaluations share."""

from typing import Any

from rich.table import Table

from patchpack.evaluation import Cost


def cost_of(result: Cost) -> dict[str, Any]:
    """What judging took, as JSON."""
    return {
        "max_tokens": result.max_tokens,
        "gflops_per_image": result.gflops_per_image,
        "images_per_s": result.images_per_s,
        "unreadable": list(result.unreadable),
    }


def new_table(*titles: str) -> Table:
    """A table without lines, its numbers to the right."""
    rows = Table(box=None, padding=(0, 1), header_style="dim")
    for title in titles:
        rows.add_column(title, justify="right")
    return rows
