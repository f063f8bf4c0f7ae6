"""COCO files: images and their objects, read and written.

    boxes.json                             images in the same folder or in images/, optional `split`
    annotations/instances_train2017.json   images in train2017/, images/train2017/ or images/; the
                                           same for other splits, and instances_default.json (CVAT)
    train/_annotations.coco.json           images beside it; the same for other splits (Roboflow)
    result.json                            images in images/ (Label Studio)

An annotation has image_id, category_id, and bbox [x, y, width, height] in pixels or a segmentation
(polygons or run lengths), and optionally area and iscrowd. Other modules have boxes as (top, left,
bottom, right).

Axes: box.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from patchpack.data.records import BadDataset, Record, split_name
from patchpack.data.sources.image_lookup import ImageLookup
from patchpack.data.sources.json_file import load_json, size_text
from patchpack.data.sources.objects import (
    NO_REGION,
    OBJECTS,
    SIZE,
    Catalog,
    Id,
    ParsedObjects,
    listed,
)
from patchpack.data.sources.regions import Region, parse_numbers, parse_segmentation

SUFFIX = ".json"
FORMAT = "COCO"
SPLIT_FILE = re.compile(r"(?:instances_)?((train|val|test|dev|valid)\w*)\.json", re.IGNORECASE)
INSTANCES = re.compile(r"instances_(.+)\.json", re.IGNORECASE)
ROBOFLOW = "_annotations.coco.json"
LABEL_STUDIO = "result.json"


class CocoFile(NamedTuple):
    """A COCO file of a folder."""

    split: str  # of its images; "": their field `split`, or none
    name: str  # of folders with its images; "": none


def parse_cell(cell: str) -> ParsedObjects:
    """Parse the cell of a manifest: a JSON list of {"bbox", "category", "area", "iscrowd"}."""
    try:
        items = json.loads(cell) if cell.strip() else []
    except (ValueError, RecursionError):
        items = [None]
    return parse_objects(items if isinstance(items, list) else [None])


def parse_objects(items: Sequence[object]) -> ParsedObjects:
    """Parse COCO annotations that have the name of their `category`; invalid ones become NaN."""
    fields: list[dict[str, Any]] = [item if isinstance(item, dict) else {} for item in items]
    categories = [item.get("category", "") for item in fields]
    boxes, areas = np.full((len(items), 4), np.nan), np.full(len(items), np.nan)
    regions: list[Region | str] = [_region(item) for item in fields]
    reasons: dict[int, str] = {}
    for number, item in enumerate(fields):
        box, region = item.get("bbox"), regions[number]
        try:
            if box or isinstance(region, str):
                boxes[number] = _corners(box)
            else:
                boxes[number] = region.box()
        except ValueError as error:
            reasons[number] = str(error)
        area = parse_numbers([item.get("area")])
        if area is not None and area[0] > 0:
            areas[number] = area[0]
    return ParsedObjects(
        boxes,
        [name if isinstance(name, str) else "" for name in categories],
        areas,
        np.array([item.get("iscrowd") in (1, "1") for item in fields], bool),
        regions=regions if any(item.get("segmentation") for item in fields) else (),
        reasons=reasons,
    )


def _region(item: Mapping[str, Any]) -> Region | str:
    value = item.get("segmentation")
    return parse_segmentation(value) if value else NO_REGION


def _corners(value: object) -> tuple[float, ...]:
    """Return (top, left, bottom, right) of [x, y, width, height]; raise ValueError."""
    numbers = parse_numbers(value)
    if numbers is None or len(numbers) != 4:
        raise ValueError("its bbox is not a list of 4 numbers")
    x, y, width, height = numbers.tolist()
    if not np.isfinite([x + width, y + height]).all():
        raise ValueError("its bbox is not finite")
    return y, x, y + height, x + width


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


def to_coco(
    images: Sequence[CocoImage],
    classes: Sequence[str],
    image_ids: Sequence[Id] = (),
    class_ids: Sequence[Id] = (),
) -> dict[str, Any]:
    """Return a COCO dataset dictionary; with scores, its annotations are a COCO results list.

    image_ids  ids of the images; empty: positions + 1
    class_ids  ids of the categories; empty: class indices + 1
    """
    image_ids = list(image_ids) or range(1, len(images) + 1)
    class_ids = list(class_ids) or range(1, len(classes) + 1)
    annotations = []
    for image_id, image in zip(image_ids, images, strict=True):
        for number, ((top, left, bottom, right), label) in enumerate(
            zip(image.boxes.tolist(), image.labels.tolist(), strict=True)
        ):
            width, height = right - left, bottom - top
            area = np.nan if image.areas is None else float(image.areas[number])
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": class_ids[label],
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
            for i, image in zip(image_ids, images, strict=True)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in zip(class_ids, classes, strict=True)],
    }


def coco_files(root: Path) -> dict[Path, CocoFile]:
    """Return the COCO files of a folder.

    instances_<split>.json in it or in annotations/, <split>.json in annotations/,
    <split>/_annotations.coco.json, or _annotations.coco.json or result.json in it.
    """
    files: dict[Path, CocoFile] = {}
    for folder in (root, root / "annotations"):
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            instances, split = INSTANCES.fullmatch(path.name), SPLIT_FILE.fullmatch(path.name)
            if instances or (split and folder != root):
                files[path] = coco_file(path)._replace(split=split_name(split[2]) if split else "")
    if any(file.split for file in files.values()):  # then other names are splits too
        files = {path: f._replace(split=f.split or f.name) for path, f in files.items()}
    for path in sorted(root.glob(f"*/{ROBOFLOW}")):
        files[path] = CocoFile(split_name(path.parent.name), "")
    if not files:
        names = (ROBOFLOW, LABEL_STUDIO)
        files = {root / name: CocoFile("", "") for name in names if _is_coco(root / name)}
    return files


def coco_file(path: Path) -> CocoFile:
    """Return how to read a COCO file that is given alone."""
    match = INSTANCES.fullmatch(path.name) or SPLIT_FILE.fullmatch(path.name)
    return CocoFile("", match[1] if match else "")


def _is_coco(path: Path) -> bool:
    """Return whether a file has the names of all lists of a COCO file."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return all(name in content for name in (b'"images"', b'"annotations"', b'"categories"'))


def read_coco(files: Mapping[Path, CocoFile], root: Path) -> list[Record]:
    """Return the images of COCO files with their parsed objects; keys are relative to `root`.

    Records have an error for an image without an id or with the id of another image, an image
    listed twice, and objects of images that are not listed.

    Raise BadDataset for a file that is not a COCO file, or whose categories are not clear.
    """
    records: list[Record] = []
    listed_keys: set[str] = set()
    lookup = ImageLookup(root)
    for path, file in files.items():
        for record, number in _read(path, root, file, lookup):
            if not record.error and record.key in listed_keys:
                key = f"{record.key} (id {number} in {path.name})"
                record = replace(record, key=key, error="is listed already")
            listed_keys.add(record.key)
            records.append(record)
    return records


def _read(
    path: Path, root: Path, file: CocoFile, lookup: ImageLookup
) -> Iterator[tuple[Record, Id]]:
    """Yield the images of a file with their ids."""
    content = load_json(path)
    images, annotations, categories = (
        _list(content, name, path) for name in ("images", "annotations", "categories")
    )
    names = _names(categories, path)
    objects: dict[Id, list[dict[str, Any]]] = defaultdict(list)
    for item in annotations:
        category = names.get(_id(item.get("category_id")), "")
        objects[_id(item.get("image_id"))].append(item | {"category": category})
    catalog = _catalog(names, annotations, path, root)
    folders = _image_folders(path, root, file.name)
    keys: dict[Id, str] = {None: ""}
    for image in images:
        number, key = _id(image.get("id")), lookup.key(_file_name(image, path), folders)
        split, error = file.split or split_name(str(image.get("split", ""))), ""
        if number in keys:
            error = f"has the id {number!r} of {keys[number]}" if keys[number] else "has no id"
        keys.setdefault(number, key)
        columns = {name: size_text(image[name]) for name in SIZE if name in image}
        items = objects.get(number, [])
        parsed = replace(
            parse_objects(items), unit="annotation", image_id=number, catalog=catalog,
            numbers=[_id(item.get("id")) for item in items],
        )  # fmt: skip
        yield (
            Record(key=key, split=split, columns=columns, parsed={OBJECTS: parsed}, error=error),
            number,
        )
    del keys[None]
    if unlisted := sorted(objects.keys() - keys.keys(), key=repr):
        count = sum(len(objects[number]) for number in unlisted)
        error = f"{count} are of images that are not listed: ids {str(unlisted[:5])[1:-1]}"
        yield Record(key=f"boxes of {path.name}", split=file.split, error=error), None


def _image_folders(path: Path, root: Path, name: str) -> list[str]:
    """Return the folders that may hold the images of a file, relative to the root.

    name  of a folder with the images of this file alone; "": there is none
    """
    here = path.parent.relative_to(root).as_posix()
    parents = [here, Path(here, "..").as_posix()] if path.parent.name == "annotations" else [here]
    specific = [f"{p}/{part}{name}" for p in parents for part in ("", "images/") if name]
    return [*specific, *parents, *(f"{p}/{part}" for p in parents for part in ("images", "data"))]


def _id(value: object) -> Id:
    """Return a valid id; None for other values."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | float | str) and value == value else None


def _names(categories: list[dict[str, Any]], path: Path) -> dict[Id, str]:
    """Return category names by id; raise BadDataset for an id with two names."""
    names: dict[Id, str] = {}
    for item in categories:
        number, name = _id(item.get("id")), item.get("name")
        name = name if isinstance(name, str) and name else str(number)
        if names.setdefault(number, name) != name:
            raise BadDataset(f"{path}: the category {number!r} is {names[number]!r} and {name!r}")
    return names


def _catalog(
    names: Mapping[Id, str], annotations: list[dict[str, Any]], path: Path, root: Path
) -> Catalog:
    """Return the categories with their ids; raise BadDataset for two with objects and one name."""
    used = {_id(item.get("category_id")) for item in annotations}
    ids: dict[str, Id] = {}
    for number, name in names.items():
        if name in ids and number in used and ids[name] in used:
            raise BadDataset(
                f"{path}: the categories {ids[name]!r} and {number!r} are both {name!r}: give "
                "them different names, or one id"
            )
        if name not in ids or number in used:
            ids[name] = number
    notes = []
    if unused := [f"{names[i]!r} (id {i})" for i in names if i not in used]:
        notes.append(f"{path.name}: no object has the category {listed(unused)}: no class")
    twice = Counter(
        (_id(a.get("image_id")), _id(a.get("category_id")), str(a["bbox"]))
        for a in annotations
        if a.get("bbox")
    )
    if repeated := sum(count - 1 for count in twice.values()):
        notes.append(f"{path.name}: {repeated:,} boxes repeat another of the same image and class")
    file = path.relative_to(root).as_posix()
    return Catalog(FORMAT, file, tuple(dict.fromkeys(names.values())), ids, tuple(notes))


def _file_name(image: dict[str, Any], path: Path) -> str:
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        raise BadDataset(f"{path}: an image (id {image.get('id')}) has no file_name")
    return name


def _list(content: object, name: str, path: Path) -> list[dict[str, Any]]:
    items = content.get(name) if isinstance(content, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise BadDataset(f"{path} is not a COCO file: it has no list of {name}")
    return items
