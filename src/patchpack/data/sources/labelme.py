"""LabelMe: a JSON file for each image, with shapes.

    *.json and *.jpg, side by side or where `imagePath` points     or in <split>/ folders

Rectangles, polygons and circles are objects; shapes with the same label and group_id are one. Other
shapes (points, lines) are counted and skipped. Shapes of the label __ignore__ are pixels without a
class in masks, and no boxes. The image in `imageData` is not read.

Axes: object, point.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from patchpack.data.records import PARTS, BadDataset, Record, split_name
from patchpack.data.sources.image_lookup import ImageLookup
from patchpack.data.sources.json_file import load_json, size_text
from patchpack.data.sources.objects import (
    IGNORED,
    OBJECTS,
    Catalog,
    ParsedObjects,
    listed,
    objects_of,
    with_catalog,
)
from patchpack.data.sources.regions import FARTHEST, SHAPES, Outlines, Points

FORMAT = "LabelMe"
KEYS = (b'"shapes"', b'"imagePath"')


def labelme_folders(root: Path) -> dict[str, str]:
    """Return the folders with the files of LabelMe, each with its split; empty for others."""
    splits = [name for name in sorted(os.listdir(root)) if split_name(name) in PARTS]
    folders = {".": "", "annotations": "", "labels": ""}
    folders |= {name: split_name(name) for name in splits}
    return {f: s for f, s in folders.items() if is_labelme(next((root / f).glob("*.json"), None))}


def is_labelme(path: Path | None) -> bool:
    """Return whether a file has the keys of LabelMe."""
    try:
        content = b"" if path is None else path.read_bytes()
    except OSError:
        return False
    return all(key in content for key in KEYS)


def read_labelme(root: Path) -> list[Record]:
    """Return the images of LabelMe's files with their parsed shapes; keys are relative to `root`.

    Records have an error for a damaged file, and for an image that two files annotate.
    """
    lookup = ImageLookup(root)
    skipped: Counter[str] = Counter()
    records: list[Record] = []
    files: dict[str, str] = {}  # image → file
    folders = labelme_folders(root)
    for folder, split in folders.items():
        for path in sorted((root / folder).glob("*.json")):
            record = _record(path, root, split, lookup, skipped)
            name = path.relative_to(root).as_posix()
            if record.key in files:
                error = f"is annotated by {files[record.key]} already"
                record = Record(key=f"{record.key} (of {name})", split=split, error=error)
            files.setdefault(record.key, name)
            records.append(record)
    notes = [f"{count:,} shapes of the type {t!r} are skipped" for t, count in skipped.items()]
    images = {os.path.normpath(key) for folder in folders for key in lookup.images(folder)}
    if bare := sorted(images - files.keys()):
        notes.append(f"{len(bare):,} images have no JSON file, and are passed over: {listed(bare)}")
    objects = [objects_of(record) for record in records if OBJECTS in record.parsed]
    names = tuple(sorted({name for item in objects for name in item.categories if name}))
    return with_catalog(records, Catalog(FORMAT, names=names, notes=tuple(notes)))


def _record(
    path: Path, root: Path, split: str, lookup: ImageLookup, skipped: Counter[str]
) -> Record:
    """Return the record of one file, with an error if it is damaged."""
    name = path.relative_to(root).as_posix()
    try:
        content = load_json(path)
    except BadDataset as error:
        return Record(key=name, split=split, error=str(error))
    image = content.get("imagePath") if isinstance(content, dict) else None
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(image, str) or not image or not isinstance(shapes, list):
        return Record(key=name, split=split, error="is no file of LabelMe: no imagePath or shapes")
    here = path.parent.relative_to(root).as_posix()
    key = lookup.key(image, [here, ".", "images", f"{here}/images", f"{here}/../images"])
    if not lookup.exists(key):
        key = lookup.with_stem(path.stem, [here, ".", "images", f"{here}/../images"]) or key
    size = {"height": content.get("imageHeight"), "width": content.get("imageWidth")}
    columns = {side: size_text(value) for side, value in size.items() if value is not None}
    parsed = parse_shapes(shapes, f"{name} shape", skipped)
    return Record(key=key, split=split, columns=columns, parsed={OBJECTS: parsed})


def parse_shapes(shapes: list[Any], unit: str, skipped: Counter[str]) -> ParsedObjects:
    """Return the objects of a file; invalid shapes become NaN.

    unit     how messages name a shape
    skipped  counts shapes of other types
    """
    groups: dict[object, list[tuple[int, str, str, Points | str]]] = {}
    for number, shape in enumerate(shapes, 1):
        shape = shape if isinstance(shape, dict) else {}
        kind, label, group = (shape.get(name) for name in ("shape_type", "label", "group_id"))
        kind = "polygon" if kind is None else str(kind)  # the default of old versions
        if kind not in SHAPES and isinstance(shape.get("points"), list):
            skipped[kind] += 1
            continue
        label = label.strip() if isinstance(label, str) else ""
        key = (label, group) if isinstance(group, int | str) else number
        points = parse_points(shape.get("points"), kind)
        groups.setdefault(key, []).append((number, kind, label, points))
    boxes = np.full((len(groups), 4), np.nan)
    regions: list[Outlines | str] = []
    reasons: dict[int, str] = {}
    for position, parts in enumerate(groups.values()):
        valid = [(kind, points) for _, kind, _, points in parts if not isinstance(points, str)]
        if len(valid) < len(parts):
            reasons[position] = next(p for *_, p in parts if isinstance(p, str))
            regions.append(reasons[position])
            continue
        regions.append(outlines := Outlines(tuple(valid)))
        boxes[position] = outlines.box()
    labels = [parts[0][2] for parts in groups.values()]
    return ParsedObjects(
        boxes,
        labels,
        np.full(len(groups), np.nan),
        np.array([label == IGNORED for label in labels], bool),
        regions=regions,
        unit=unit,
        numbers=[parts[0][0] for parts in groups.values()],
        reasons=reasons,
    )


def parse_points(value: object, kind: str) -> Points | str:
    """Return the points of a shape, or why they are none."""
    try:
        points = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return "its points are not pairs of numbers"
    if points.ndim != 2 or points.shape[1] != 2:
        return "its points are not pairs of numbers"
    if not np.isfinite(points).all() or np.abs(points).max(initial=0) > FARTHEST:
        return "its points are impossible"
    if len(points) < 3 if kind == "polygon" else len(points) != 2:
        return f"a {kind} of {len(points)} points"
    return points
