"""Decode image files to 8-bit RGB, read their sizes, and resize.

Pillow reads all headers and most pixels; libjpeg-turbo decodes JPEGs. The header's size, upright,
equals the decoded size; packing plans rely on it. Every failure of a file raises BadImage with the
file's key; every failure of the machine, after further attempts, ReadError.

Traps: Pillow clips 16-bit gray instead of scaling it, and keeps the upper 8 bits of 16-bit colors;
transparent pixels hold arbitrary colors; converting a large image at once takes several times its
memory.
"""

import os
from io import BytesIO
from stat import S_ISDIR, S_ISREG
from typing import IO, Literal

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image

from patchpack.data.bit_depth import gray_range, has_16_bit_colors, to_gray
from patchpack.data.formats import SUFFIXES as SUFFIXES
from patchpack.data.formats import open_image
from patchpack.data.orientation import SWAPS_AXES, orientation_of, turn, upright_size
from patchpack.data.read_errors import BadImage as BadImage
from patchpack.data.read_errors import has_memory, is_out_of_memory, retry
from patchpack.data.reading import DEFAULT_READING, ReadingConfig

SCALED_DECODE = 4  # JPEGs at least this many times the target on both sides decode at a fraction
HEADER_PIXELS = 1 << 20  # memory that must be free for an allocation error to be the file's
STRIP_PIXELS = 1 << 22  # pixels that are converted at a time

ResizeFilter = Literal["bilinear", "bicubic"]
Pixels = UInt8[np.ndarray, "height width 3"]


def read_size(
    path: str | os.PathLike[str], reading: ReadingConfig = DEFAULT_READING
) -> tuple[int, int]:
    """Read the upright (height, width) from the header.

    Raises BadImage for files that cannot be read or exceed a limit, ReadError if the machine fails.
    """

    def read() -> tuple[int, int]:
        require_regular_file(path)
        with open(path, "rb") as file:
            reading.check_bytes(os.fstat(file.fileno()).st_size)
            with open_checked(file, reading) as image:
                return upright_size(image)

    return retry(read, os.fspath(path))


def decode(
    source: bytes | str | os.PathLike[str],
    *,
    key: str,
    target: tuple[int, int] | None = None,
    reading: ReadingConfig = DEFAULT_READING,
) -> Pixels:
    """Decode the first frame to upright RGB, transparency over white.

    target  (height, width) the image will be resized to. A JPEG at least four times as large is
            decoded at 1/2, 1/4 or 1/8 of its size, never below twice the target.

    Raises BadImage for files that cannot be read or exceed a limit, ReadError if the machine fails.
    """

    pixels = 0

    def read() -> Pixels:
        nonlocal pixels
        data = source if isinstance(source, bytes) else read_file(source, reading)
        with open_checked(BytesIO(data), reading) as image:
            pixels = image.width * image.height
            return _decode_opened(image, data, target, reading)

    def is_damage(error: Exception) -> bool:
        by_system = getattr(error, "errno", None) is not None
        return not by_system and is_out_of_memory(error) and has_memory(pixels or HEADER_PIXELS)

    return retry(read, key, is_damage)


def _decode_opened(
    image: Image.Image, data: bytes, target: tuple[int, int] | None, reading: ReadingConfig
) -> Pixels:
    size = upright_size(image)
    is_jpeg = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")
    min_size = _min_size(image, target) if is_jpeg and target else (0, 0)
    if is_jpeg:
        pixels = _decode_jpeg(image, data, min_size)
    else:
        pixels = to_rgb(image, reading.intensity_range)
    if min_size == (0, 0) and pixels.shape[:2] != size:
        raise BadImage("", f"decodes to {pixels.shape[:2]} pixels, but its header has {size}")
    return pixels


def to_rgb(image: Image.Image, intensity_range: tuple[float, float] | None = None) -> Pixels:
    """Convert a Pillow image to upright RGB; raise BadImage for modes without defined colors.

    intensity_range  values that become black and white in images of one channel with more than
                     8 bits; None: those that the file declares, or 0 and 65535
    """
    if intensity_range and has_16_bit_colors(image):
        raise BadImage(
            "image",
            "holds 16-bit colors, and intensity_range is for images of one channel; "
            "convert it to 8 bits",
        )
    image.load()
    if 0 in image.size:
        raise BadImage("image", "has no pixels")
    intensities = gray_range(image, intensity_range)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        strip = image if rows >= image.height else image.crop((0, top, image.width, bottom))
        if intensities is None:
            pixels[top:bottom] = np.asarray(_colors(strip))
        else:
            pixels[top:bottom] = to_gray(strip, intensities)[:, :, None]
    return turn(pixels, orientation_of(image))


def _colors(image: Image.Image) -> Image.Image:
    """Convert to RGB, transparency over white."""
    if image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image
        rgba = straight.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def resize(pixels: Pixels, size: tuple[int, int], filter: ResizeFilter = "bicubic") -> Pixels:
    """Resize to (height, width) with antialiasing."""
    if pixels.shape[:2] == size:
        return pixels
    small = F.interpolate(_as_batch(pixels), size, mode=filter, antialias=True, align_corners=False)
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())


def mirror(pixels: Pixels) -> Pixels:
    """Flip left to right into a new array, much faster than copying NumPy's flipped view."""
    return np.ascontiguousarray(_as_batch(pixels).flip(-1)[0].permute(1, 2, 0).numpy())


def _as_batch(pixels: Pixels) -> UInt8[torch.Tensor, "1 3 height width"]:
    """Return a batch with channels-last strides, for which PyTorch has fast kernels."""
    batch = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))[None]
    return batch.permute(0, 3, 1, 2)


def open_checked(file: IO[bytes], reading: ReadingConfig) -> Image.Image:
    """Open an image within the limits; its pixels are not read yet. Raise BadImage otherwise."""
    image = open_image(file)
    try:
        reading.check_size(image.height, image.width)
        if image.format in ("JPEG", "MPO"):
            position = file.tell()
            reading.check_scans(file)
            file.seek(position)
    except BaseException:
        image.close()
        raise
    return image


def require_regular_file(path: str | os.PathLike[str]) -> None:
    """Raise BadImage for pipes, which would block, and devices, which may never end."""
    mode = os.stat(path).st_mode
    if not (S_ISREG(mode) or S_ISDIR(mode)):
        raise BadImage(os.fspath(path), "is a pipe or a device, not a file")


def read_file(path: str | os.PathLike[str], reading: ReadingConfig) -> bytes:
    """Return the bytes of a file; raise BadImage for pipes, devices, and files above the limit."""
    require_regular_file(path)
    with open(path, "rb") as file:
        reading.check_bytes(os.fstat(file.fileno()).st_size)
        return file.read()


def _min_size(header: Image.Image, target: tuple[int, int]) -> tuple[int, int]:
    """Return the minimum stored (height, width) of a scaled decode; (0, 0) for full scale."""
    height, width = target[::-1] if orientation_of(header) in SWAPS_AXES else target
    if header.height < SCALED_DECODE * height or header.width < SCALED_DECODE * width:
        return 0, 0
    return 2 * height, 2 * width


def _decode_jpeg(header: Image.Image, data: bytes, min_size: tuple[int, int]) -> Pixels:
    """Decode with libjpeg-turbo at the smallest scale of at least `min_size`, else with Pillow."""
    try:
        pixels = simplejpeg.decode_jpeg(
            data, "RGB", min_height=min_size[0], min_width=min_size[1], strict=True
        )
    except ValueError:  # strict mode rejects harmless oddities that Pillow accepts
        return to_rgb(header)
    return turn(pixels, orientation_of(header))
