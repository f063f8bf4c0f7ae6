"""A notice on 16-bit images that hold the values of a camera of fewer bits, and so nearly black.

Headers do not show it, so a few images are decoded. Nothing is changed: the range of values is part
of a model's input, and is set by an option of train.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from patchpack.data.bit_depth import FULL_RANGE, gray_range, has_16_bit_colors
from patchpack.data.images import open_checked, require_regular_file
from patchpack.data.reading import ReadingConfig

LOW_BITS = 14  # a camera of at most this many bits is nearly black in 16
DEEP_SUFFIXES = (".png", ".tif", ".tiff")
OPENED, SAMPLED = 256, 8  # maximum headers read, maximum images decoded
SAMPLE_PIXELS = 16_000_000  # larger images are not decoded for a sample


class DepthSample(NamedTuple):
    """The values of sampled files with 16 bits."""

    deep: int  # number of files with 16 bits
    low: int  # number of those that use no more than LOW_BITS
    maximum: int  # greatest value of the latter


def sample_depth(paths: Sequence[Path], reading: ReadingConfig) -> DepthSample:
    """Decode a few images of 16 bits, evenly spaced; files that cannot be read are left out."""
    deep = low = greatest = 0
    candidates = [path for path in paths if path.suffix.lower() in DEEP_SUFFIXES]
    for path in candidates[:: max(1, len(candidates) // OPENED)][:OPENED]:
        maximum = _deep_maximum(path, reading) if deep < SAMPLED else None
        if maximum is None:
            continue
        deep += 1
        if maximum < 2**LOW_BITS:
            low, greatest = low + 1, max(greatest, maximum)
    return DepthSample(deep, low, greatest)


def depth_notice(paths: Sequence[Path], reading: ReadingConfig) -> str | None:
    """Return a line on 16-bit images that hold the values of fewer bits; None without any."""
    if reading.intensity_range is not None:
        return None
    sample = sample_depth(paths, reading)
    if not sample.low:
        return None
    bits = max(8, sample.maximum.bit_length())
    return (
        f"{sample.low} of {sample.deep} sampled 16-bit images hold no value above "
        f"{sample.maximum:,}, so they are read nearly black; if they come from a {bits}-bit "
        f"camera, train with --data.reading.intensity-range 0 {2**bits - 1}"
    )


def _deep_maximum(path: Path, reading: ReadingConfig) -> int | None:
    """Return the maximum of an image of 16 bits without a declared range; None for any other."""
    try:
        require_regular_file(path)
        with path.open("rb") as file, open_checked(file, reading) as image:
            colors = has_16_bit_colors(image)
            gray = image.mode.startswith("I") and gray_range(image, None) == FULL_RANGE
            if not (colors or gray) or image.width * image.height > SAMPLE_PIXELS:
                return None
            maximum = int(np.asarray(image).max())
            return maximum << 8 | 0xFF if colors else maximum
    except Exception:  # named when the file is read for its pixels
        return None
