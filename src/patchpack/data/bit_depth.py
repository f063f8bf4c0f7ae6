"""Images with more than 8 bits: which values become black and white.

Cameras of 10, 12 or 14 bits store their values in 16-bit files, where they are nearly black. The
range is declared by an option, or by a TIFF; without either, 0 to 65535.

A PNG's sBIT chunk is not used: its values span 16 bits whatever precision it names. Pillow scales
PGM and JPEG 2000 by the maximum that they declare.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from patchpack.data.read_errors import BadImage

REMEDY = "set intensity_range to the values of black and white, or convert it to 8 or 16 bits"
FULL_RANGE = (0.0, 65535.0)
BITS_PER_SAMPLE, MAX_SAMPLE_VALUE, SAMPLE_FORMAT = 258, 281, 339  # TIFF tags
SIGNED = 2  # SAMPLE_FORMAT


def gray_range(
    image: Image.Image, declared: tuple[float, float] | None
) -> tuple[float, float] | None:
    """Return the values of black and white of an image of one channel with more than 8 bits.

    None for any other image. Raises BadImage for values without a defined range.
    """
    if not image.mode.startswith(("I", "F")):
        return None
    if declared is not None:
        return declared
    if image.mode == "F":
        raise BadImage("image", f"holds floating-point pixels; {REMEDY}")
    if isinstance(image, TiffImageFile):
        (bits, *_), (format, *_) = (
            _as_tuple(image.tag_v2.get(tag, 1)) for tag in (BITS_PER_SAMPLE, SAMPLE_FORMAT)
        )
        if format == SIGNED and bits == 16:
            raise BadImage("image", f"holds signed 16-bit pixels; {REMEDY}")
        (maximum, *_) = _as_tuple(image.tag_v2.get(MAX_SAMPLE_VALUE, 0))
        if 8 < bits < 16:
            return 0.0, 2.0**bits - 1
        if bits == 16 and maximum in [2**n - 1 for n in range(9, 16)]:
            return 0.0, float(maximum)
    return FULL_RANGE


def to_gray(
    image: Image.Image, intensities: tuple[float, float]
) -> UInt8[np.ndarray, "height width"]:
    """Map a range of values to 0 to 255, rounded; values outside are clipped, NaN is black.

    The transparent value of a PNG is white. Raises BadImage for values outside 16 bits, if the
    range is that of 16 bits.
    """
    values, (low, high) = np.asarray(image), intensities
    if intensities == FULL_RANGE:
        if image.mode != "F" and (values.min() < 0 or values.max() > high):
            raise BadImage("image", f"holds 32-bit pixels; {REMEDY}")
        gray = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    else:
        scaled = (values.astype(np.float64) - low) * (255 / (high - low))
        gray = np.clip(np.nan_to_num(scaled, nan=0.0) + 0.5, 0, 255).astype(np.uint8)
    if (transparent := image.info.get("transparency")) is not None:
        gray[values == transparent] = 255
    return gray


def has_16_bit_colors(image: Image.Image) -> bool:
    """Return whether an image, not loaded yet, has several channels of 16 bits."""
    if image.mode.startswith(("I", "F")):
        return False
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _as_tuple(value: object) -> tuple:
    return value if isinstance(value, tuple) and value else (value,)
