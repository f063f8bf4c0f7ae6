"""The objects of an index, as its source has them, in pixels of their images.

    Index.parsed or a column of a manifest → ParsedObjects → in pixels → boxes, masks

Axes: object.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.data.sources.coco import parse_cell
from patchpack.data.sources.objects import OBJECTS, SIZE, Catalog, Id, ParsedObjects, SourceIds

TOLERANCE = 1e-3  # by which shares of an image may reach outside it


def parsed_objects(index: Index) -> list[ParsedObjects]:
    """Return the objects of each image as its source has them."""
    cells = index.columns.get(OBJECTS, ("",) * len(index))
    items = index.parsed.get(OBJECTS, (None,) * len(index))
    return [
        item if isinstance(item, ParsedObjects) else parse_cell(cell)
        for item, cell in zip(items, cells, strict=True)
    ]


def objects_in_pixels(index: Index) -> tuple[list[ParsedObjects], tuple[str, ...]]:
    """Return the objects of each image in its pixels, and notes on their sources.

    Where all boxes of a source lie in 0..1, they are shares of the image. Raise BadDataset where
    they reach outside the image as such.
    """
    parsed = parsed_objects(index)
    notes: dict[str, None] = {}  # ordered, without repetition
    for catalog, rows in _rows_by_catalog(parsed).items():
        notes |= dict.fromkeys(catalog.notes)
        boxes = np.concatenate([parsed[row].boxes for row in rows])
        has_area = (index.heights[rows] > 1).any() or (index.widths[rows] > 1).any()
        if not has_area or not _are_shares(boxes) or any(parsed[row].relative for row in rows):
            continue
        what = f"all {len(boxes):,} boxes of the {catalog.format} annotations {catalog.file}"
        if np.nanmax(boxes) > 1 + TOLERANCE:
            raise BadDataset(
                f"{index.root}: {what} have values in 0..1, but some reach outside their images as "
                "shares [x, y, width, height]: write them in pixels, from the top left corner"
            )
        notes[f"{what} lie in 0..1: read as [x, y, width, height] in shares of the image"] = None
        for row in rows:
            parsed[row] = replace(parsed[row], relative=True)
    sizes = zip(index.heights.tolist(), index.widths.tolist(), strict=True)
    return [p.in_pixels(*size) for p, size in zip(parsed, sizes, strict=True)], tuple(notes)


def _are_shares(boxes: np.ndarray) -> bool:
    """Return whether x, y, width and height of all valid boxes, at least one, lie in 0..1."""
    boxes = boxes[np.isfinite(boxes).all(1)]
    values = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    return len(boxes) > 0 and bool((values >= 0).all() and (values <= 1).all())


def _rows_by_catalog(parsed: Sequence[ParsedObjects]) -> Mapping[Catalog, list[int]]:
    groups: dict[Catalog, list[int]] = defaultdict(list)
    for row, item in enumerate(parsed):
        groups[item.catalog].append(row)
    return groups


def source_ids(index: Index) -> tuple[SourceIds, ...]:
    """Return the ids of classes and images in each COCO file of an index; empty for others."""
    parsed = parsed_objects(index)
    return tuple(
        SourceIds(
            file=catalog.file,
            classes=_without_none(catalog.ids),
            images=_without_none({index.keys[row]: parsed[row].image_id for row in rows}),
        )
        for catalog, rows in _rows_by_catalog(parsed).items()
        if catalog.ids
    )


def _without_none(ids: Mapping[str, Id]) -> dict[str, int | float | str]:
    return {name: number for name, number in ids.items() if number is not None}


def select_matching_sizes(index: Index) -> tuple[Index, tuple[BadImage, ...]]:
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
        turned = ", before its orientation is applied" if annotated == size[::-1] else ""
        reason = f"is {' x '.join(size)} px, but its boxes are of {' x '.join(annotated)} px"
        others.append(BadImage(index.keys[row], reason + turned))
    return index.select(rows), tuple(others)
