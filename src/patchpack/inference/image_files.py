"""Image files as a user names them, to pixels a predictor takes, in groups that fit in memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from patchpack.data.images import BadImage, Pixels, decode
from patchpack.data.records import CLIPS, IMAGES, MediaType
from patchpack.data.sources.folders import files_in

GROUP_PIXELS = 64_000_000  # decoded at a time, or one image of more


class Group(NamedTuple):
    """Some of the files, decoded."""

    paths: list[Path]
    images: list[Pixels]


def image_files(paths: Sequence[Path], media_type: MediaType = IMAGES) -> list[Path]:
    """Files as given, folders as the images, or clips, in and below them; raises ValueError for
    neither, and for a video among images."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = files_in(path, media_type)
            if not inside:
                raise ValueError(f"{path} holds no {media_type.name}")
            found += inside
        elif not path.exists():
            raise ValueError(f"{path}: there is no such file")
        elif media_type == IMAGES and path.suffix.lower() in CLIPS.suffixes:
            raise ValueError(f"{path} is a video, which a model of clips takes")
        else:
            found.append(path)
    if not found:
        raise ValueError(f"no {media_type.name} were given")
    return found


def read_groups(paths: Sequence[Path], bad: list[BadImage]) -> Iterator[Group]:
    """The files in order; those that cannot be read are left out, and added to `bad`."""
    group, pixels = Group([], []), 0
    for path in paths:
        try:
            image = decode(path, key=str(path))
        except BadImage as error:
            bad.append(error)
            continue
        if group.paths and pixels + image.size > 3 * GROUP_PIXELS:
            yield group
            group, pixels = Group([], []), 0
        group.paths.append(path)
        group.images.append(image)
        pixels += image.size
    if group.paths:
        yield group
