"""Which images could not be read: each is named once, and too many of them are an error.

One rule for headers when a folder is indexed, and for pixels when a run trains or is judged.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from patchpack.data.images import BadImage
from patchpack.data.records import BadDataset

NAMED = 10  # images that an error names


class BadImages:
    """The unreadable among the images of one split.

    source        where the images lie, as errors call it
    labels        the class of every image by its key, None where it has none
    max_fraction  of the images that may be unreadable
    reasons       those known already: key and what is wrong with it
    noun          what errors call them
    """

    def __init__(
        self,
        source: Path | str,
        labels: Mapping[str, str | None],
        max_fraction: float,
        reasons: Mapping[str, str] | None = None,
        item_name: str = "images",
    ) -> None:
        self.source, self.labels, self.max_fraction = source, labels, max_fraction
        self.item_name = item_name
        self.reasons = dict(reasons or {})

    def add(self, errors: Iterable[BadImage]) -> list[BadImage]:
        """Remember these and return those that are new; raises BadDataset as `check` does."""
        new = {error.key: error for error in errors if error.key not in self.reasons}
        self.reasons |= {key: error.reason for key, error in new.items()}
        if new:
            self.check()
        return list(new.values())

    def check(self) -> None:
        """Raise BadDataset where too many images, or all of a class, cannot be read."""
        bad, total = len(self.reasons), len(self.labels)
        if bad > self.max_fraction * total or bad == total:
            raise BadDataset(
                f"{self.source}: {bad} of {total} {self.item_name} cannot be used "
                f"(max_bad_fraction is {self.max_fraction:g}): {self._name(self.reasons)}"
            )
        readable = {label for key, label in self.labels.items() if key not in self.reasons}
        for label in sorted({label for label in self.labels.values() if label} - readable):
            lost = [key for key, other in self.labels.items() if other == label]
            raise BadDataset(
                f"{self.source}: none of the {len(lost)} {self.item_name} of class {label!r} can be "
                f"read: {self._name(lost)}"
            )

    def _name(self, keys: Iterable[str]) -> str:
        keys = list(keys)
        more = f"; and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
        return "; ".join(f"{key}: {self.reasons[key]}" for key in keys[:NAMED]) + more
