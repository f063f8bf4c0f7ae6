"""COCO files: the images of a JSON file, and the boxes in them.

    boxes.json                           images beside it or in images/, which may say a `split`
    annotations/instances_train2017.json with images in train2017/, and so for other splits

An annotation has image_id, category_id and bbox [x, y, width, height], and may have an area and be
a crowd (iscrowd).
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
SIZE = ("height", "width")  # px, that an image says it has
Id = int | float | str | None
OF_SPLIT = re.compile(r"(?:instances_)?((train|val|test|dev|valid)\w*)\.json", re.IGNORECASE)


def coco_files(root: Path) -> dict[Path, tuple[str, str]]:
    """The COCO files of a folder, each with its split and the folder its images may lie in.

    They are called instances_<split>, or lie in annotations/: other files may be of anything.
    """
    found = {}
    for folder in (root, root / "annotations"):
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            match = OF_SPLIT.fullmatch(path.name)
            if match and (folder != root or path.name.startswith("instances_")):
                found[path] = (split_name(match[2]), match[1])
    return found


def read_coco(parts: Mapping[Path, tuple[str, str]], root: Path) -> list[Record]:
    """The images of some files, each with its objects in a column; keys are relative to `root`.

    What cannot be used comes as a file with a fault: an image without an id, or with one that
    another has, an image that is listed twice, and the objects of images that are not listed.
    """
    files: list[Record] = []
    listed: set[str] = set()
    for path, (split, folder) in parts.items():
        for file, number in _read(path, root, split, folder):
            if not file.error and file.key in listed:
                error = "is listed already"
                file = replace(file, key=f"{file.key} (id {number} in {path.name})", error=error)
            listed.add(file.key)
            files.append(file)
    return files


def _read(path: Path, root: Path, split: str, folder: str) -> Iterator[tuple[Record, Id]]:
    """The images of one file with their ids."""
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
    places = [place for place in (folder, "images", f"images/{folder}") if place]
    keys: dict[Id, str] = {None: ""}
    for image in images:
        number, key = _id(image.get("id")), _key(image, root, places, path)
        own, error = split or split_name(str(image.get("split", ""))), ""
        if number in keys:
            error = f"has the id {number!r} of {keys[number]}" if keys[number] else "has no id"
        keys.setdefault(number, key)
        columns = {name: _whole(image[name]) for name in SIZE if name in image}
        columns["objects"] = json.dumps(objects.get(number, []))
        yield Record(key=key, split=own, columns=columns, error=error), number
    del keys[None]
    if strangers := sorted(objects.keys() - keys.keys(), key=repr):
        count = sum(len(objects[number]) for number in strangers)
        error = f"{count} are of images that are not listed: ids {str(strangers[:5])[1:-1]}"
        yield Record(key=f"boxes of {path.name}", split=split, error=error), None


def _id(value: object) -> Id:
    """What things go by; None for what nothing can."""
    return value if isinstance(value, int | float | str) else None


def _whole(value: object) -> str:
    """A size as a whole number, if it is one."""
    try:
        return f"{float(value):.0f}"  # pyrefly: ignore
    except (TypeError, ValueError, OverflowError):
        return ""


def _names(categories: list[dict[str, Any]], path: Path) -> dict[Id, str]:
    """The names of categories by their ids; raises BadDataset where one id has two."""
    names: dict[Id, str] = {}
    for item in categories:
        number, name = _id(item.get("id")), item.get("name")
        name = name if isinstance(name, str) and name else str(number)
        if names.setdefault(number, name) != name:
            raise BadDataset(f"{path}: the category {number!r} is {names[number]!r} and {name!r}")
    return names


def _key(image: dict[str, Any], root: Path, places: list[str], path: Path) -> str:
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        raise BadDataset(f"{path}: an image (id {image.get('id')}) has no file_name")
    found = [p for p in (name, *(f"{place}/{name}" for place in places)) if (root / p).exists()]
    return os.path.normpath(found[0] if found else name)


def _list(content: object, name: str, path: Path) -> list[dict[str, Any]]:
    found = content.get(name) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise BadDataset(f"{path} is not a COCO file: it has no list of {name}")
    return found
