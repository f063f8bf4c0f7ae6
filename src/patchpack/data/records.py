"""One file of a dataset, before it is opened, the kinds of files, and the names of splits."""

from dataclasses import dataclass, field

from patchpack.data.images import SUFFIXES
from patchpack.data.video.decode import VIDEO_SUFFIXES

SPLIT_NAMES = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
}  # fmt: skip
PARTS = ("train", "val", "test")


class BadDataset(ValueError):
    """A dataset that cannot be used, and why."""


@dataclass(frozen=True)
class MediaType:
    """What a dataset is made of."""

    name: str
    suffixes: frozenset[str]  # of its files
    folders: bool = False  # whether a folder that holds images is one clip

    @property
    def expected(self) -> str:
        if self.folders:
            return (
                "expected <folder>/<split>/<class>/*.mp4 or <folder>/<class>/*.mp4, each a video "
                "or a folder of frames, or a .csv or .jsonl manifest with columns path, label and, "
                "if wanted, split"
            )
        return (
            "expected <folder>/<split>/<class>/*.jpg, <folder>/<class>/*.jpg, images directly in "
            "the folder, a COCO file, or a .csv or .jsonl manifest with columns path, label and, "
            "if wanted, split"
        )


IMAGES = MediaType("images", SUFFIXES)
CLIPS = MediaType("clips", VIDEO_SUFFIXES, folders=True)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image, or one clip, unopened."""

    key: str  # path relative to the root
    split: str = ""  # empty where the layout does not say
    label: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    held_out: bool = False  # held out of the training split, since nothing was for validation
    error: str = ""  # why it cannot be used, where the layout says so already


def split_name(name: str) -> str:
    """train, val and test by any of their usual names; others as they are."""
    return SPLIT_NAMES.get(name.lower(), name)
