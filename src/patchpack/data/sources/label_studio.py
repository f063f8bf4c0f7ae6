"""Label Studio's JSON export: a list of tasks, each an image with annotations.

    [{"id": 1, "data": {"image": "/data/upload/1/ab12cd34-a.jpg"},
      "annotations": [{"result": [{"type": "rectanglelabels", "original_width": …, "value": {"x",
                       "y", "width", "height", "rotation", "rectanglelabels": ["cell"]}}, …]}]}, …]

Values are percents of the image's sides. Rectangles and polygons are objects; a rotated rectangle
turns around its top left corner, and its box is around it. Other results are counted and skipped,
as are tasks without a submitted annotation. An image with two annotations is refused.

Axes: object, point.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from patchpack.data.records import Record
from patchpack.data.sources.image_lookup import ImageLookup
from patchpack.data.sources.json_file import size_text
from patchpack.data.sources.objects import (
    NO_REGION,
    OBJECTS,
    SIZE,
    Catalog,
    ParsedObjects,
    objects_of,
    with_catalog,
)
from patchpack.data.sources.regions import (
    FARTHEST,
    Points,
    Polygons,
    Region,
    parse_numbers,
    parse_polygon,
)

FORMAT = "Label Studio"
KINDS = ("rectanglelabels", "polygonlabels")
FOLDERS = (".", "images", "../images", "upload")


def read_label_studio(path: Path, tasks: list[Any]) -> list[Record]:
    """Return the images of an export with their parsed objects; keys are relative to its folder.

    Records have an error for a task without an image, an image that is listed already, an image
    with two annotations, and an image that was turned while it was annotated.
    """
    lookup = ImageLookup(path.parent)
    skipped: Counter[str] = Counter()
    records: list[Record] = []
    numbers: dict[str, object] = {}  # image → task
    unfinished = 0
    for position, task in enumerate(tasks, 1):
        number = task.get("id", position)
        annotations = [a for a in task["annotations"] if isinstance(a, dict)]
        annotations = [a for a in annotations if not a.get("was_cancelled")]
        name = _image(task.get("data"))
        if not name:
            error = "has no image: expected a text in `data`"
            records.append(Record(key=f"task {number} of {path.name}", error=error))
            continue
        if not annotations:
            unfinished += 1
            continue
        key, error = lookup.key(name, FOLDERS), ""
        if len(annotations) > 1:
            error = f"has {len(annotations)} annotations (task {number}): keep one"
        if key in numbers:
            error = f"is in the task {numbers[key]} already"
            key = f"{key} (task {number})"
        numbers.setdefault(key, number)
        results = annotations[0].get("result")
        results = [r for r in results if isinstance(r, dict)] if isinstance(results, list) else []
        if any(result.get("image_rotation") not in (0, 0.0, None) for result in results):
            error = f"was turned while it was annotated (task {number})"
        columns = {
            side: size_text(result.get(f"original_{side}"))
            for side in SIZE
            for result in results[:1]
        }
        parsed = parse_results(results, f"task {number}, result", skipped)
        records.append(Record(key=key, columns=columns, parsed={OBJECTS: parsed}, error=error))
    notes = [f"{count:,} results of the type {t!r} are skipped" for t, count in skipped.items()]
    if unfinished:
        notes.append(f"{unfinished:,} tasks have no submitted annotation, and are passed over")
    objects = [objects_of(record) for record in records if OBJECTS in record.parsed]
    names = tuple(sorted({name for item in objects for name in item.categories if name}))
    return with_catalog(records, Catalog(FORMAT, path.name, names, notes=tuple(notes)))


def are_tasks(content: object) -> bool:
    """Return whether a JSON file is an export of Label Studio."""
    return (
        isinstance(content, list)
        and len(content) > 0
        and all(isinstance(t, dict) and isinstance(t.get("annotations"), list) for t in content)
    )


def _image(data: object) -> str:
    """Return the path of the image of a task: its field `image`, or its only text."""
    fields = data if isinstance(data, dict) else {}
    texts = [value for value in fields.values() if isinstance(value, str)]
    name = fields.get("image") or fields.get("img") or (texts[0] if len(texts) == 1 else "")
    return name if isinstance(name, str) else ""


def parse_results(results: list[dict[str, Any]], unit: str, skipped: Counter[str]) -> ParsedObjects:
    """Return the objects of an annotation, in shares of the image; invalid ones become NaN."""
    boxes: list[Any] = []
    categories: list[str] = []
    regions: list[Region | str] = []
    numbers: list[int] = []
    reasons: dict[int, str] = {}
    for number, result in enumerate(results, 1):
        kind, value = str(result.get("type")), result.get("value")
        if kind not in KINDS:
            skipped[kind] += 1
            continue
        value = value if isinstance(value, dict) else {}
        names = value.get(kind)
        sides = tuple(result.get(f"original_{side}") for side in SIZE)
        points = _points(kind, value, sides)
        if isinstance(points, str):
            reasons[len(boxes)] = points
            boxes.append([np.nan] * 4)
            regions.append(points)
        else:
            region = Polygons((points / 100,))
            boxes.append(region.box())
            regions.append(region if kind == "polygonlabels" else NO_REGION)
        one = isinstance(names, list) and len(names) == 1 and isinstance(names[0], str)
        categories.append(names[0] if isinstance(names, list) and one else "")
        numbers.append(number)
    return ParsedObjects(
        np.array(boxes, np.float64).reshape(-1, 4),
        categories,
        np.full(len(boxes), np.nan),
        np.zeros(len(boxes), bool),
        regions=regions if any(not isinstance(region, str) for region in regions) else (),
        relative=True,
        unit=unit,
        numbers=numbers,
        reasons=reasons,
    )


def _points(kind: str, value: dict[str, Any], sides: tuple[Any, ...]) -> Points | str:
    """Return the corners of a result, in percent, or why there are none."""
    if kind == "polygonlabels":
        pairs = value.get("points")
        flat = (
            [n for pair in pairs if isinstance(pair, list) for n in pair]
            if isinstance(pairs, list)
            else None
        )
        return parse_polygon(flat)
    given = [value.get(name) for name in ("x", "y", "width", "height")]
    numbers = parse_numbers([*given, value.get("rotation") or 0])
    if numbers is None or not (np.abs(numbers) < FARTHEST).all():
        return "its x, y, width and height are not numbers"
    x, y, width, height, rotation = numbers.tolist()
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)])
    if rotation:
        if any(type(side) not in (int, float) or not 0 < side < 1e6 for side in sides):
            return "it is rotated, and has no original_width and original_height"
        scale = np.array([sides[1], sides[0]]) / 100
        cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
        corners = (corners * scale) @ np.array([[cos, sin], [-sin, cos]]) / scale
    return corners + np.array([x, y])
