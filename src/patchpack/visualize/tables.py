"""Tables and JSON records that the evaluations of all tasks share."""

from typing import Any

from rich.table import Table

from patchpack.evaluation import Cost


def cost_of(result: Cost) -> dict[str, Any]:
    """Return the cost of an evaluation at one token budget as a JSON object."""
    return {
        "max_tokens": result.max_tokens,
        "gflops_per_image": result.gflops_per_image,
        "images_per_s": result.images_per_s,
        "unreadable": list(result.unreadable),
    }


def new_table(*titles: str) -> Table:
    """Return an empty terminal table without borders, with right-aligned columns."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title in titles:
        table.add_column(title, justify="right")
    return table
