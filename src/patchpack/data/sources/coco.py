"""COCO files: images and their bounding boxes, read and written.

    boxes.json                            images in the same folder or in images/, optional `split`
    annotations/instances_train2017.json  images in train2017/; the same for other splits

An annotation has image_id, category_id and bbox [x, y, width, height] in pixels, and optionally
area and iscrowd. Other modules have boxes as (top, left, bottom, right).

Axes: box.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from patchpack.data.records import BadDataset, Record, split_name

SUFFIX = ".json"
SIZE = ("height", "width")  # fields of an image, in pixels
OBJECTS = "objects"  # key of the boxes in Record.parsed, and their column in a manifest
Id = int | float | str | None
SPLIT_FILE = re.compile(r"(?:instances_)?((train|val|test|dev|valid)\w*)\.json", re.IGNORECASE)


class ParsedBoxes(NamedTuple):
    """The boxes of one image as a file has them, not yet checked against the image."""

    boxes: Float[np.ndarray, "box 4"]  # (top, left, bottom, right) in pixels; NaN if invalid
    categories: list[str]  # names; "" if missing or not listed
    areas: Float[np.ndarray, " box"]  # px, of the objects; NaN if missing
    crowd: Bool[np.ndarray, " box"]  # whether a box is a region of many objects


def parse_cell(cell: str) -> ParsedBoxes:
    """Parse the cell of a manifest: a JSON list of {"bbox", "category", "area", "iscrowd"}."""
    try:
        items = json.loads(cell) if cell.strip() else []
    except (ValueError, RecursionError):
        items = [None]
    return parse_boxes(items if isinstance(items, list) else [None])


def parse_boxes(items: Sequence[object]) -> ParsedBoxes:
    """Parse COCO annotations that have the name of their `category`; invalid ones become NaN."""
    fields = [item if isinstance(item, dict) else {} for item in items]
    categories = [item.get("category", "") for item in fields]
    boxes, areas = np.full((len(items), 4), np.nan), np.full(len(items), np.nan)
    for number, item in enumerate(fields):
        try:
            x, y, width, height = _floats(item.get("bbox"))
            boxes[number] = y, x, y + height, x + width
            (areas[number],) = _floats([item.get("area")])
        except (TypeError, ValueError, OverflowError):
            continue
    return ParsedBoxes(
        boxes,
        [name if isinstance(name, str) else "" for name in categories],
        np.where(areas > 0, areas, np.nan),
        np.array([item.get("iscrowd") in (1, "1") for item in fields], bool),
    )


def _floats(values: object) -> list[float]:
    if isinstance(values, list) and all(isinstance(value, int | float) for value in values):
        return [float(value) for value in values]
    raise TypeError(f"{values!r} is not a list of numbers")


@dataclass(frozen=True, eq=False)
class CocoImage:
    """One image and its boxes, to be written with `to_coco`."""

    file_name: str
    height: int  # px
    width: int  # px
    boxes: Float[np.ndarray, "box 4"]  # (top, left, bottom, right) in pixels
    labels: Int[np.ndarray, " box"]  # class indices
    scores: Float[np.ndarray, " box"] | None = None  # of predictions
    areas: Float[np.ndarray, " box"] | None = None  # px, of the objects; NaN or None: of the boxes
    crowd: Bool[np.ndarray, " box"] | None = None  # regions of many objects; None: no box is


def to_coco(images: Sequence[CocoImage], classes: Sequence[str]) -> dict[str, Any]:
    """Return a COCO dataset dictionary; with scores, its annotations are a COCO results list.

    Ids of images are positions + 1, ids of categories class indices + 1.
    """
    annotations = []
    for image_id, image in enumerate(images, 1):
        for number, ((top, left, bottom, right), label) in enumerate(
            zip(image.boxes.tolist(), image.labels.tolist(), strict=True)
        ):
            width, height = right - left, bottom - top
            area = np.nan if image.areas is None else float(image.areas[number])
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": [left, top, width, height],
                "area": area if np.isfinite(area) else width * height,
                "iscrowd": 0 if image.crowd is None else int(image.crowd[number]),
            }
            if image.scores is not None:
                annotation["score"] = float(image.scores[number])
            annotations.append(annotation)
    return {
        "info": {},
        "images": [
            {"id": i, "file_name": image.file_name, "height": image.height, "width": image.width}
            for i, image in enumerate(images, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
    }


def coco_files(root: Path) -> dict[Path, tuple[str, str]]:
    """Return the COCO files of a folder, each with its split and the name of its image folder.

    Their names are instances_<split>.json, or <split>.json in annotations/.
    """
    files = {}
    for folder in (root, root / "annotations"):
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            match = SPLIT_FILE.fullmatch(path.name)
            if match and (folder != root or path.name.startswith("instances_")):
                files[path] = (split_name(match[2]), match[1])
    return files


def read_coco(files: Mapping[Path, tuple[str, str]], root: Path) -> list[Record]:
    """Return the images of COCO files with their parsed boxes; keys are relative to `root`.

    Records have an error for an image without an id or with the id of another image, an image
    listed twice, and objects of images that are not listed.
    """
    records: list[Record] = []
    listed: set[str] = set()
    for path, (split, folder) in files.items():
        for record, number in _read(path, root, split, folder):
            if not record.error and record.key in listed:
                key = f"{record.key} (id {number} in {path.name})"
                record = replace(record, key=key, error="is listed already")
            listed.add(record.key)
            records.append(record)
    return records


def _read(path: Path, root: Path, split: str, folder: str) -> Iterator[tuple[Record, Id]]:
    """Yield the images of a file with their ids."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadDataset(f"{path} is not JSON: {error}") from error
    images, annotations, categories = (
        _list(content, name, path) for name in ("images", "annotations", "categories")
    )
    names = _names(categories, path)
    objects: dict[Id, list[dict[str, Any]]] = defaultdict(list)
    for item in annotations:
        kept = {name: item[name] for name in ("bbox", "area", "iscrowd") if name in item}
        category = names.get(_id(item.get("category_id")), "")
        objects[_id(item.get("image_id"))].append(kept | {"category": category})
    candidate_dirs = [name for name in (folder, "images", f"images/{folder}") if name]
    keys: dict[Id, str] = {None: ""}
    for image in images:
        number, key = _id(image.get("id")), _key(image, root, candidate_dirs, path)
        image_split, error = split or split_name(str(image.get("split", ""))), ""
        if number in keys:
            error = f"has the id {number!r} of {keys[number]}" if keys[number] else "has no id"
        keys.setdefault(number, key)
        columns = {name: _to_int(image[name]) for name in SIZE if name in image}
        parsed: dict[str, object] = {OBJECTS: parse_boxes(objects.get(number, []))}
        yield (
            Record(key=key, split=image_split, columns=columns, parsed=parsed, error=error),
            number,
        )
    del keys[None]
    if unlisted := sorted(objects.keys() - keys.keys(), key=repr):
        count = sum(len(objects[number]) for number in unlisted)
        error = f"{count} are of images that are not listed: ids {str(unlisted[:5])[1:-1]}"
        yield Record(key=f"boxes of {path.name}", split=split, error=error), None


def _id(value: object) -> Id:
    """Return a valid id; None for other values."""
    return value if isinstance(value, int | float | str) else None


def _to_int(value: object) -> str:
    """Return a size as the text of an integer; empty if it is not a number."""
    try:
        return f"{float(value):.0f}"  # pyrefly: ignore
    except (TypeError, ValueError, OverflowError):
        return ""


def _names(categories: list[dict[str, Any]], path: Path) -> dict[Id, str]:
    """Return category names by id; raise BadDataset for an id with two names."""
    names: dict[Id, str] = {}
    for item in categories:
        number, name = _id(item.get("id")), item.get("name")
        name = name if isinstance(name, str) and name else str(number)
        if names.setdefault(number, name) != name:
            raise BadDataset(f"{path}: the category {number!r} is {names[number]!r} and {name!r}")
    return names


def _key(image: dict[str, Any], root: Path, candidate_dirs: list[str], path: Path) -> str:
    """Return the path of an image relative to the root, in the first directory that has it."""
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        raise BadDataset(f"{path}: an image (id {image.get('id')}) has no file_name")
    paths = (name, *(f"{directory}/{name}" for directory in candidate_dirs))
    return os.path.normpath(next((p for p in paths if (root / p).exists()), name))


def _list(content: object, name: str, path: Path) -> list[dict[str, Any]]:
    items = content.get(name) if isinstance(content, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise BadDataset(f"{path} is not a COCO file: it has no list of {name}")
    return items
