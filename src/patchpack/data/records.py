"""Records of a dataset: one unopened file each, with its split and label; media types; splits."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from patchpack.data.formats import SUFFIXES
from patchpack.data.text_files import clean
from patchpack.data.video.decode import VIDEO_SUFFIXES

SPLIT_NAMES = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "train_set": "train", "training_set": "train", "test_set": "test", "testing_set": "test",
    "val_set": "val", "valid_set": "val", "validation_set": "val", "dev_set": "val",
}  # fmt: skip
PARTS = ("train", "val", "test")
NUMBER = re.compile(r"[+-]?\d{1,15}(\.\d*)?", re.ASCII)


class BadDataset(ValueError):
    """A dataset that cannot be used; the message gives the reason."""


@dataclass(frozen=True)
class MediaType:
    """The type of a dataset's items: images or clips."""

    name: str  # plural, for messages
    suffixes: frozenset[str]  # file suffixes, lower case, with the dot
    folders: bool = False  # whether a folder of images is one clip

    @property
    def expected(self) -> str:
        """The accepted layouts, for errors."""
        if self.folders:
            return (
                "expected <folder>/<split>/<class>/*.mp4 or <folder>/<class>/*.mp4, each a video "
                "or a folder of frames, or a .csv, .tsv or .jsonl manifest with columns path, "
                "label and optionally split"
            )
        return (
            "expected <folder>/<split>/<class>/*.jpg, <folder>/<class>/*.jpg, images directly in "
            "the folder, a COCO file, or a .csv, .tsv or .jsonl manifest with columns path, label "
            "and optionally split"
        )


IMAGES = MediaType("images", SUFFIXES)
CLIPS = MediaType("clips", VIDEO_SUFFIXES, folders=True)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One unopened image or clip."""

    key: str  # path relative to the root
    split: str = ""  # split name; empty if the layout defines none
    label: str | None = None  # class name; None without a label
    columns: dict[str, str] = field(default_factory=dict)  # further manifest columns
    # Annotations that the source parses itself, such as the boxes of a COCO file.
    parsed: dict[str, object] = field(default_factory=dict, compare=False)
    held_out: bool = False  # moved from train to val, because the dataset has no val split
    error: str = ""  # reason the item cannot be used; empty if none


def split_name(name: str) -> str:
    """Map the usual names of train, val and test to these; return other names unchanged.

    Case does not count, nor do spaces at the ends.
    """
    name = clean(name)
    return SPLIT_NAMES.get(name.casefold(), name)


def alike(names: Iterable[str]) -> list[list[str]]:
    """Return the names that differ only in case, spaces or the writing of a number (1, 1.0, 01)."""
    same: dict[str | float, list[str]] = defaultdict(list)
    for name in sorted(names):
        number = float(name) if NUMBER.fullmatch(name) else None
        same[" ".join(name.casefold().split()) if number is None else number].append(name)
    return [names for names in same.values() if len(names) > 1]


def list_names(names: Sequence[str], limit: int = 10) -> str:
    """Return quoted names for a message: at most `limit`, and the number of those left out."""
    shown = ", ".join(map(repr, names[:limit]))
    return f"{shown} and {len(names) - limit:,} more" if len(names) > limit else shown
