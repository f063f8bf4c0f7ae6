"""Tables on a terminal."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from patchpack.metrics.undefined import defined, shown

SHOWN_CLASSES = 20  # above this, the worst and the best half of these are printed


def new_table(*titles: str) -> Table:
    """A table without lines; cells are right-aligned."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title in titles:
        table.add_column(title, justify="right")
    return table


def class_lines(
    name: str, values: Sequence[float | None], classes: Sequence[str], form: str
) -> Iterator[str]:
    """A heading, and a line for each class: of more than SHOWN_CLASSES, the worst and the best.

    name    of the metric
    values  of each class; None or NaN: undefined
    form    of a value, ".3f"
    """
    pairs = list(zip(values, classes, strict=True))
    if len(pairs) <= SHOWN_CLASSES:
        yield f"{name} of each class:"
    else:
        half = SHOWN_CLASSES // 2
        ordered = sorted((value, label) for value, label in pairs if defined(value))
        kept = ordered[:half] + ordered[half:][-half:]
        yield (
            f"{name} of {len(kept)} of {len(pairs):,} classes, the worst and the best; "
            f"{len(ordered) - len(kept):,} are left out, {len(pairs) - len(ordered):,} are "
            "undefined:"
        )
        pairs = kept
    for value, label in pairs:
        yield f"  {shown(value, form):>6}  {label}"
