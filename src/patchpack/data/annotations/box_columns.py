"""Boxes around objects: where the objects of an index's images lie, and what they are.

A manifest has them in a column `objects`, as JSON: [{"bbox": [x, y, width, height], "category":
"nucleus"}, …], in pixels of the upright image; if wanted with the "area" of what is in the box, and
"iscrowd" where that is a region of many. Of a COCO file (`data.coco`) the same is made. From here
on a box is (top, left, bottom, right).

Axes: image, object.
"""

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from patchpack.data.annotations.boxes import BoxAnnotations, Boxes
from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.data.sources.coco import SIZE

COLUMN = "objects"
EXPECTED = (
    "expected a COCO file (.json), or a manifest with a column objects: "
    '[{"bbox": [x, y, width, height], "category": "name"}, …]'
)


@dataclass(frozen=True)
class AnnotationIssues:
    """Boxes that are not as they should be, and the first few by the name of their image."""

    counts: Counter[str]
    named: tuple[str, ...]
    boxes: int  # of all
    images: tuple[BadImage, ...]  # whose boxes are told of another size, and which are left out

    @property
    def left_out(self) -> int:
        return sum(count for reason, count in self.counts.items() if reason != CLIPPED)

    def messages(self) -> list[str]:
        """What is to be told of them; nothing where there are none."""
        if not self.counts:
            return []
        parts = ", ".join(f"{count:,} {reason}" for reason, count in self.counts.most_common())
        return [f"of {self.boxes:,} boxes {parts}: {'; '.join(self.named)}"]


CLIPPED = "reach outside their image and are clipped"
EMPTY = "have no area in their image and are left out"
FOREIGN = "are of a category that is not listed and are left out"
BROKEN = "are no boxes and are left out"
NAMED = 5


def attach_boxes(
    index: Index, classes: tuple[str, ...], max_bad_fraction: float
) -> tuple[Index, AnnotationIssues]:
    """The images with their boxes; images without any are kept, as examples of nothing. A size in
    the columns height and width is that of the image that the boxes were told of.

    classes  what may be found; every category of the data, by name, when empty

    Raises BadDataset where no image has a box, and where more than `max_bad_fraction` of the boxes
    must be left out.
    """
    whole = index
    index, foreign_sizes = _of_their_size(whole)
    if foreign_sizes and not len(index):
        raise BadDataset(f"{whole.root}: {foreign_sizes[0]}, and so with every image")
    cells = index.columns.get(COLUMN, ("",) * len(index))
    parsed = [_parse(cell) for cell in cells]
    there = {name for said in parsed for name in said.categories if name}
    names = classes or tuple(sorted(there))
    if not there:
        boxes, splits = sum(len(said.boxes) for said in parsed), set(index.splits) - {"all"}
        of = f" of the split {min(splits)!r}" if len(splits) == 1 else ""
        what = f"{boxes} boxes, but none of a listed category" if boxes else "no box"
        raise BadDataset(f"{index.root} has {what} for any image{of}: {EXPECTED}")
    numbers = {name: number for number, name in enumerate(names)}
    counts: Counter[str] = Counter()
    named: list[str] = []
    found, areas, crowds = [], [], []
    for image, (boxes, categories, covered, crowd) in enumerate(parsed):
        size = np.array([index.heights[image], index.widths[image]] * 2, np.float64)
        inside = np.clip(boxes, 0, size)
        labels = np.array([numbers.get(name, -1) for name in categories], np.int64)
        broken = ~np.isfinite(boxes).all(1)
        empty = ~broken & ((inside[:, 2:] - inside[:, :2]) <= 0).any(1)
        foreign = ~broken & ~empty & (labels < 0)
        kept = ~(broken | empty | foreign)
        clipped = kept & (np.abs(inside - boxes) > 1).any(1)
        for reason, which in (
            (BROKEN, broken), (EMPTY, empty), (FOREIGN, foreign), (CLIPPED, clipped),
        ):  # fmt: skip
            counts[reason] += int(which.sum())
            if which.any() and len(named) < NAMED:
                named.append(index.keys[image])
        inside = inside.astype(np.float32)
        one = kept & ~crowd
        found.append(Boxes(inside[one], labels[one]))
        crowds.append(Boxes(inside[kept & crowd], labels[kept & crowd]))
        around = (inside[one, 2:] - inside[one, :2]).prod(1)
        areas.append(np.where(np.isfinite(covered[one]), covered[one], around))
    faults = AnnotationIssues(
        +counts, tuple(named), sum(len(said.boxes) for said in parsed), foreign_sizes
    )
    if faults.left_out > max_bad_fraction * faults.boxes:
        raise BadDataset(
            f"{index.root}: {faults.left_out} of {faults.boxes} boxes cannot be used "
            f"(max_bad_fraction is {max_bad_fraction:g}): {faults.messages()[0]}"
        )
    objects = BoxAnnotations(tuple(found), names, tuple(areas), tuple(crowds))
    return replace(index, boxes=objects), faults


def _of_their_size(index: Index) -> tuple[Index, tuple[BadImage, ...]]:
    """The images that are as large as their boxes were told of, and the others."""
    heights, widths = (index.columns.get(name, ("",) * len(index)) for name in SIZE)
    kept, others = [], []
    for number, told in enumerate(zip(heights, widths, strict=True)):
        size = str(index.heights[number]), str(index.widths[number])
        if told == size or not all(map(str.isdecimal, told)):
            kept.append(number)
            continue
        reason = f"is {' x '.join(size)} px, but its boxes are of {' x '.join(told)} px"
        others.append(BadImage(index.keys[number], reason))
    return index.select(kept), tuple(others)


class ParsedBoxes(NamedTuple):
    """What a cell says of the objects of an image."""

    boxes: Float[np.ndarray, "object 4"]  # (top, left, bottom, right), NaN where one is none
    categories: list[str]
    areas: Float[np.ndarray, " object"]  # px, NaN where none is told
    crowd: Bool[np.ndarray, " object"]


def _parse(cell: str) -> ParsedBoxes:
    try:
        items = json.loads(cell) if cell.strip() else []
    except (ValueError, RecursionError):
        items = [None]
    items = items if isinstance(items, list) else [None]
    fields = [item if isinstance(item, dict) else {} for item in items]
    categories = [said.get("category", "") for said in fields]
    boxes, areas = np.full((len(items), 4), np.nan), np.full(len(items), np.nan)
    for number, said in enumerate(fields):
        try:
            x, y, width, height = _numbers(said.get("bbox"))
            boxes[number] = y, x, y + height, x + width
            (areas[number],) = _numbers([said.get("area")])
        except (TypeError, ValueError, OverflowError):
            continue
    return ParsedBoxes(
        boxes,
        [name if isinstance(name, str) else "" for name in categories],
        np.where(areas > 0, areas, np.nan),
        np.array([said.get("iscrowd") in (1, "1") for said in fields], bool),
    )


def _numbers(values: object) -> list[float]:
    if isinstance(values, list) and all(isinstance(value, int | float) for value in values):
        return [float(value) for value in values]
    raise TypeError(f"{values!r} is no list of numbers")
