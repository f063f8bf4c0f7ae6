"""Scan a folder for images or clips, with their splits and labels from folder names.

    root/<split>/<class>/*      if the folders of the root are splits (see `_are_splits`)
    root/<class>/*              no splits
    root/images/*               and root/masks/*.png with the same names: masks of these images
    root/images/<split>/*       and root/masks/<split>/*.png
    root/<split>/images/*       and root/<split>/masks/*.png
    root/*                      images without labels, if no folder has any

A clip is a video or a folder of frames. Clips use the same layouts, except masks.

Files with other suffixes are counted (`sources.scan_notes`); hidden files, thumbnails, trash and
run folders are skipped. Links are followed, but no folder is entered twice below a split or a
class, so loops end. File names may hold any bytes.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from patchpack.data.records import CLIPS, IMAGES, PARTS, MediaType, Record, split_name
from patchpack.data.sources.mask_folders import MaskFiles, MaskFolders, mask_folders
from patchpack.data.sources.scan_notes import NAMED, RUN, ScanNotes, is_system_folder


def scan_folder(root: Path, media_type: MediaType, notes: ScanNotes | None = None) -> list[Record]:
    """Return the records of all images or clips below a folder.

    notes  receives what is passed over
    """
    notes = ScanNotes() if notes is None else notes
    folders, files, others = _partition(_visible(root, media_type, notes), media_type)
    if media_type == IMAGES and (pairs := _mask_folders(root, folders)):
        notes.add([*others, *files], [])
        return [r for top, pair in pairs.items() for r in _masked(root, top, pair, notes)]
    inside = {name: ScanNotes() for name in folders}
    keys = {name: list(_below(root, name, media_type, inside[name])) for name in folders}
    for below in inside.values():
        notes.files += below.files
        notes.skipped += below.skipped
    if _are_splits(keys):
        notes.add([*others, *files], [])
        notes.empty_classes |= _empty_classes(root, keys, media_type)
        return [_with_split(key) for split in folders for key in keys[split]]
    items = [(key, name) for name in folders for key in keys[name]]
    if any(key != name for key, name in items):  # a folder of frames is a clip, not a class
        notes.add([*others, *files], [])
        notes.empty_classes |= {name: inside[name].files for name in folders if not keys[name]}
        notes.layout = _classes_like_splits(keys) or _splits_like_classes(keys)
        return [Record(key=key, label=name if key != name else None) for key, name in items]
    notes.add(others, files)
    return [Record(key=key, split="all") for key in [*files, *(key for key, _ in items)]]


def _are_splits(keys: Mapping[str, Sequence[str]]) -> bool:
    """Return whether the folders of a dataset are splits, not classes.

    keys  of the items below each folder

    A class may have the name of a split (a `train` beside a `bus`). The folders are splits if the
    training folder has class folders, if all have names of splits, or if there is a training folder
    and another split. Folders with other names are splits then, too.
    """
    named = {name: split_name(name) for name in keys if split_name(name) in PARTS}
    train = [name for name, part in named.items() if part == "train"]
    if any(key.count("/") > 1 for name in train for key in keys[name]):
        return True
    if not any(keys[name] for name in named):
        return False
    return all(name in named for name in keys if keys[name]) or bool(train and len(named) > 1)


def _classes_like_splits(keys: Mapping[str, Sequence[str]]) -> str:
    """Name the classes that have the name of a split; "" without any."""
    names = [name for name in keys if split_name(name) in PARTS and keys[name]]
    if not names:
        return ""
    kind = "a class, not a split" if len(names) == 1 else "classes, not splits"
    others = [name for name in keys if name not in names and keys[name]]
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    return (
        f"{', '.join(names)}: taken for {kind}, like {', '.join(others[:NAMED])}{more} beside it, "
        "which have no name of a split"
    )


def _splits_like_classes(keys: Mapping[str, Sequence[str]]) -> str:
    """Name the classes that hold the same folders, as splits of other names do; "" if they differ.

    One folder of all classes, or several, may be a level that was not meant to be the classes.
    """
    inside = {
        name: {parts[1] for key in keys[name] if len(parts := key.split("/")) > 2}
        for name in keys
        if keys[name]
    }
    shared = set.intersection(*inside.values()) if inside else set()
    if len(shared) < 2:
        return ""
    return (
        f"{', '.join(list(inside)[:NAMED])}: taken for classes, but each holds folders such as "
        f"{', '.join(sorted(shared)[:NAMED])}; if these are the classes, name the splits above "
        "them train, val and test, or give the folder that holds them"
    )


def _empty_classes(
    root: Path, keys: Mapping[str, Sequence[str]], media_type: MediaType
) -> dict[str, Counter[str]]:
    """Return the class folders of splits that hold no item, with the files in each by suffix."""
    empty: dict[str, Counter[str]] = {}
    for split in keys:
        used = {key.split("/")[1] for key in keys[split] if key != split}
        folders, _, _ = _partition(_visible(root / split, media_type, ScanNotes()), media_type)
        for name in folders:
            if name not in used:
                inside = ScanNotes()
                list(_below(root, f"{split}/{name}", media_type, inside))
                empty[f"{split}/{name}"] = inside.files
    return empty


def _mask_folders(root: Path, folders: Sequence[str]) -> dict[str, MaskFolders]:
    """Return the folders of images with masks: those of the root (""), or of each split."""
    if pair := mask_folders(folders):
        return {"": pair}
    pairs = {}
    for name in folders:
        if split_name(name) in PARTS:
            inside, _, _ = _partition(_visible(root / name, IMAGES, ScanNotes()), IMAGES)
            if pair := mask_folders(inside):
                pairs[name] = pair
    return pairs


def _masked(root: Path, top: str, pair: MaskFolders, notes: ScanNotes) -> Iterator[Record]:
    """Yield the records of the images of a folder with their masks, where these exist.

    top  the split that holds both folders; "": the root does, and folders inside may name splits
    """
    masks, images = Path(top, pair.masks).as_posix(), Path(top, pair.images).as_posix()
    files = MaskFiles(root / masks)
    for key in _below(root, images, IMAGES, notes):
        inside = key[len(images) + 1 :]
        split = split_name(top or inside.split("/")[0])
        mask = files.of(inside)
        columns = {"mask": f"{masks}/{mask}"} if mask else {}
        yield Record(key=key, split=split if split in PARTS else "", columns=columns)
    notes.unused_masks += [f"{masks}/{name}" for name in files.unused()]


def _with_split(key: str) -> Record:
    """Return the record of <split>/<class>/… or <split>/<file>."""
    split, *rest = key.split("/")
    return Record(key=key, split=split_name(split), label=rest[0] if len(rest) > 1 else None)


def _below(root: Path, top: str, media_type: MediaType, notes: ScanNotes) -> Iterator[str]:
    """Yield the keys of all images or clips in the folder `top` of the root, at any depth."""
    entered = {os.path.realpath(root)}
    queue = [top]
    for folder in queue:  # grows during the loop
        real = os.path.realpath(root / folder)
        if real in entered:
            continue
        entered.add(real)
        entries = _visible(root / folder, media_type, notes)
        if media_type.folders and _holds_frames(entries):
            yield folder
            continue
        folders, items, others = _partition(entries, media_type)
        queue += [f"{folder}/{name}" for name in folders]
        notes.add(others, items)
        yield from (f"{folder}/{name}" for name in items)


def files_in(
    folder: Path, media_type: MediaType = IMAGES, notes: ScanNotes | None = None
) -> list[Path]:
    """Return all images or clips in a folder, at any depth, sorted by name; skip mask folders.

    notes  receives what is passed over
    """
    notes = ScanNotes() if notes is None else notes
    entries = _visible(folder, media_type, notes)
    if media_type.folders and _holds_frames(entries):
        return [folder]
    folders, keys, others = _partition(entries, media_type)
    if media_type == IMAGES and (pairs := _mask_folders(folder, folders)):
        folders = [Path(top, pair.images).as_posix() for top, pair in pairs.items()]
        keys = []
    notes.add(others, keys)
    for name in folders:
        keys += _below(folder, name, media_type, notes)
    return [folder / key for key in sorted(keys)]


def _holds_frames(entries: Sequence[os.DirEntry[str]]) -> bool:
    """Return whether a folder is a clip: it has images, and no videos or folders with either.

    Next to videos or folders of frames, an image is not a frame.
    """
    if not any(_matches_media(entry, IMAGES) for entry in entries):
        return False
    inside = [
        e
        for entry in entries
        if _is_folder(entry)
        for e in _visible(Path(entry.path), CLIPS, ScanNotes())
    ]
    return not any(_matches_media(e, CLIPS) for e in [*entries, *inside]) and not any(
        _matches_media(e, IMAGES) for e in inside
    )


def _visible(folder: Path, media_type: MediaType, notes: ScanNotes) -> list[os.DirEntry[str]]:
    """Return the entries of a folder that may be data, sorted by name; none of a run folder."""
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    if {entry.name for entry in listed if entry.name in RUN} == RUN:
        notes.skipped[f"run folder {folder.name}"] += 1
        return []
    visible = []
    for entry in listed:
        if not _is_hidden(entry):
            visible.append(entry)
        elif _is_folder(entry):
            notes.skipped[f"folder {entry.name}"] += 1
        elif os.path.splitext(entry.name)[1].lower() in media_type.suffixes:
            notes.skipped["hidden files"] += 1
    return visible


def _partition(
    entries: Sequence[os.DirEntry[str]], media_type: MediaType
) -> tuple[list[str], list[str], list[str]]:
    """Return the names of the folders, of the items, and of the other files."""
    folders: list[str] = []
    items: list[str] = []
    others: list[str] = []
    for entry in entries:
        if _is_folder(entry):
            folders.append(entry.name)
        else:
            (items if _matches_media(entry, media_type) else others).append(entry.name)
    return folders, items, others


def _is_hidden(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith("."):
        return True
    return _is_folder(entry) and is_system_folder(entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink():
        return os.path.isdir(entry.path)  # entry.is_dir raises OSError for a link to itself
    return entry.is_dir()


def _matches_media(entry: os.DirEntry[str], media_type: MediaType) -> bool:
    """Return whether a file has a suffix of the media type; broken links do, pipes do not."""
    if os.path.splitext(entry.name)[1].lower() not in media_type.suffixes:
        return False
    return entry.is_symlink() or entry.is_file()
