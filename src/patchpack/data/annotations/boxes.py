"""Bounding boxes: arrays (top, left, bottom, right) in pixels, with class indices.

They come from the export of an annotation tool (`data.sources.formats`) or a manifest's column
`objects`, a JSON list of {"bbox": [x, y, width, height], "category": "nucleus"} in pixels of the
upright image, optionally with the "area" of the object and "iscrowd" for a region of many objects.

Where all boxes of a source lie in 0..1, they are shares of the image; a message names the source.

Axes: image, object.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from patchpack.batch import Patches
from patchpack.data.annotations.annotation import Affine, Hash, Size
from patchpack.data.annotations.objects import objects_in_pixels, select_matching_sizes
from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.data.sources.objects import IGNORED, OBJECTS, ParsedObjects

MIN_VISIBLE = 0.3  # share of a box's area that must remain after a crop
COLUMN = OBJECTS
EXPECTED = (
    "expected a COCO file (.json), an export of YOLO, Pascal VOC, LabelMe or Label Studio, or a "
    'manifest with a column objects: [{"bbox": [x, y, width, height], "category": "name"}, …]'
)
CLIPPED = "reach outside their image and are clipped"
EMPTY = "have no area in their image and are skipped"
FOREIGN = "are of a category that is not listed and are skipped"
BROKEN = "are invalid and are skipped"
SHARE = "lie in the first pixel, as shares of the image would, and are skipped"
NAMED = 5  # images that messages name


@dataclass(frozen=True, eq=False)
class Boxes:
    """The boxes of one image, in its pixels."""

    boxes: Float[np.ndarray, "object 4"]
    labels: Int[np.ndarray, " object"]

    in_pixels: ClassVar[bool] = True

    def read(self, size: Size, key: str) -> "Boxes":
        return self

    def crop(self, top: int, left: int, height: int, width: int) -> "Boxes":
        """Clip to the crop; drop boxes with less than MIN_VISIBLE of their area in it."""
        return self.shifted(top, left).clipped((height, width))

    def resize(self, before: Size, after: Size) -> "Boxes":
        return self.scaled(after[0] / before[0], after[1] / before[1])

    def hflip(self, size: Size) -> "Boxes":
        return self.mapped((-1, 0, size[1], 0, 1, 0))

    def rot90(self, k: int, size: Size) -> "Boxes":
        height, width = size
        boxes = self
        for side in (width, height, width, height)[: k % 4]:
            boxes = boxes.mapped((0, 1, 0, -1, 0, side))
        return boxes

    def affine(self, matrix: Affine, inverse: Affine, size: Size) -> "Boxes":
        return self.mapped(inverse).clipped(size)

    def merge(
        self, parts: Sequence["Boxes"], offsets: Sequence[tuple[int, int]], size: Size
    ) -> "Boxes":
        shifted = [
            part.shifted(-top, -left) for part, (top, left) in zip(parts, offsets, strict=True)
        ]
        return Boxes(
            np.concatenate([part.boxes for part in shifted]),
            np.concatenate([part.labels for part in shifted]),
        )

    def attach(self, patches: Patches, size: Size, original: "Boxes | None") -> Patches:
        """Add the targets `boxes`, relative to the sides of the image, and `box_labels`."""
        relative = self.scaled(1 / size[0], 1 / size[1]).boxes
        targets = {
            "boxes": torch.from_numpy(relative),
            "box_labels": torch.from_numpy(self.labels),
        }
        return replace(patches, targets=patches.targets | targets)

    def shifted(self, top: float, left: float) -> "Boxes":
        """Return the boxes relative to a new origin."""
        boxes = self.boxes - np.array([top, left, top, left], np.float32)
        return replace(self, boxes=boxes)

    def scaled(self, y: float, x: float) -> "Boxes":
        return replace(self, boxes=self.boxes * np.array([y, x, y, x], np.float32))

    def clipped(self, size: Size) -> "Boxes":
        """Clip to a size; drop boxes that lose more than 1 - MIN_VISIBLE of their area."""
        inside = np.clip(self.boxes, 0, np.array([*size, *size], np.float32))
        before, after = (
            np.clip(b[:, 2:] - b[:, :2], 0, None).prod(1) for b in (self.boxes, inside)
        )
        kept = (after > 0) & (after >= MIN_VISIBLE * before)
        return Boxes(inside[kept], self.labels[kept])

    def mapped(self, matrix: Affine) -> "Boxes":
        """Apply an affine map to the corners; return the boxes around the results."""
        a, b, c, d, e, f = matrix
        top, left, bottom, right = self.boxes.T
        x = np.stack([left, right, left, right])
        y = np.stack([top, top, bottom, bottom])
        xs, ys = a * x + b * y + c, d * x + e * y + f
        sides = [ys.min(0), xs.min(0), ys.max(0), xs.max(0)]
        return replace(self, boxes=np.stack(sides, 1).astype(np.float32))


@dataclass(frozen=True, eq=False)
class BoxAnnotations:
    """The boxes of all images of an index."""

    images: tuple[Boxes, ...]
    classes: tuple[str, ...]
    areas: tuple[Float[np.ndarray, " object"], ...]  # px, of the objects in the boxes
    crowds: tuple[Boxes, ...]  # regions of many objects: not trained on, and ignored by AP

    name: ClassVar[str] = "boxes"

    def select(self, rows: Int[np.ndarray, " row"]) -> "BoxAnnotations":
        images, areas, crowds = (
            tuple(values[row] for row in rows) for values in (self.images, self.areas, self.crowds)
        )
        return replace(self, images=images, areas=areas, crowds=crowds)

    def item(self, row: int, seed: int, epoch: int, root: Path) -> Boxes:
        return self.images[row]

    def stream_lengths(self, seed: int, epoch: int) -> None:
        return None

    def digest(self, hash: Hash) -> None:
        for boxes in self.images:
            hash.update(boxes.boxes.astype("<f4").tobytes() + boxes.labels.tobytes())

    def files(self) -> Sequence[str]:
        return ()


@dataclass(frozen=True)
class AnnotationIssues:
    """Boxes that are clipped or skipped, with a few of their names."""

    counts: Counter[str]  # issue → boxes
    keys: tuple[str, ...]  # of images, each with the names of its objects
    boxes: int  # all boxes, with and without issues
    images: tuple[BadImage, ...]  # images skipped: their size is not that of their annotations
    notes: tuple[str, ...] = ()  # what the reader of the source passed over or assumed

    @property
    def skipped(self) -> int:
        return sum(count for issue, count in self.counts.items() if issue != CLIPPED)

    def messages(self) -> list[str]:
        """Return notes and a summary; empty without either."""
        if not self.counts:
            return list(self.notes)
        parts = ", ".join(f"{count:,} {issue}" for issue, count in self.counts.most_common())
        return [*self.notes, f"of {self.boxes:,} boxes {parts}: {'; '.join(self.keys)}"]


def has_boxes(index: Index) -> bool:
    """Return whether the source has objects, or is a manifest with a column of boxes."""
    return COLUMN in index.parsed or any(index.columns.get(COLUMN, ()))


def attach_boxes(
    index: Index, classes: tuple[str, ...], max_bad_fraction: float
) -> tuple[Index, AnnotationIssues]:
    """Return the images with their boxes; images without boxes are kept as negative examples.

    Images whose size differs from the columns height and width, if any, are skipped: their boxes
    were annotated at another size.

    classes  names of the classes; all categories of the data, sorted by name, when empty

    Raise BadDataset if no image has a box, or if more than `max_bad_fraction` of the boxes cannot
    be used.
    """
    root = index.root
    index, other_sizes = select_matching_sizes(index)
    if other_sizes and not len(index):
        raise BadDataset(f"{root}: {other_sizes[0]}, and so with every image")
    parsed, notes = objects_in_pixels(index)
    total = sum(map(len, parsed))
    categories = {name for item in parsed for name in item.categories if name} - {IGNORED}
    if not categories:
        splits = set(index.splits) - {"all"}
        of = f" of the split {min(splits)!r}" if len(splits) == 1 else ""
        what = f"{total} boxes, but none of a listed category" if total else "no box"
        raise BadDataset(f"{root} has {what} for any image{of}: {EXPECTED}")
    classes = classes or tuple(sorted(categories))
    labels = {name: label for label, name in enumerate(classes)}
    counts: Counter[str] = Counter()
    names: list[str] = []
    usable: list[_UsableBoxes] = []
    for row, item in enumerate(parsed):
        boxes, flags = _usable_boxes(item, (index.heights[row], index.widths[row]), labels)
        usable.append(boxes)
        for issue, flag in flags.items():
            counts[issue] += int(flag.sum())
        if len(names) < NAMED and (positions := np.flatnonzero(np.any([*flags.values()], 0))).size:
            named = ", ".join(item.name(int(position)) for position in positions[:NAMED])
            names.append(f"{index.keys[row]} ({named})")
    issues = AnnotationIssues(+counts, tuple(names), total, other_sizes, notes)
    if issues.skipped > max_bad_fraction * total:
        raise BadDataset(
            f"{root}: {issues.skipped} of {total} boxes cannot be used "
            f"(max_bad_fraction is {max_bad_fraction:g}): {issues.messages()[-1]}"
        )
    images, areas, crowds = (
        tuple(getattr(boxes, name) for boxes in usable) for name in _UsableBoxes._fields
    )
    return index.with_annotation(BoxAnnotations(images, classes, areas, crowds)), issues


class _UsableBoxes(NamedTuple):
    """The boxes of one image that can be used."""

    image: Boxes
    areas: Float[np.ndarray, " object"]
    crowd: Boxes


def _usable_boxes(
    item: ParsedObjects, size: Size, labels: dict[str, int]
) -> tuple[_UsableBoxes, dict[str, Bool[np.ndarray, " object"]]]:
    """Clip boxes to an image of this size and drop unusable ones; return these, and flags of the
    boxes with each issue."""
    classes = np.array([labels.get(name, -1) for name in item.categories], np.int64)
    inside = np.clip(item.boxes, 0, np.array([*size, *size], np.float64))
    broken = np.asarray(~np.isfinite(item.boxes).all(1))
    empty = ~broken & ((inside[:, 2:] - inside[:, :2]) <= 0).any(1)
    share = ~broken & ~empty & (inside <= min(1, max(size) - 1)).all(1)
    foreign = ~(broken | empty | share) & (classes < 0)
    kept = ~(broken | empty | share | foreign)
    foreign &= np.array([name != IGNORED for name in item.categories], bool)
    clipped = kept & (np.abs(inside - item.boxes) > 1).any(1)
    flags: dict[str, np.ndarray] = {
        BROKEN: broken,
        EMPTY: empty,
        SHARE: share,
        FOREIGN: foreign,
        CLIPPED: clipped,
    }
    inside = inside.astype(np.float32)
    single, crowd = kept & ~item.crowd, kept & item.crowd
    box_areas = (inside[single, 2:] - inside[single, :2]).prod(1)
    given = item.areas[single]
    return _UsableBoxes(
        Boxes(inside[single], classes[single]),
        np.where(np.isfinite(given), given, box_areas),
        Boxes(inside[crowd], classes[crowd]),
    ), flags
