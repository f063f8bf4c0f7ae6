"""Track unreadable images: report each once, and raise an error if there are too many.

The same limit applies to headers at indexing, and to pixels in training and evaluation.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from patchpack.data.images import BadImage
from patchpack.data.records import BadDataset

NAMED = 10  # maximum images listed in an error


def list_bounded(lines: Sequence[str], limit: int = 2 * NAMED) -> list[str]:
    """Return at most `limit` lines, and one with the number of those left out."""
    more = len(lines) - limit
    return [*lines[:limit], f"and {more:,} more"] if more > 0 else list(lines)


def check_fraction(max_fraction: float) -> None:
    """Raise ValueError for a maximum share of unreadable items that is no share."""
    if not 0 <= max_fraction <= 1:
        raise ValueError(f"max_bad_fraction must lie in [0, 1], not {max_fraction}")


class BadImages:
    """The unreadable images of one split.

    source        location of the images, for errors
    labels        class of every image by key; None without a label
    max_fraction  maximum fraction of images that may be unreadable
    reasons       images already known as unreadable: key → reason
    item_name     plural name of the items in errors
    """

    def __init__(
        self,
        source: Path | str,
        labels: Mapping[str, str | None],
        max_fraction: float,
        reasons: Mapping[str, str] | None = None,
        item_name: str = "images",
    ) -> None:
        check_fraction(max_fraction)
        self.source, self.labels, self.max_fraction = source, labels, max_fraction
        self.item_name = item_name
        self.reasons = dict(reasons or {})

    def add(self, errors: Iterable[BadImage]) -> list[BadImage]:
        """Record errors and return the new ones; raise BadDataset as `check` does."""
        new = {error.key: error for error in errors if error.key not in self.reasons}
        self.reasons |= {key: error.reason for key, error in new.items()}
        if new:
            self.check()
        return list(new.values())

    def check(self) -> None:
        """Raise BadDataset if too many images, or all images of a class, are unreadable."""
        bad, total = len(self.reasons), len(self.labels)
        if not total:
            raise BadDataset(f"{self.source} holds no {self.item_name}")
        if bad > self.max_fraction * total or bad == total:
            raise BadDataset(
                f"{self.source}: {bad} of {total} {self.item_name} cannot be used "
                f"(max_bad_fraction is {self.max_fraction:g}): {self._list(self.reasons)}"
            )
        readable = {label for key, label in self.labels.items() if key not in self.reasons}
        for label in sorted({label for label in self.labels.values() if label} - readable):
            keys = [key for key, other in self.labels.items() if other == label]
            raise BadDataset(
                f"{self.source}: none of the {len(keys)} {self.item_name} of class {label!r} can "
                f"be read: {self._list(keys)}"
            )

    def _list(self, keys: Iterable[str]) -> str:
        keys = list(keys)
        more = f"; and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
        return "; ".join(f"{key}: {self.reasons[key]}" for key in keys[:NAMED]) + more
