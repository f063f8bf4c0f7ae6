"""Image and video files that a user names, in groups that are predicted together."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from patchpack.data.images import BadImage, read_size
from patchpack.data.reading import DEFAULT_READING, ReadingConfig
from patchpack.data.records import CLIPS, IMAGES, MediaType
from patchpack.data.sources.folders import files_in
from patchpack.data.sources.scan_notes import ScanNotes

GROUP_FILES = 128  # maximum files per group …
GROUP_PIXELS = 64_000_000  # … and maximum pixels, but for a single larger image


def image_files(
    paths: Sequence[Path], media_type: MediaType = IMAGES, notes: ScanNotes | None = None
) -> list[Path]:
    """Files as given, each once; for a folder, the images or videos in it and below it.

    notes  receives what is passed over in folders

    Raises ValueError for a path that does not exist, a folder without images, no path at all, and
    a video where images are expected.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = ScanNotes()
            inside = files_in(path, media_type, below)
            if not inside:
                passed_over = "".join(f"; {message}" for message in below.messages())
                raise ValueError(f"{path} holds no {media_type.name}{passed_over}")
            files += inside
            if notes is not None:
                notes.files += below.files
                notes.skipped += below.skipped
        elif not path.exists():
            raise ValueError(f"{path}: there is no such file")
        elif media_type == IMAGES and path.suffix.lower() in CLIPS.suffixes:
            raise ValueError(f"{path} is a video, and this model takes images")
        else:
            files.append(path)
    if not files:
        raise ValueError(f"no {media_type.name} were given")
    once: dict[str, Path] = {}
    for file in files:
        once.setdefault(os.path.abspath(file), file)
    return list(once.values())


def in_groups(
    paths: Sequence[Path], reading: ReadingConfig = DEFAULT_READING
) -> Iterator[list[Path]]:
    """The files in order, few enough at a time that results come early and fit in memory.

    Sizes come from headers; a header that cannot be read counts as no pixels.
    """
    group: list[Path] = []
    pixels = 0
    for path in paths:
        size = _pixels(path, reading)
        if group and (len(group) == GROUP_FILES or pixels + size > GROUP_PIXELS):
            yield group
            group, pixels = [], 0
        group.append(path)
        pixels += size
    if group:
        yield group


def _pixels(path: Path, reading: ReadingConfig) -> int:
    try:
        height, width = read_size(path, reading)
    except BadImage:  # named when the file is decoded; a video has no image header
        return 0
    return height * width
