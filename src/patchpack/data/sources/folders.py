"""Scan a folder for images or clips, with their splits and labels from folder names.

    root/<split>/<class>/*      if root has a folder `train`, `Train` or `training`
    root/<class>/*              no splits
    root/images/*               and root/masks/*.png with the same names: masks of these images
    root/images/<split>/*       and root/masks/<split>/*.png
    root/*                      images without labels, if no folder has any

A clip is a video or a folder of frames. Clips use the same layouts, except masks.

Hidden files and files with other suffixes are skipped. Links are followed, but no folder is entered
twice below a split or a class, so loops end. File names may hold any bytes.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from patchpack.data.records import CLIPS, IMAGES, PARTS, MediaType, Record, split_name

MASK_FOLDERS = ("masks", "annotations")
HIDDEN = (".", "__MACOSX")  # prefixes of skipped names; macOS archives contain __MACOSX


def scan_folder(root: Path, media_type: MediaType) -> list[Record]:
    """Return the records of all images or clips below a folder."""
    entries = _visible(root)
    folders = [e.name for e in entries if _is_folder(e)]
    if media_type == IMAGES and (masks := _mask_folder(entries)):
        return [_with_mask(root, key, masks) for key in _below(root, "images", media_type)]
    if "train" in map(split_name, folders):
        return [_with_split(key) for split in folders for key in _below(root, split, media_type)]
    items = [(key, name) for name in folders for key in _below(root, name, media_type)]
    if any(key != name for key, name in items):  # a folder of frames is a clip, not a class
        return [Record(key=key, label=name if key != name else None) for key, name in items]
    files = [e.name for e in entries if _matches_media(e, media_type)]
    return [Record(key=key, split="all") for key in [*files, *(key for key, _ in items)]]


def _mask_folder(entries: Sequence[os.DirEntry[str]]) -> str | None:
    """Return the name of the mask folder next to a folder `images`; None without both."""
    folders = [entry.name for entry in entries if _is_folder(entry)]
    masks = next((name for name in MASK_FOLDERS if name in folders), None)
    return masks if "images" in folders else None


def _with_mask(root: Path, key: str, masks: str) -> Record:
    """Return an image's record with its mask, if it exists, and its split, if a folder names it."""
    _, *folders, _ = key.split("/")
    split = split_name(folders[0]) if folders else ""
    same_name = Path(masks, *folders, Path(key).name)
    candidates = (same_name.with_suffix(".png"), same_name)
    mask = next((path for path in candidates if (root / path).exists()), None)
    columns = {"mask": mask.as_posix()} if mask else {}
    return Record(key=key, split=split if split in PARTS else "", columns=columns)


def _with_split(key: str) -> Record:
    """Return the record of <split>/<class>/… or <split>/<file>."""
    split, *rest = key.split("/")
    return Record(key=key, split=split_name(split), label=rest[0] if len(rest) > 1 else None)


def _below(root: Path, top: str, media_type: MediaType) -> Iterator[str]:
    """Yield the keys of all images or clips in the folder `top` of the root, at any depth."""
    entered = {os.path.realpath(root)}
    queue = [top]
    for folder in queue:  # grows during the loop
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
                queue.append(f"{folder}/{entry.name}")
            elif _matches_media(entry, media_type):
                yield f"{folder}/{entry.name}"


def files_in(folder: Path, media_type: MediaType = IMAGES) -> list[Path]:
    """Return all images or clips in a folder, at any depth, sorted by name; skip mask folders."""
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
    """Return whether a folder is a clip: it has images, and no videos or folders with either.

    Next to videos or folders of frames, an image is not a frame.
    """
    if not any(_matches_media(entry, IMAGES) for entry in entries):
        return False
    inside = [e for entry in entries if _is_folder(entry) for e in _visible(Path(entry.path))]
    return not any(_matches_media(e, CLIPS) for e in [*entries, *inside]) and not any(
        _matches_media(e, IMAGES) for e in inside
    )


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder that are not hidden, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(HIDDEN)), key=lambda e: e.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink():
        return os.path.isdir(entry.path)  # entry.is_dir raises OSError for a link to itself
    return entry.is_dir()


def _matches_media(entry: os.DirEntry[str], media_type: MediaType) -> bool:
    """Return whether a file has a suffix of the media type; broken links do, pipes do not."""
    if os.path.splitext(entry.name)[1].lower() not in media_type.suffixes:
        return False
    return entry.is_symlink() or entry.is_file()
