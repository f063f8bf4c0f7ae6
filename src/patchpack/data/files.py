"""One image file of a dataset, before it is opened, and the names of splits."""

from dataclasses import dataclass, field

SPLIT_NAMES = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
}  # fmt: skip
PARTS = ("train", "val", "test")


class BadDataset(ValueError):
    """A dataset that cannot be used, and why."""


@dataclass(frozen=True, kw_only=True)
class File:
    """One image file, unopened."""

    key: str  # path relative to the root
    split: str = ""  # empty where the layout does not say
    label: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    held: bool = False  # held out of the training split, since nothing was for validation
    fault: str = ""  # why it cannot be used, where the layout says so already


def split_name(name: str) -> str:
    """train, val and test by any of their usual names; others as they are."""
    return SPLIT_NAMES.get(name.lower(), name)
