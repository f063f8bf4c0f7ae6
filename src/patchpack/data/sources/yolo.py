"""YOLO datasets: a text file of labels for each image.

    data.yaml                  names, and train, val, test: folders, lists of images, or .txt files
    images/… and labels/….txt  without data.yaml; names of the classes in classes.txt or obj.names
    train/images, train/labels the same, a folder for each split
    obj.data                   names, train and valid, each a file of lines (Darknet)

Paths are resolved as Ultralytics resolves them: relative to `path`, or to the folder of data.yaml;
`../` is left out where it leads nowhere. A line is `class cx cy width height` or `class x y x y …`
(a polygon), in shares of the image's width and height. An empty file, or none, is an image without
objects.

Axes: box.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchpack.data.records import PARTS, BadDataset, Record, split_name
from patchpack.data.sources.image_lookup import ImageLookup, is_image
from patchpack.data.sources.objects import (
    NO_REGION,
    OBJECTS,
    Catalog,
    ParsedObjects,
    listed,
    objects_of,
    with_catalog,
)
from patchpack.data.sources.regions import Polygons, Region

FORMAT = "YOLO"
SUFFIXES = (".yaml", ".yml")
DARKNET = "obj.data"
DARKNET_FOLDER = "data/"  # in which Darknet expects the export; its paths begin with it
NAMES = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
CLASS_FILES = ("classes.txt", "obj.names", "labels/classes.txt")
KEYS = ("train", "val", "valid", "validation", "test")  # of data.yaml; values of valid are val
TOLERANCE = 0.01  # by which shares of an image may reach outside it
LONGEST_YAML = 1 << 20  # bytes
EXPECTED = "expected `class cx cy width height` or `class x y x y x y …`, numbers in 0..1"


@dataclass(frozen=True)
class YoloConfig:
    """The content of data.yaml: class names, and where the images of each split are."""

    names: tuple[str, ...]  # of the classes 0, 1, 2 …
    base: Path  # folder that entries are relative to
    splits: Mapping[str, Sequence[str]]  # split → folders and .txt files
    keypoints: bool = False  # lines have key points after the box


def yolo_file(folder: Path) -> Path | None:
    """Return what makes a folder a YOLO dataset: its data.yaml, or its folder of labels."""
    for name in NAMES:
        if (folder / name).is_file() and b"names" in (folder / name).read_bytes()[:LONGEST_YAML]:
            return folder / name
    if (folder / DARKNET).is_file():
        return folder / DARKNET
    for top in (folder, *(folder / split for split in _split_folders(folder))):
        if (top / "images").is_dir() and any((top / "labels").rglob("*.txt")):
            return top / "labels"
    return None


def _split_folders(folder: Path) -> list[str]:
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return [name for name in names if split_name(name) in PARTS and (folder / name).is_dir()]


def read_yolo(source: Path) -> list[Record]:
    """Return the images of a YOLO dataset; keys are relative to the folder of the source.

    source  data.yaml, or a folder

    Raise BadDataset for a damaged data.yaml, a list without images, and a split without a label
    file; ImportError for data.yaml without PyYAML.
    """
    root, file = (source.parent, source) if source.is_file() else (source, yolo_file(source))
    if file is not None and file.suffix.lower() in SUFFIXES:
        config = read_config(file)
    else:
        darknet = file is not None and file.name == DARKNET
        config = _config_of_darknet(root) if darknet else _config_of_folders(root)
    if not config.splits:
        raise BadDataset(f"{file} names no images: expected train, val or test")
    lookup = ImageLookup(root)
    records: list[Record] = []
    repeated, without = 0, 0
    notes = []
    for split, entries in config.splits.items():
        try:
            labels = _labels_of_split(entries, config, lookup)
        except BadDataset as error:
            if split != "test" or len(config.splits) == 1:
                raise
            notes.append(f"the split test is left out: {error}")  # exports name one that is empty
            continue
        for key, path in labels.items():
            text = path.read_text("utf-8-sig", "replace") if path else ""
            parsed, duplicates = parse_labels(text, config, f"{label_path(key)} line")
            repeated += duplicates
            without += path is None
            records.append(Record(key=key, split=split, parsed={OBJECTS: parsed}))
    if without:
        notes.append(f"{without:,} images have no label file: images without objects")
    if repeated:
        notes.append(f"{repeated:,} repeated lines of label files are skipped")
    used = {name for record in records for name in objects_of(record).categories}
    if unused := [repr(name) for name in config.names if name not in used]:
        notes.append(f"no object has the class {listed(unused)}: no class")
    if not config.names:
        notes.append("no data.yaml, classes.txt or obj.names names the classes: named by number")
    names = config.names or tuple(sorted(used - {""}))
    name = os.path.relpath(file, root) if file else ""
    return with_catalog(records, Catalog(FORMAT, name, names, notes=tuple(notes)))


def _labels_of_split(
    entries: Sequence[str], config: YoloConfig, lookup: ImageLookup
) -> dict[str, Path | None]:
    """Return the label file of each image, None without one; raise BadDataset if none has one."""
    keys = list(dict.fromkeys(key for entry in entries for key in _images(entry, config, lookup)))
    paths = {key: lookup.root / label_path(key) for key in keys}
    labels = {key: path if path.is_file() else None for key, path in paths.items()}
    if keys and not any(labels.values()):
        raise BadDataset(f"no image of {', '.join(entries)} has a label file {paths[keys[0]]}")
    return labels


def parse_labels(text: str, config: YoloConfig, unit: str) -> tuple[ParsedObjects, int]:
    """Return the objects of a label file, in shares of the image, and the number of repeated lines.

    unit  the file, for messages
    """
    rows: dict[str, int] = {}  # line → its number
    repeated = 0
    for number, line in enumerate(text.splitlines(), 1):
        words = " ".join(line.split())
        repeated += words in rows
        if words:
            rows.setdefault(words, number)
    boxes = np.full((len(rows), 4), np.nan)
    categories: list[str] = []
    regions: list[Region | str] = []
    reasons: dict[int, str] = {}
    for position, words in enumerate(rows):
        try:
            number, boxes[position], region = _parse_line(words.split(), config.keypoints)
        except ValueError as error:
            number, region = -1, NO_REGION
            reasons[position] = str(error)
        category = "" if number < 0 else str(number)
        if config.names and number >= 0:
            category = config.names[number] if number < len(config.names) else ""
            if not category:
                reasons[position] = f"class {number}, and there are {len(config.names)} names"
        categories.append(category)
        regions.append(region)
    return ParsedObjects(
        boxes,
        categories,
        np.full(len(rows), np.nan),
        np.zeros(len(rows), bool),
        regions=regions if any(not isinstance(region, str) for region in regions) else (),
        relative=True,
        unit=unit,
        numbers=list(rows.values()),
        reasons=reasons,
    ), repeated


def _parse_line(words: list[str], keypoints: bool) -> tuple[int, Sequence[float], Region | str]:
    """Return class number, (top, left, bottom, right) and outline; raise ValueError."""
    try:
        number, *values = map(float, words)
    except ValueError:
        raise ValueError(EXPECTED) from None
    if keypoints:
        values = values[:4]
    if not np.isfinite([number, *values]).all() or number != int(number) or number < 0:
        raise ValueError(EXPECTED)
    if any(not -TOLERANCE <= value <= 1 + TOLERANCE for value in values):
        raise ValueError("its numbers are not in 0..1: they are shares of the image, not pixels")
    if len(values) == 4:
        x, y, width, height = values
        box = y - height / 2, x - width / 2, y + height / 2, x + width / 2
        return int(number), box, NO_REGION
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"{len(words)} numbers; {EXPECTED}")
    region = Polygons((np.array(values, np.float64).reshape(-1, 2),))
    return int(number), region.box(), region


def label_path(key: str) -> str:
    """Return the label file of an image: in labels/ for the last images/ of its path, or beside."""
    head, images, tail = f"/{key}".rpartition("/images/")
    return os.path.splitext((f"{head}/labels/{tail}" if images else tail)[1:])[0] + ".txt"


def _images(entry: str, config: YoloConfig, lookup: ImageLookup) -> Iterator[str]:
    """Yield the keys of the images of a folder, at any depth, or of a .txt file."""
    path = _resolve(entry, config.base)
    if path.is_dir():
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith((".", "@", "__")))
            for name in sorted(filter(is_image, names)):
                yield os.path.relpath(os.path.join(folder, name), lookup.root)
        return
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise BadDataset(f"{path}: no folder of images, and no list of them ({error})") from error
    relative = os.path.relpath(path.parent, lookup.root)
    base = os.path.relpath(config.base, lookup.root)
    for line in filter(None, map(str.strip, lines)):
        key = lookup.key(line.removeprefix("./"), [relative, base])
        inside = lookup.key(line.removeprefix(DARKNET_FOLDER), [relative, base])
        yield key if lookup.exists(key) else inside


def _resolve(entry: str, base: Path) -> Path:
    entry = entry.replace("\\", "/")
    if not (base / entry).exists() and entry.startswith("../"):
        return base / entry[3:]
    return base / entry


def _config_of_darknet(root: Path) -> YoloConfig:
    """Return the classes and splits of obj.data."""
    lines = (root / DARKNET).read_text("utf-8-sig", "replace").splitlines()
    entries = {k.strip(): v.strip() for k, equals, v in (s.partition("=") for s in lines) if equals}
    entries = {
        key: path if (root / path).exists() else path.removeprefix(DARKNET_FOLDER)
        for key, path in entries.items()
    }
    names = (root / entries.get("names", CLASS_FILES[1])).read_text("utf-8-sig", "replace")
    splits = {split_name(key): [entries[key]] for key in KEYS if key in entries}
    return YoloConfig(tuple(filter(None, map(str.strip, names.splitlines()))), root, splits)


def _config_of_folders(root: Path) -> YoloConfig:
    """Return the classes and splits of folders without data.yaml."""
    names: tuple[str, ...] = ()
    for name in CLASS_FILES:
        if (root / name).is_file():
            lines = (root / name).read_text("utf-8-sig", "replace").splitlines()
            names = names or tuple(line.strip() for line in lines if line.strip())
    splits = {split_name(name): [f"{name}/images"] for name in _split_folders(root)}
    if not splits:
        inside = _split_folders(root / "images")
        splits = {split_name(name): [f"images/{name}"] for name in inside} or {"": ["images"]}
    return YoloConfig(names, root, splits)


def read_config(path: Path) -> YoloConfig:
    """Return the content of data.yaml; raise BadDataset, or ImportError without PyYAML."""
    content = _load_yaml(path)
    if not isinstance(content, dict):
        raise BadDataset(f"{path} is not data.yaml of YOLO: it has no keys")
    base = path.parent
    if isinstance(given := content.get("path"), str) and (path.parent / given).is_dir():
        base = path.parent / given
    splits: dict[str, Sequence[str]] = {}
    for key in KEYS:
        value = content.get(key)
        entries = value if isinstance(value, list) else [value] if value else []
        if not all(isinstance(entry, str) for entry in entries):
            raise BadDataset(f"{path}: {key} must be a path, or a list of paths")
        if entries:
            splits[split_name(key)] = entries
    return YoloConfig(_class_names(content, path), base, splits, "kpt_shape" in content)


def _class_names(content: Mapping[Any, Any], path: Path) -> tuple[str, ...]:
    """Return the class names, a list or {number: name}; raise BadDataset."""
    names, count = content.get("names"), content.get("nc")
    if names is None and type(count) is int and 0 < count < 10**6:
        return tuple(f"class_{number}" for number in range(count))
    if isinstance(names, dict):
        try:
            by_number = {int(number): name for number, name in names.items()}
        except (TypeError, ValueError):
            raise BadDataset(f"{path}: names must be numbered 0, 1, 2 …") from None
        if sorted(by_number) != list(range(len(names))):
            raise BadDataset(f"{path}: names must be numbered 0, 1, 2 …, without gaps")
        names = [by_number[number] for number in range(len(by_number))]
    if not isinstance(names, list) or not names:
        raise BadDataset(f"{path} has no names of classes")
    if not all(isinstance(name, str | int | float | bool) for name in names):
        raise BadDataset(f"{path}: names must be texts")
    if type(count) is int and count != len(names):
        raise BadDataset(f"{path}: nc is {count}, but there are {len(names)} names")
    if len(set(map(str, names))) < len(names):
        raise BadDataset(f"{path}: two classes have the same name")
    return tuple(map(str, names))


def _load_yaml(path: Path) -> object:
    """Return the content of a YAML file; aliases are rejected, as they may unfold without end."""
    try:
        import yaml
    except ImportError as error:
        raise ImportError(
            f"{path.name} needs pip install 'patchpack[detection]' ({error})"
        ) from error
    try:
        if path.stat().st_size > LONGEST_YAML:
            raise BadDataset(f"{path} is longer than {LONGEST_YAML:,} bytes: not a data.yaml")
        text = path.read_text(encoding="utf-8-sig")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise BadDataset(f"{path} has YAML aliases (*name): write their values")
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeError, RecursionError, ValueError) as error:
        if isinstance(error, BadDataset):
            raise
        raise BadDataset(f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from error
