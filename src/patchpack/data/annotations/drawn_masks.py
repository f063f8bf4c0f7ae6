"""Masks drawn from the outlines of objects: COCO polygons and run lengths, YOLO, LabelMe.

The class of pixels outside all objects is the first; the others are the categories, sorted by name.
A category `background` is that first class. Objects are drawn in the order of their drawn area, the
largest first, so that small ones lie on top; of equal areas the later one does. Regions of crowds
have their class too. Pixels of `__ignore__` have no class.

Axes: object.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from patchpack.batch import IGNORE_INDEX
from patchpack.data.annotations.annotation import Hash, Size
from patchpack.data.annotations.objects import (
    objects_in_pixels,
    parsed_objects,
    select_matching_sizes,
)
from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.sources.objects import IGNORED, NO_REGION, ParsedObjects
from patchpack.data.sources.regions import Outlines, Region, coco_masks

BACKGROUND = "background"


@dataclass(frozen=True, eq=False)
class Drawing:
    """The outlines of one image, in its pixels, with their classes."""

    regions: tuple[Region, ...]
    labels: tuple[int, ...]  # class indices; IGNORE_INDEX: without a class
    names: tuple[str, ...]  # of the objects, for messages

    def digest(self, hash: Hash) -> None:
        """Update a hash with the outlines and their classes."""
        for region, label in zip(self.regions, self.labels, strict=True):
            hash.update(region.digest() + label.to_bytes(2))


def draw_mask(
    drawing: Drawing, size: Size, key: str, ignore_index: int | None
) -> UInt8[np.ndarray, "height width"]:
    """Return the class of every pixel of an image of this size, IGNORE_INDEX for none.

    Raise BadImage, naming the image by `key`, for an outline that cannot be drawn.
    """
    areas = [int(_draw(drawing, number, size, key).sum()) for number in range(len(drawing.labels))]
    values = np.zeros(size, np.uint8)
    for number in sorted(range(len(areas)), key=lambda number: -areas[number]):
        values[_draw(drawing, number, size, key) > 0] = drawing.labels[number]
    if ignore_index is not None:
        values[values == ignore_index] = IGNORE_INDEX
    return values


def _draw(drawing: Drawing, number: int, size: Size, key: str) -> UInt8[np.ndarray, "height width"]:
    try:
        return drawing.regions[number].draw(size)
    except ValueError as error:
        raise BadImage(key, f"{drawing.names[number]}: {error}") from error


def has_outlines(index: Index) -> bool:
    """Return whether an object has an outline."""
    return any(not isinstance(r, str) for item in parsed_objects(index) for r in item.regions)


def outline_classes(index: Index) -> tuple[str, ...]:
    """Return the class names of masks that are drawn from an index, the background first."""
    names = {name for item in parsed_objects(index) for name in item.categories if name}
    return BACKGROUND, *sorted(names - {BACKGROUND, IGNORED})


def drawings(
    index: Index, classes: Sequence[str]
) -> tuple[Index, tuple[Drawing, ...], list[BadImage], tuple[str, ...]]:
    """Return the images whose outlines can be drawn, their drawings, errors for the other images,
    and notes on the sources.

    classes  names of the classes, the background first

    Raise ImportError without the extra `detection`.
    """
    index, skipped = select_matching_sizes(index)
    parsed, notes = objects_in_pixels(index)
    if any(not isinstance(region, str | Outlines) for item in parsed for region in item.regions):
        coco_masks()
    errors, rows, drawn = list(skipped), [], []
    labels = {name: label for label, name in enumerate(classes)}
    labels |= {BACKGROUND: 0, IGNORED: IGNORE_INDEX}
    for row, item in enumerate(parsed):
        if problems := _problems(item, labels):
            more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
            errors.append(BadImage(index.keys[row], f"{problems[0]}{more}"))
            continue
        rows.append(row)
        regions = tuple(region for region in item.regions if not isinstance(region, str))
        numbers = tuple(labels[name] for name in item.categories)
        drawn.append(Drawing(regions, numbers, tuple(map(item.name, range(len(item))))))
    return index.select(rows), tuple(drawn), errors, notes


def _problems(item: ParsedObjects, labels: dict[str, int]) -> list[str]:
    """Return why the mask of an image cannot be drawn: its objects without outline or class."""
    regions = item.regions or [NO_REGION] * len(item)
    problems = []
    for position, (region, name) in enumerate(zip(regions, item.categories, strict=True)):
        if name not in labels:
            what = f"is of the class {name!r}, which is not a class of the masks"
            problems.append(f"{item.name(position)} {what if name else 'has no listed class'}")
        elif isinstance(region, str):
            problems.append(f"{item.name(position).partition(':')[0]}: {region}")
    return problems
