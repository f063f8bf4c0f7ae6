"""Which files a dataset holds, with the split and the label of each, before any is opened.

    root/<split>/<class>/*      where root has a folder `train`
    root/<class>/*              split 80/10/10 within each class, by a hash of the file's name
    manifest.csv, .jsonl        columns path, and if wanted split, label, and any others
    root/*                      images without labels

Hidden files, and files that are not images by their suffix, are passed over.
"""

import csv
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from patchpack.data.images import SUFFIXES

SPLIT_NAMES = {"valid": "val", "validation": "val", "dev": "val", "testing": "test"}
EXPECTED = (
    "expected <folder>/<split>/<class>/*.jpg, <folder>/<class>/*.jpg, images directly in the "
    "folder, or a .csv or .jsonl manifest with a column `path`"
)


class BadDataset(ValueError):
    """A dataset that cannot be used, and why."""


@dataclass(frozen=True, kw_only=True)
class File:
    """One image file, unopened."""

    key: str  # path relative to the root
    split: str = ""  # empty where the layout does not say
    label: str | None = None
    columns: dict[str, str] = field(default_factory=dict)


def list_files(source: Path, seed: int) -> tuple[Path, list[File]]:
    """The root that keys are relative to, and all files in the order of their keys."""
    if source.suffix in (".csv", ".jsonl") and source.is_file():
        root, files = source.parent, _read_manifest(source)
    elif source.is_dir():
        root, files = source, list(_scan(source))
    else:
        raise BadDataset(f"{source} does not exist or is neither folder nor manifest: {EXPECTED}")
    if not files:
        raise BadDataset(f"{source} holds no images: {EXPECTED}")
    files.sort(key=lambda file: file.key)
    return root, _assign_splits(files, seed)


def _scan(root: Path) -> Iterator[File]:
    folders = sorted(entry.name for entry in os.scandir(root) if _is_folder(entry))
    if "train" in folders:
        for folder in folders:
            split = SPLIT_NAMES.get(folder, folder)
            for key in _images_below(root, folder):
                below = key.split("/")[1:]
                yield File(key=key, split=split, label=below[0] if len(below) > 1 else None)
        return
    for folder in folders:
        for key in _images_below(root, folder):
            yield File(key=key, label=folder)
    if not folders:
        for key in _images_below(root, ""):
            yield File(key=key, split="all")


def _images_below(root: Path, folder: str, _seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """Keys of the images in a folder and below it; links to folders are followed, loops are not."""
    real = os.path.realpath(root / folder)
    if real in _seen:
        return
    for entry in os.scandir(root / folder):
        key = f"{folder}/{entry.name}" if folder else entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _images_below(root, key, _seen | {real})
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield key


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _read_manifest(path: Path) -> list[File]:
    rows = list(_rows(path))
    files: dict[str, File] = {}
    for number, row in rows:
        if not row.get("path"):
            have = ", ".join(row) or "nothing"
            raise BadDataset(f"{path}, line {number}: there is no `path` (there is {have})")
        key = row.pop("path")
        if key in files:
            raise BadDataset(f"{path}, line {number}: {key} stands there twice")
        split = row.pop("split", "") or ""
        label = row.pop("label", None) or None
        files[key] = File(key=key, split=SPLIT_NAMES.get(split, split), label=label, columns=row)
    return list(files.values())


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and cells; JSON values that are no strings come as their JSON."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        if path.suffix == ".csv":
            for row in (reader := csv.DictReader(file)):
                if None in row or None in row.values():
                    raise BadDataset(f"{path}, line {reader.line_num}: not as many cells as above")
                yield reader.line_num, {str(k): str(v) for k, v in row.items()}
            return
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise BadDataset(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise BadDataset(f"{path}, line {number}: not a JSON object")
            yield number, {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}


def _assign_splits(files: list[File], seed: int) -> list[File]:
    """Give files without a split one: 80/10/10 within each class, by a hash of seed and key.

    A class of three images or more has at least one for validation and one for test.
    """
    groups: dict[str | None, list[File]] = defaultdict(list)
    for file in files:
        if not file.split:
            groups[file.label].append(file)
    splits: dict[str, str] = {}
    for group in groups.values():
        group.sort(key=lambda file: hashlib.blake2b(f"{seed}\0{file.key}".encode()).digest())
        held = max(1, round(len(group) / 10)) if len(group) >= 3 else 0
        for place, file in enumerate(group):
            splits[file.key] = "val" if place < held else "test" if place < 2 * held else "train"
    return [
        File(key=f.key, split=f.split or splits[f.key], label=f.label, columns=f.columns)
        for f in files
    ]
