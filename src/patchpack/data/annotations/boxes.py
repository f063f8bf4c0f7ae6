"""Bounding boxes: arrays (top, left, bottom, right) in pixels, with class indices.

They come from a COCO file (`data.sources.coco`) or a manifest's column `objects`, a JSON list of
{"bbox": [x, y, width, height], "category": "nucleus"} in pixels of the upright image, optionally
with the "area" of the object and "iscrowd" for a region of many objects.

Axes: image, object.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from patchpack.batch import Patches
from patchpack.data.annotations.annotation import Affine, Hash, Size
from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.data.sources.coco import OBJECTS, SIZE, ParsedBoxes, parse_cell

MIN_VISIBLE = 0.3  # share of a box's area that must remain after a crop
COLUMN = OBJECTS
EXPECTED = (
    "expected a COCO file (.json), or a manifest with a column objects: "
    '[{"bbox": [x, y, width, height], "category": "name"}, …]'
)
CLIPPED = "reach outside their image and are clipped"
EMPTY = "have no area in their image and are skipped"
FOREIGN = "are of a category that is not listed and are skipped"
BROKEN = "are invalid and are skipped"
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
    """Boxes that are clipped or skipped, with the keys of a few of their images."""

    counts: Counter[str]  # issue → boxes
    keys: tuple[str, ...]
    boxes: int  # all boxes, with and without issues
    images: tuple[BadImage, ...]  # images skipped: their size is not that of their annotations

    @property
    def skipped(self) -> int:
        return sum(count for issue, count in self.counts.items() if issue != CLIPPED)

    def messages(self) -> list[str]:
        """Return a summary; empty without issues."""
        if not self.counts:
            return []
        parts = ", ".join(f"{count:,} {issue}" for issue, count in self.counts.most_common())
        return [f"of {self.boxes:,} boxes {parts}: {'; '.join(self.keys)}"]


def has_boxes(index: Index) -> bool:
    """Return whether the data come from a COCO file, or a manifest with a column of boxes."""
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
    index, other_sizes = _select_matching_sizes(index)
    if other_sizes and not len(index):
        raise BadDataset(f"{root}: {other_sizes[0]}, and so with every image")
    parsed = _parsed_boxes(index)
    total = sum(len(item.boxes) for item in parsed)
    categories = {name for item in parsed for name in item.categories if name}
    if not categories:
        splits = set(index.splits) - {"all"}
        of = f" of the split {min(splits)!r}" if len(splits) == 1 else ""
        what = f"{total} boxes, but none of a listed category" if total else "no box"
        raise BadDataset(f"{root} has {what} for any image{of}: {EXPECTED}")
    classes = classes or tuple(sorted(categories))
    labels = {name: label for label, name in enumerate(classes)}
    counts: Counter[str] = Counter()
    keys: list[str] = []
    usable: list[_UsableBoxes] = []
    for row, item in enumerate(parsed):
        boxes, issues = _usable_boxes(item, (index.heights[row], index.widths[row]), labels)
        usable.append(boxes)
        for issue, count in issues.items():
            counts[issue] += count
            if count and len(keys) < NAMED:
                keys.append(index.keys[row])
    issues = AnnotationIssues(+counts, tuple(keys), total, other_sizes)
    if issues.skipped > max_bad_fraction * total:
        raise BadDataset(
            f"{root}: {issues.skipped} of {total} boxes cannot be used "
            f"(max_bad_fraction is {max_bad_fraction:g}): {issues.messages()[0]}"
        )
    images, areas, crowds = (
        tuple(getattr(boxes, name) for boxes in usable) for name in _UsableBoxes._fields
    )
    return index.with_annotation(BoxAnnotations(images, classes, areas, crowds)), issues


def _parsed_boxes(index: Index) -> Sequence[ParsedBoxes]:
    """Return the boxes of each image as its COCO file, or its manifest, has them."""
    cells = index.columns.get(COLUMN, ("",) * len(index))
    items = index.parsed.get(COLUMN, (None,) * len(index))
    return [
        item if isinstance(item, ParsedBoxes) else parse_cell(cell)
        for item, cell in zip(items, cells, strict=True)
    ]


class _UsableBoxes(NamedTuple):
    """The boxes of one image that can be used."""

    image: Boxes
    areas: Float[np.ndarray, " object"]
    crowd: Boxes


def _usable_boxes(
    item: ParsedBoxes, size: Size, labels: dict[str, int]
) -> tuple[_UsableBoxes, dict[str, int]]:
    """Clip boxes to an image of this size and drop unusable ones; return these and issue counts."""
    classes = np.array([labels.get(name, -1) for name in item.categories], np.int64)
    inside = np.clip(item.boxes, 0, np.array([*size, *size], np.float64))
    broken = ~np.isfinite(item.boxes).all(1)
    empty = ~broken & ((inside[:, 2:] - inside[:, :2]) <= 0).any(1)
    foreign = ~broken & ~empty & (classes < 0)
    kept = ~(broken | empty | foreign)
    clipped = kept & (np.abs(inside - item.boxes) > 1).any(1)
    flags = {BROKEN: broken, EMPTY: empty, FOREIGN: foreign, CLIPPED: clipped}
    inside = inside.astype(np.float32)
    single, crowd = kept & ~item.crowd, kept & item.crowd
    box_areas = (inside[single, 2:] - inside[single, :2]).prod(1)
    given = item.areas[single]
    return _UsableBoxes(
        Boxes(inside[single], classes[single]),
        np.where(np.isfinite(given), given, box_areas),
        Boxes(inside[crowd], classes[crowd]),
    ), {issue: int(flag.sum()) for issue, flag in flags.items()}


def _select_matching_sizes(index: Index) -> tuple[Index, tuple[BadImage, ...]]:
    """Return the images whose size matches their columns height and width, and the others.

    Images without these columns match.
    """
    heights, widths = (index.columns.get(name, ("",) * len(index)) for name in SIZE)
    rows, others = [], []
    for row, annotated in enumerate(zip(heights, widths, strict=True)):
        size = str(index.heights[row]), str(index.widths[row])
        if annotated == size or not all(map(str.isdecimal, annotated)):
            rows.append(row)
            continue
        reason = f"is {' x '.join(size)} px, but its boxes are of {' x '.join(annotated)} px"
        others.append(BadImage(index.keys[row], reason))
    return index.select(rows), tuple(others)
