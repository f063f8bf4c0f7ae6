"""Output paths: never overwrite a file, never create a folder below a file."""

import os
from collections.abc import Iterable
from pathlib import Path


def check_new(paths: Iterable[Path]) -> None:
    """Raise ValueError for a path that exists: it may be an image, or its ground-truth mask."""
    for path in paths:
        if os.path.lexists(path):
            raise ValueError(f"{path} exists, and is not overwritten: name another output")


def check_picture(path: Path, new: bool = True) -> None:
    """Raise ValueError where a picture cannot be written: its format, its folder, or a file there.

    new  reject a file that exists
    """
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"{path}: a picture ends in .png, .jpg or .webp")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is no folder: name a picture in one that exists")
    if new:
        check_new([path])


def check_folder(folder: Path) -> None:
    """Raise ValueError where a folder cannot be made: it, or a parent, is a file."""
    for parent in (folder, *folder.parents):
        if parent.exists():
            if not parent.is_dir():
                raise ValueError(f"{parent} is a file: name a folder")
            break


def make_folder(folder: Path) -> None:
    """Make a folder and its parents; raises ValueError where one of them is a file."""
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
