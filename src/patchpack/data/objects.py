"""Boxes around objects: where the objects of an index's images lie, and what they are.

A manifest has them in a column `objects`, as JSON: [{"bbox": [x, y, width, height], "category":
"nucleus"}, …], in pixels of the upright image; of a COCO file (`data.coco`) the same is made. From
here on a box is (top, left, bottom, right).

Axes: image, object.
"""

import json
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from patchpack.data.coco import SIZE
from patchpack.data.files import BadDataset
from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.located import Located, Objects

COLUMN = "objects"
EXPECTED = (
    "expected a COCO file (.json), or a manifest with a column objects: "
    '[{"bbox": [x, y, width, height], "category": "name"}, …]'
)


@dataclass(frozen=True)
class Faults:
    """Boxes that are not as they should be, and the first few by the name of their image."""

    counts: Counter[str]
    named: tuple[str, ...]
    boxes: int  # of all
    images: tuple[BadImage, ...]  # whose boxes are told of another size, and which are left out

    @property
    def left_out(self) -> int:
        return sum(count for reason, count in self.counts.items() if reason != CLIPPED)

    def notes(self) -> list[str]:
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


def with_objects(
    index: Index, classes: tuple[str, ...], max_bad_fraction: float
) -> tuple[Index, Faults]:
    """The images with their boxes; images without any are kept, as examples of nothing. A size in
    the columns height and width is that of the image that the boxes were told of.

    classes  what may be found; every category of the data, by name, when empty

    Raises BadDataset where no image has a box, and where more than `max_bad_fraction` of the boxes
    must be left out.
    """
    index, foreign_sizes = _of_their_size(index)
    cells = index.columns.get(COLUMN, ("",) * len(index))
    parsed = [_parse(cell) for cell in cells]
    there = {name for _, many in parsed for name in many if name}
    names = classes or tuple(sorted(there))
    if not there:
        boxes, splits = sum(len(many) for many, _ in parsed), set(index.splits) - {"all"}
        of = f" of the split {min(splits)!r}" if len(splits) == 1 else ""
        what = f"{boxes} boxes, but none of a listed category" if boxes else "no box"
        raise BadDataset(f"{index.root} has {what} for any image{of}: {EXPECTED}")
    numbers = {name: number for number, name in enumerate(names)}
    counts: Counter[str] = Counter()
    named: list[str] = []
    found = []
    for image, (boxes, categories) in enumerate(parsed):
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
        found.append(Located(inside[kept].astype(np.float32), labels[kept]))
    faults = Faults(+counts, tuple(named), sum(len(boxes) for boxes, _ in parsed), foreign_sizes)
    if faults.left_out > max_bad_fraction * faults.boxes:
        raise BadDataset(
            f"{index.root}: {faults.left_out} of {faults.boxes} boxes cannot be used "
            f"(max_bad_fraction is {max_bad_fraction:g}): {faults.notes()[0]}"
        )
    return replace(index, objects=Objects(tuple(found), names)), faults


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


def _parse(cell: str) -> tuple[Float[np.ndarray, "object 4"], list[str]]:
    """Boxes as (top, left, bottom, right), NaN where one is none, and their categories."""
    try:
        items = json.loads(cell) if cell.strip() else []
    except (ValueError, RecursionError):
        items = [None]
    items = items if isinstance(items, list) else [None]
    boxes = np.full((len(items), 4), np.nan)
    categories = []
    for number, item in enumerate(items):
        fields = item if isinstance(item, dict) else {}
        category = fields.get("category", "")
        categories.append(category if isinstance(category, str) else "")
        try:
            x, y, width, height = map(float, _numbers(fields["bbox"]))
        except (TypeError, KeyError, ValueError, OverflowError):
            continue
        boxes[number] = y, x, y + height, x + width
    return boxes, categories


def _numbers(values: object) -> list[float]:
    if isinstance(values, list) and all(isinstance(value, int | float) for value in values):
        return values
    raise TypeError(f"{values!r} is no list of numbers")
