"""COCO files: the images of a JSON file, and the boxes in them.

    boxes.json                           images beside it or in images/, which may say a `split`
    annotations/instances_train2017.json with images in train2017/, and so for other splits

An annotation has image_id, category_id and bbox [x, y, width, height]. Crowds (iscrowd) are regions
and not objects: they are passed over.
"""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from patchpack.data.files import BadDataset, File, split_name

SUFFIX = ".json"
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


def read_coco(path: Path, root: Path, split: str = "", folder: str = "") -> list[File]:
    """The images of one file, each with its objects in a column; keys are relative to `root`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadDataset(f"{path} is not JSON: {error}") from error
    images, annotations, categories = (
        _list(content, name, path) for name in ("images", "annotations", "categories")
    )
    names = {item.get("id"): str(item.get("name", item.get("id"))) for item in categories}
    objects: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for item in annotations:
        if not item.get("iscrowd"):
            category = names.get(item.get("category_id"), "")
            objects[item.get("image_id")].append({"bbox": item.get("bbox"), "category": category})
    places = [place for place in (folder, "images", f"images/{folder}") if place]
    return [
        File(
            key=_key(image, root, places, path),
            split=split or split_name(str(image.get("split", ""))),
            columns={"objects": json.dumps(objects.get(image.get("id"), []))},
        )
        for image in images
    ]


def _key(image: dict[str, Any], root: Path, places: list[str], path: Path) -> str:
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        raise BadDataset(f"{path}: an image (id {image.get('id')}) has no file_name")
    found = [p for p in (name, *(f"{place}/{name}" for place in places)) if (root / p).exists()]
    return found[0] if found else name


def _list(content: object, name: str, path: Path) -> list[dict[str, Any]]:
    found = content.get(name) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise BadDataset(f"{path} is not a COCO file: it has no list of {name}")
    return found
