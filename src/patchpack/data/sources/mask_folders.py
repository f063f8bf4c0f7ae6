"""Folders of images with folders of masks beside them, and which mask belongs to which image.

The names of both folders are read in any case. A mask has the name of its image, with the suffix
of any image format, or with an ending such as `_mask`: `a.jpg` and `a.png`, or `a_mask.tif`.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from patchpack.data.formats import SUFFIXES

IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("masks", "mask", "annotations", "labels", "gt", "ground_truth", "segmentations")
ENDING = re.compile(r"(?<=.)[_\-. ](masks?|segmentation|seg|labels?|annotation|gt)$", re.IGNORECASE)


class MaskFolders(NamedTuple):
    """The names of a folder of images and of the folder of their masks."""

    images: str
    masks: str


def mask_folders(names: Sequence[str]) -> MaskFolders | None:
    """Return the folders of images and of masks among the names of folders; None without both."""
    images, masks = _first(names, IMAGE_FOLDERS), _first(names, MASK_FOLDERS)
    return MaskFolders(images, masks) if images and masks else None


def _first(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    named = {name.lower(): name for name in reversed(names)}
    return next((named[name] for name in wanted if name in named), None)


class MaskFiles:
    """The files of a folder of masks, found by the paths of images; a folder is listed once.

    folder  that holds the masks
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stems: dict[str, dict[str, list[str]]] = {}  # by folder: stem → names
        self._used: dict[str, set[str]] = defaultdict(set)

    def of(self, image: str) -> str | None:
        """Return the path of an image's mask; both are relative to their folders.

        PNG goes before the suffix of the image, this before others, and the image's own name
        before one with an ending.
        """
        folder, name = os.path.split(image)
        stem, suffix = os.path.splitext(name)
        candidates = self._list(folder).get(stem, [])
        if not candidates:
            return None
        order = (f"{stem}.png", f"{stem}{suffix}")
        chosen = next((name for name in order if name in candidates), candidates[0])
        self._used[folder].add(chosen)
        return os.path.join(folder, chosen)

    def unused(self) -> Iterator[str]:
        """Yield the paths of the files that are no image's mask, in the folders of the masks."""
        for folder in sorted(self._stems):
            for names in self._stems[folder].values():
                if not self._used[folder].intersection(names):
                    yield from (os.path.join(folder, name) for name in names)

    def _list(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._stems:
            try:
                names = sorted(os.listdir(self.folder / folder))
            except OSError:
                names = []
            exact: dict[str, list[str]] = defaultdict(list)
            ending: dict[str, list[str]] = defaultdict(list)
            for name in names:
                stem, suffix = os.path.splitext(name)
                if name.startswith(".") or suffix.lower() not in SUFFIXES:
                    continue
                exact[stem].append(name)
                if ENDING.search(stem):
                    ending[ENDING.sub("", stem)].append(name)
            self._stems[folder] = ending | exact
        return self._stems[folder]
