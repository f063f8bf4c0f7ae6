"""Read COCO files: images and their bounding boxes.

    boxes.json                            images in the same folder or in images/, optional `split`
    annotations/instances_train2017.json  images in train2017/; the same for other splits

An annotation has image_id, category_id and bbox [x, y, width, height] in pixels, and optionally
area and iscrowd.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from patchpack.data.records import BadDataset, Record, split_name

SUFFIX = ".json"
SIZE = ("height", "width")  # fields of an image, in pixels
Id = int | float | str | None
SPLIT_FILE = re.compile(r"(?:instances_)?((train|val|test|dev|valid)\w*)\.json", re.IGNORECASE)


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
    """Return the images of COCO files, with objects as a JSON column; keys are relative to `root`.

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
        columns["objects"] = json.dumps(objects.get(number, []))
        yield Record(key=key, split=image_split, columns=columns, error=error), number
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
