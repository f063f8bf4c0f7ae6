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

from patchpack.data.records import CLIPS, IMAGES, PARTS, BadDataset, MediaType, Record, split_name
from patchpack.data.sources.coco import SUFFIX, coco_files, read_coco

MASK_FOLDERS = ("masks", "annotations")
HIDDEN = (".", "__MACOSX")  # the second is what archives of macOS bring along
MANIFESTS = (".csv", ".jsonl")


def list_files(
    source: Path, seed: int, media_type: MediaType = IMAGES
) -> tuple[Path, list[Record]]:
    """The root that keys are relative to, and all files in the order of their keys."""
    try:
        if source.suffix.lower() in MANIFESTS and source.is_file():
            root, files = source.parent, _read_manifest(source, media_type)
        elif media_type == IMAGES and source.suffix.lower() == SUFFIX and source.is_file():
            root, files = source.parent, read_coco({source: ("", "")}, source.parent)
        elif media_type == IMAGES and source.is_dir() and (parts := coco_files(source)):
            root, files = source, read_coco(parts, source)
        elif source.is_dir():
            root, files = source, _scan(source, media_type)
        else:
            raise BadDataset(f"{source} is neither a folder nor a manifest: {media_type.expected}")
    except OSError as error:
        raise BadDataset(f"{error.filename or source} cannot be read: {error.strerror}") from error
    if not files:
        raise BadDataset(f"{source} holds no {media_type.name}: {_hint(source, media_type)}")
    files.sort(key=lambda file: file.key)
    return root, _assign_splits(files, seed)


def _hint(source: Path, media_type: MediaType) -> str:
    """What to do about a dataset that holds nothing of a kind."""
    videos = replace(CLIPS, folders=False)
    if media_type == IMAGES and source.is_dir() and (clips := len(_scan(source, videos))):
        return (
            f"but {clips:,} clips, which a model of clips takes, as --preset navit_s16x2 "
            "(and inspect, with frames:uniform-frames)"
        )
    return media_type.expected


def _scan(root: Path, media_type: MediaType) -> list[Record]:
    entries = _visible(root)
    folders = [e.name for e in entries if _is_folder(e)]
    if media_type == IMAGES and (masks := _mask_folder(entries)):
        return [_masked(root, key, masks) for key in _below(root, "images", media_type)]
    if "train" in map(split_name, folders):
        return [_of_split(key) for split in folders for key in _below(root, split, media_type)]
    found = [(key, name) for name in folders for key in _below(root, name, media_type)]
    if any(key != name for key, name in found):  # a folder of frames is a clip and no class
        return [Record(key=key, label=name if key != name else None) for key, name in found]
    loose = [e.name for e in entries if _matches_media(e, media_type)]
    return [Record(key=key, split="all") for key in [*loose, *(key for key, _ in found)]]


def _mask_folder(entries: Sequence[os.DirEntry[str]]) -> str | None:
    """The folder of the masks of the images in a folder images beside it; None without both."""
    folders = [entry.name for entry in entries if _is_folder(entry)]
    found = next((name for name in MASK_FOLDERS if name in folders), None)
    return found if "images" in folders else None


def _masked(root: Path, key: str, masks: str) -> Record:
    """An image with its mask, if there is one; the folder that it lies in may name its split."""
    _, *below, _ = key.split("/")
    split = split_name(below[0]) if below else ""
    beside = Path(masks, *below, Path(key).name)
    found = next((p for p in (beside.with_suffix(".png"), beside) if (root / p).exists()), None)
    columns = {"mask": found.as_posix()} if found else {}
    return Record(key=key, split=split if split in PARTS else "", columns=columns)


def _of_split(key: str) -> Record:
    split, *below = key.split("/")
    return Record(key=key, split=split_name(split), label=below[0] if len(below) > 1 else None)


def _below(root: Path, top: str, media_type: MediaType) -> Iterator[str]:
    """Keys of the images, or clips, in a folder of the root and at any depth below it."""
    entered = {os.path.realpath(root)}
    ahead = [top]
    for folder in ahead:  # grows on the way
        real = os.path.realpath(root / folder)
        if real in entered:
            continue
        entered.add(real)
        entries = _visible(root / folder)
        if media_type.folders and _holds_frames(entries):
            yield folder
            continue
        for entry in entries:
            if _is_folder(entry):
                ahead.append(f"{folder}/{entry.name}")
            elif _matches_media(entry, media_type):
                yield f"{folder}/{entry.name}"


def files_in(folder: Path, media_type: MediaType = IMAGES) -> list[Path]:
    """The images, or clips, in a folder and at any depth below it, by name; masks of images that
    lie beside them are none."""
    entries = _visible(folder)
    if media_type.folders and _holds_frames(entries):
        return [folder]
    if media_type == IMAGES and _mask_folder(entries):
        return files_in(folder / "images", media_type)
    keys = [entry.name for entry in entries if _matches_media(entry, media_type)]
    for entry in entries:
        if _is_folder(entry):
            keys += _below(folder, entry.name, media_type)
    return [folder / key for key in sorted(keys)]


def _holds_frames(entries: Sequence[os.DirEntry[str]]) -> bool:
    """Whether a folder of these is a clip: it holds images, and neither videos nor folders of
    either, beside which an image is only a picture."""
    if not any(_matches_media(entry, IMAGES) for entry in entries):
        return False
    inside = [e for entry in entries if _is_folder(entry) for e in _visible(Path(entry.path))]
    return not any(_matches_media(e, CLIPS) for e in [*entries, *inside]) and not any(
        _matches_media(e, IMAGES) for e in inside
    )


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, in the order of the names, whatever order the file system has."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(HIDDEN)), key=lambda e: e.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink():
        return os.path.isdir(entry.path)  # unlike entry.is_dir, no error for a link to itself
    return entry.is_dir()


def _matches_media(entry: os.DirEntry[str], media_type: MediaType) -> bool:
    """By its name; dangling links count, so that they are reported, and pipes do not."""
    if os.path.splitext(entry.name)[1].lower() not in media_type.suffixes:
        return False
    return entry.is_symlink() or entry.is_file()


def _read_manifest(path: Path, media_type: MediaType) -> list[Record]:
    files: list[Record] = []
    lines: dict[str, int] = {}  # where each file was first named
    for number, row in _rows(path):
        if not row.get("path"):
            have = ", ".join(row) or "nothing"
            raise BadDataset(f"{path}, line {number}: there is no `path` (there is {have})")
        key = os.path.normpath(row.pop("path"))
        place = os.path.normpath(path.parent / key)
        if place in lines:
            error = f"is on line {lines[place]} already"
            files.append(Record(key=f"{key} (line {number})", error=error))
            continue
        lines[place] = number
        split = row.pop("split", "")
        label = row.pop("label", "") or None
        files.append(Record(key=key, split=split_name(split), label=label, columns=row))
    if not files:
        raise BadDataset(f"{path} is empty: {media_type.expected}")
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


def _assign_splits(files: list[Record], seed: int) -> list[Record]:
    """Give files without a split one: 80/10/10 within each class, by a hash of seed and key.

    A class of three images or more has at least one for validation and one for test. Where files
    are split into `train` and others, but none is for validation, a tenth of `train` is.
    """
    files = _hold_out(files, seed)
    groups: dict[str | None, list[Record]] = defaultdict(list)
    for file in files:
        if not file.split:
            groups[file.label].append(file)
    splits: dict[str, str] = {}
    for group in groups.values():
        group.sort(key=lambda file: _hash_key(seed, file.key))
        held_out = max(1, round(len(group) / 10)) if len(group) >= 3 else 0
        for place, file in enumerate(group):
            splits[file.key] = (
                "val" if place < held_out else "test" if place < 2 * held_out else "train"
            )
    return [replace(file, split=file.split or splits[file.key]) for file in files]


def _hold_out(files: list[Record], seed: int) -> list[Record]:
    """A tenth of each class of `train` becomes `val`, where there is none; files that share a
    value in a column `group` stay together."""
    there = {file.split for file in files}
    if "train" not in there or there & {"val", ""}:
        return files
    groups: dict[str | None, set[str]] = defaultdict(set)
    for file in files:
        if file.split == "train":
            groups[file.label].add(_group(file))
    held_out: set[str] = set()
    for group in groups.values():
        order = sorted(group, key=lambda name: _hash_key(seed, name))
        held_out |= set(order[: max(1, round(len(order) / 10))]) if len(order) >= 3 else set()
    return [
        replace(file, split="val", held_out=True)
        if file.split == "train" and _group(file) in held_out
        else file
        for file in files
    ]


def _group(file: Record) -> str:
    return file.columns.get("group") or file.key


def split_by_hash(keys: Sequence[str], seed: int = 0) -> dict[str, list[int]]:
    """Numbers of files that no layout splits, 80/10/10 by a hash of seed and key."""
    order = sorted(range(len(keys)), key=lambda number: _hash_key(seed, keys[number]))
    held_out = max(1, round(len(keys) / 10)) if len(keys) >= 3 else 0
    return {
        "val": sorted(order[:held_out]),
        "test": sorted(order[held_out : 2 * held_out]),
        "train": sorted(order[2 * held_out :]),
    }


def _hash_key(seed: int, key: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()
