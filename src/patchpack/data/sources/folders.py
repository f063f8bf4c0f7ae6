"""Which files a dataset holds, with the split and the label of each, before any is opened.

    root/<split>/<class>/*      where root has a folder `train`, or Train, or training
    root/<class>/*              split 80/10/10 within each class, by a hash of the file's name
    manifest.csv, .jsonl        columns path, and if wanted split, label, and any others
    root/images/*               and of the same names, root/masks/*.png: masks of these images,
    root/images/<split>/*       and root/masks/<split>/*.png
    boxes.json                  a COCO file; a folder with one for each split (`data.coco`)
    root/*                      images without labels, where no folder below holds any

Clips lie as images do (not with masks or in COCO files): each is a video, or a folder of frames.

Hidden files, and files that are not images by their suffix, are passed over. Links are followed,
but no folder is entered twice on the way down from a split or a class, so loops end. Names may be
any bytes at all: where a name is encoded, it is with "surrogatepass".
"""

import csv
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from patchpack.data.records import CLIPS, IMAGES, PARTS, BadDataset, File, Kind, split_name
from patchpack.data.sources.coco import SUFFIX, coco_files, read_coco

MASK_FOLDERS = ("masks", "annotations")
HIDDEN = (".", "__MACOSX")  # the second is what archives of macOS bring along
MANIFESTS = (".csv", ".jsonl")


def list_files(source: Path, seed: int, kind: Kind = IMAGES) -> tuple[Path, list[File]]:
    """The root that keys are relative to, and all files in the order of their keys."""
    try:
        if source.suffix.lower() in MANIFESTS and source.is_file():
            root, files = source.parent, _read_manifest(source, kind)
        elif kind == IMAGES and source.suffix.lower() == SUFFIX and source.is_file():
            root, files = source.parent, read_coco({source: ("", "")}, source.parent)
        elif kind == IMAGES and source.is_dir() and (parts := coco_files(source)):
            root, files = source, read_coco(parts, source)
        elif source.is_dir():
            root, files = source, _scan(source, kind)
        else:
            raise BadDataset(f"{source} is neither a folder nor a manifest: {kind.expected}")
    except OSError as error:
        raise BadDataset(f"{error.filename or source} cannot be read: {error.strerror}") from error
    if not files:
        raise BadDataset(f"{source} holds no {kind.name}: {_instead(source, kind)}")
    files.sort(key=lambda file: file.key)
    return root, _assign_splits(files, seed)


def _instead(source: Path, kind: Kind) -> str:
    """What to do about a dataset that holds nothing of a kind."""
    videos = replace(CLIPS, folders=False)
    if kind == IMAGES and source.is_dir() and (clips := len(_scan(source, videos))):
        return (
            f"but {clips:,} clips, which a model of clips takes, as --preset navit_s16x2 "
            "(and inspect, with frames:spread)"
        )
    return kind.expected


def _scan(root: Path, kind: Kind) -> list[File]:
    entries = _visible(root)
    folders = [e.name for e in entries if _is_folder(e)]
    if kind == IMAGES and (masks := _mask_folder(entries)):
        return [_masked(root, key, masks) for key in _below(root, "images", kind)]
    if "train" in map(split_name, folders):
        return [_of_split(key) for split in folders for key in _below(root, split, kind)]
    found = [(key, name) for name in folders for key in _below(root, name, kind)]
    if any(key != name for key, name in found):  # a folder of frames is a clip and no class
        return [File(key=key, label=name if key != name else None) for key, name in found]
    loose = [e.name for e in entries if _is_one(e, kind)]
    return [File(key=key, split="all") for key in [*loose, *(key for key, _ in found)]]


def _mask_folder(entries: Sequence[os.DirEntry[str]]) -> str | None:
    """The folder of the masks of the images in a folder images beside it; None without both."""
    folders = [entry.name for entry in entries if _is_folder(entry)]
    found = next((name for name in MASK_FOLDERS if name in folders), None)
    return found if "images" in folders else None


def _masked(root: Path, key: str, masks: str) -> File:
    """An image with its mask, if there is one; the folder that it lies in may name its split."""
    _, *below, _ = key.split("/")
    split = split_name(below[0]) if below else ""
    beside = Path(masks, *below, Path(key).name)
    found = next((p for p in (beside.with_suffix(".png"), beside) if (root / p).exists()), None)
    columns = {"mask": found.as_posix()} if found else {}
    return File(key=key, split=split if split in PARTS else "", columns=columns)


def _of_split(key: str) -> File:
    split, *below = key.split("/")
    return File(key=key, split=split_name(split), label=below[0] if len(below) > 1 else None)


def _below(root: Path, top: str, kind: Kind) -> Iterator[str]:
    """Keys of the images, or clips, in a folder of the root and at any depth below it."""
    entered = {os.path.realpath(root)}
    ahead = [top]
    for folder in ahead:  # grows on the way
        real = os.path.realpath(root / folder)
        if real in entered:
            continue
        entered.add(real)
        entries = _visible(root / folder)
        if kind.folders and _holds_frames(entries):
            yield folder
            continue
        for entry in entries:
            if _is_folder(entry):
                ahead.append(f"{folder}/{entry.name}")
            elif _is_one(entry, kind):
                yield f"{folder}/{entry.name}"


def files_in(folder: Path, kind: Kind = IMAGES) -> list[Path]:
    """The images, or clips, in a folder and at any depth below it, by name; masks of images that
    lie beside them are none."""
    entries = _visible(folder)
    if kind.folders and _holds_frames(entries):
        return [folder]
    if kind == IMAGES and _mask_folder(entries):
        return files_in(folder / "images", kind)
    keys = [entry.name for entry in entries if _is_one(entry, kind)]
    for entry in entries:
        if _is_folder(entry):
            keys += _below(folder, entry.name, kind)
    return [folder / key for key in sorted(keys)]


def _holds_frames(entries: Sequence[os.DirEntry[str]]) -> bool:
    """Whether a folder of these is a clip: it holds images, and neither videos nor folders of
    either, beside which an image is only a picture."""
    if not any(_is_one(entry, IMAGES) for entry in entries):
        return False
    inside = [e for entry in entries if _is_folder(entry) for e in _visible(Path(entry.path))]
    return not any(_is_one(e, CLIPS) for e in [*entries, *inside]) and not any(
        _is_one(e, IMAGES) for e in inside
    )


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, in the order of the names, whatever order the file system has."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(HIDDEN)), key=lambda e: e.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink():
        return os.path.isdir(entry.path)  # unlike entry.is_dir, no error for a link to itself
    return entry.is_dir()


def _is_one(entry: os.DirEntry[str], kind: Kind) -> bool:
    """By its name; dangling links count, so that they are reported, and pipes do not."""
    if os.path.splitext(entry.name)[1].lower() not in kind.suffixes:
        return False
    return entry.is_symlink() or entry.is_file()


def _read_manifest(path: Path, kind: Kind) -> list[File]:
    files: list[File] = []
    lines: dict[str, int] = {}  # where each file was first named
    for number, row in _rows(path):
        if not row.get("path"):
            have = ", ".join(row) or "nothing"
            raise BadDataset(f"{path}, line {number}: there is no `path` (there is {have})")
        key = os.path.normpath(row.pop("path"))
        place = os.path.normpath(path.parent / key)
        if place in lines:
            fault = f"is on line {lines[place]} already"
            files.append(File(key=f"{key} (line {number})", fault=fault))
            continue
        lines[place] = number
        split = row.pop("split", "")
        label = row.pop("label", "") or None
        files.append(File(key=key, split=split_name(split), label=label, columns=row))
    if not files:
        raise BadDataset(f"{path} is empty: {kind.expected}")
    return files


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and cells of a manifest."""
    read = _csv_rows if path.suffix.lower() == ".csv" else _json_rows
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from read(path, file)
    except UnicodeDecodeError as error:
        raise BadDataset(f"{path} is not UTF-8 text: {error}") from error


def _csv_rows(path: Path, file: TextIO) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(file)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise BadDataset(
                    f"{path}, line {reader.line_num}: not as many cells as there are column names"
                )
            yield reader.line_num, {str(name): str(cell) for name, cell in row.items()}
    except csv.Error as error:
        raise BadDataset(f"{path}, line {reader.reader.line_num}: not CSV ({error})") from error


def _json_rows(path: Path, file: TextIO) -> Iterator[tuple[int, dict[str, str]]]:
    """Values that are no strings come as their JSON, null as the empty string."""
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadDataset(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise BadDataset(f"{path}, line {number}: not a JSON object")
        yield number, {name: _cell(value) for name, value in row.items()}


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _assign_splits(files: list[File], seed: int) -> list[File]:
    """Give files without a split one: 80/10/10 within each class, by a hash of seed and key.

    A class of three images or more has at least one for validation and one for test. Where files
    are split into `train` and others, but none is for validation, a tenth of `train` is.
    """
    files = _hold_out(files, seed)
    groups: dict[str | None, list[File]] = defaultdict(list)
    for file in files:
        if not file.split:
            groups[file.label].append(file)
    splits: dict[str, str] = {}
    for group in groups.values():
        group.sort(key=lambda file: _lot(seed, file.key))
        held = max(1, round(len(group) / 10)) if len(group) >= 3 else 0
        for place, file in enumerate(group):
            splits[file.key] = "val" if place < held else "test" if place < 2 * held else "train"
    return [replace(file, split=file.split or splits[file.key]) for file in files]


def _hold_out(files: list[File], seed: int) -> list[File]:
    """A tenth of each class of `train` becomes `val`, where there is none; files that share a
    value in a column `group` stay together."""
    there = {file.split for file in files}
    if "train" not in there or there & {"val", ""}:
        return files
    groups: dict[str | None, set[str]] = defaultdict(set)
    for file in files:
        if file.split == "train":
            groups[file.label].add(_group(file))
    held: set[str] = set()
    for group in groups.values():
        order = sorted(group, key=lambda name: _lot(seed, name))
        held |= set(order[: max(1, round(len(order) / 10))]) if len(order) >= 3 else set()
    return [
        replace(file, split="val", held=True)
        if file.split == "train" and _group(file) in held
        else file
        for file in files
    ]


def _group(file: File) -> str:
    return file.columns.get("group") or file.key


def share_out(keys: Sequence[str], seed: int = 0) -> dict[str, list[int]]:
    """Numbers of files that no layout splits, 80/10/10 by a hash of seed and key."""
    order = sorted(range(len(keys)), key=lambda number: _lot(seed, keys[number]))
    held = max(1, round(len(keys) / 10)) if len(keys) >= 3 else 0
    return {
        "val": sorted(order[:held]),
        "test": sorted(order[held : 2 * held]),
        "train": sorted(order[2 * held :]),
    }


def _lot(seed: int, key: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()
