"""Outputs that a user names: never overwrite a file, never create a folder below a file."""

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from patchpack import writing

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # by suffix


def check_new(paths: Iterable[Path]) -> None:
    """Raise ValueError for a path that exists: it may be an image, or its ground-truth mask."""
    for path in paths:
        writing.check_new(path)


def check_outside(output: Path, sources: Iterable[Path]) -> None:
    """Raise ValueError for pictures inside a folder that images are read from: they would become
    images of it.

    sources  files and folders of images
    """
    for source in sources:
        if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
            raise ValueError(
                f"{output} is inside {source}, and its pictures would become images of that "
                "folder: name an output outside of it"
            )


def write_picture(path: Path, image: Image.Image) -> None:
    """Write a picture to a new file, in the format of its suffix."""
    writing.write_new(path, lambda file: image.save(file, PICTURES[path.suffix.lower()]))


def to_png(image: Image.Image) -> bytes:
    """A picture as PNG."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def replace_picture(path: Path, image: Image.Image) -> None:
    """Write or replace a picture of a run, in the format of its suffix."""
    writing.replace_file(path, lambda file: image.save(file, PICTURES[path.suffix.lower()]))


def check_picture(path: Path, new: bool = True) -> None:
    """Raise ValueError where a picture cannot be written: its format, its folder, or a file there.

    new  reject a file that exists
    """
    if path.suffix.lower() not in PICTURES:
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
