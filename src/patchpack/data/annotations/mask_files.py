"""Mask files: from an image file to an upright image, and to one whole number per pixel.

Gray of 1, 8, 16 or 32 bits in either byte order and palette indices are whole numbers. So are
floating-point values that are whole, and opaque gray saved with alpha or as equal red, green and
blue. Colors are not.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from PIL import Image

from patchpack.data.images import open_checked, read_file
from patchpack.data.orientation import EXIF_TRANSPOSE, orientation_of, upright_size
from patchpack.data.read_errors import BadImage, retry
from patchpack.data.reading import ReadingConfig

WITH_ALPHA = ("LA", "PA", "RGBA")
WHOLE = 2.0**24  # floating-point values hold whole numbers below this


def read_mask_image(
    path: Path, size: tuple[int, int], key: str, reading: ReadingConfig
) -> Image.Image:
    """Return the upright mask of an image of this (height, width); its size is compared first.

    Raise BadImage, naming the image by `key`, for a file that is not a mask of this image, and
    ReadError if the machine fails.
    """

    def read() -> tuple[Image.Image, tuple[int, int]]:
        with open_checked(BytesIO(read_file(path, reading)), reading) as image:
            upright = upright_size(image)
            if upright == size:
                image.load()
            return image, upright

    try:
        image, upright = retry(read, key)
    except BadImage as error:
        raise BadImage(key, f"its mask {path.name}: {error.reason}") from error
    if upright != size:
        raise BadImage(key, f"its mask is {upright} pixels, the image, upright, {size}")
    orientation = orientation_of(image)
    return image.transpose(EXIF_TRANSPOSE[orientation]) if orientation > 1 else image


def whole_numbers(image: Image.Image) -> Int32[np.ndarray, "height width"] | None:
    """Return the number of every pixel as stored; None for colors, transparency and fractions."""
    mode, values = image.mode, np.asarray(image)
    if mode in ("1", "L", "P") or mode.startswith("I"):
        return values.astype(np.int32)
    if mode == "F":
        whole = (np.abs(values) < WHOLE).all() and (values == np.round(values)).all()
        return values.astype(np.int32) if whole else None
    if mode in WITH_ALPHA:
        if has_transparent_pixels(image):
            return None
        values = values[:, :, :-1]
    elif mode != "RGB":
        return None
    gray = values[:, :, :1]
    return gray[:, :, 0].astype(np.int32) if (values == gray).all() else None


def has_transparent_pixels(image: Image.Image) -> bool:
    """Return whether the alpha channel of an image leaves pixels that are not opaque."""
    return image.mode in WITH_ALPHA and image.getchannel("A").getextrema() != (255, 255)
