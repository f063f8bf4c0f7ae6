"""Decode image files to 8-bit RGB, read their sizes, and resize.

Pillow reads all headers and most pixels; libjpeg-turbo decodes JPEGs. The header's size, with EXIF
orientation applied, equals the decoded size; packing plans rely on it. Every failure to read a file
raises BadImage with the file's key.

Traps: an unknown name in `Image.open(formats=...)` raises KeyError for every file that no earlier
name matches (so AVIF, new in Pillow 11.3, is last); `Image.getexif` decodes whole PNGs, so the
orientation is read from the header's own data; Pillow clips 16-bit gray instead of scaling it;
transparent pixels hold arbitrary colors.
"""

import os
from io import BytesIO
from stat import S_ISDIR, S_ISREG

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image

from patchpack.printable import printable

MAX_PIXELS = 89_478_485  # Pillow's own threshold for decompression bombs
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .jp2 .avif".split()
)
ORIENTATION = 0x0112  # EXIF tag
EXIF_TRANSPOSE = {  # EXIF orientation → operation that makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
EXIF_SWAPS_AXES = (5, 6, 7, 8)  # orientations that swap height and width
SCALED_DECODE = 4  # JPEGs at least this many times the target on both sides decode at a fraction

Pixels = UInt8[np.ndarray, "height width 3"]


class BadImage(ValueError):
    """An image that cannot be read: its key and the reason."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key, self.reason = key, reason

    def __str__(self) -> str:
        """Return one line, with unprintable characters escaped."""
        return printable(f"{self.key}: {self.reason}")


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Read (height, width) from the header, with EXIF orientation; raise BadImage on failure."""
    key = os.fspath(path)
    try:
        require_regular_file(path)
        with _open(path, key) as image:
            return _oriented_size(image)
    except BadImage:
        raise
    except Exception as error:
        raise BadImage(key, explain_error(error)) from error


def decode(
    source: bytes | str | os.PathLike[str], *, key: str, target: tuple[int, int] | None = None
) -> Pixels:
    """Decode the first frame to upright RGB, transparency over white; raise BadImage on failure.

    target  (height, width) the image will be resized to. A JPEG at least four times as large is
            decoded at 1/2, 1/4 or 1/8 of its size, never below twice the target.
    """
    try:
        data = source if isinstance(source, bytes) else read_file(source)
        with _open(BytesIO(data), key) as image:
            size = _oriented_size(image)
            is_jpeg = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")
            min_size = _min_size(image, target) if is_jpeg and target else (0, 0)
            pixels = _decode_jpeg(image, data, min_size) if is_jpeg else to_rgb(image)
        if min_size == (0, 0) and pixels.shape[:2] != size:
            raise BadImage(key, f"decodes to {pixels.shape[:2]} pixels, but its header has {size}")
        return pixels
    except BadImage as error:
        raise BadImage(key, error.reason) from error
    except Exception as error:  # decoders raise exceptions of any type on hostile files
        raise BadImage(key, explain_error(error)) from error


def to_rgb(image: Image.Image) -> Pixels:
    """Convert a Pillow image to upright RGB; raise BadImage for modes without defined colors."""
    upright = (
        image.transpose(EXIF_TRANSPOSE[orientation])
        if (orientation := _orientation(image)) in EXIF_TRANSPOSE
        else image
    )
    if 0 in upright.size:
        raise BadImage("image", "has no pixels")
    if upright.mode.startswith("I"):
        return _from_16_bit(upright)
    if upright.mode == "F":
        raise BadImage("image", "holds floating-point pixels; convert it to 8 or 16 bits")
    if upright.has_transparency_data:
        straight = upright.convert("LA") if upright.mode == "La" else upright
        rgba = straight.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        upright = Image.alpha_composite(white, rgba)
    return np.array(upright.convert("RGB"))


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize to (height, width), bicubic with antialiasing."""
    if pixels.shape[:2] == size:
        return pixels
    small = F.interpolate(
        _as_batch(pixels), size, mode="bicubic", antialias=True, align_corners=False
    )
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())


def mirror(pixels: Pixels) -> Pixels:
    """Flip left to right into a new array, much faster than copying NumPy's flipped view."""
    return np.ascontiguousarray(_as_batch(pixels).flip(-1)[0].permute(1, 2, 0).numpy())


def _as_batch(pixels: Pixels) -> UInt8[torch.Tensor, "1 3 height width"]:
    """Return a batch with channels-last strides, for which PyTorch has fast kernels."""
    batch = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))[None]
    return batch.permute(0, 3, 1, 2)


def _open(source: str | os.PathLike[str] | BytesIO, key: str) -> Image.Image:
    """Open an image and check its header; the pixels are not read yet."""
    image = Image.open(source, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        size = f"{image.width} x {image.height} pixels"
        raise BadImage(key, f"{size} are more than the {MAX_PIXELS:,} allowed")
    if 0 in image.size:
        image.close()
        raise BadImage(key, "has no pixels")
    return image


def require_regular_file(path: str | os.PathLike[str]) -> None:
    """Raise BadImage for pipes, which would block, and devices, which may never end."""
    mode = os.stat(path).st_mode
    if not (S_ISREG(mode) or S_ISDIR(mode)):
        raise BadImage(os.fspath(path), "is a pipe or a device, not a file")


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a file; reject pipes and devices."""
    require_regular_file(path)
    with open(path, "rb") as file:
        return file.read()


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 without one, as for TIFFs, which Pillow transposes."""
    data = image.info.get("exif")
    if not data:
        return 1
    exif = Image.Exif()
    try:
        exif.load(data)
        return int(exif.get(ORIENTATION, 1))
    except Exception:  # broken metadata; the pixels may be fine
        return 1


def _oriented_size(image: Image.Image) -> tuple[int, int]:
    if _orientation(image) in EXIF_SWAPS_AXES:
        return image.width, image.height
    return image.height, image.width


def _min_size(header: Image.Image, target: tuple[int, int]) -> tuple[int, int]:
    """Return the minimum stored (height, width) of a scaled decode; (0, 0) for full scale."""
    height, width = target[::-1] if _orientation(header) in EXIF_SWAPS_AXES else target
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
    orientation = _orientation(header)
    return (
        np.array(Image.fromarray(pixels).transpose(EXIF_TRANSPOSE[orientation]))
        if orientation in EXIF_TRANSPOSE
        else pixels
    )


def _from_16_bit(image: Image.Image) -> Pixels:
    """Scale 16-bit gray to 8 bits; 32-bit integers count as 16-bit if they all fit."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImage("image", "holds 32-bit pixels; convert it to 8 or 16 bits")
    gray = ((values + 128) // 257).astype(np.uint8)
    if (transparent := image.info.get("transparency")) is not None:
        gray[values == transparent] = 255
    return np.repeat(gray[:, :, None], 3, axis=2)


def explain_error(error: Exception) -> str:
    """Return a short reason for a reading error, to follow the file's name."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "is a folder"
    if isinstance(error, PermissionError):
        return "cannot be read (permission denied)"
    if isinstance(error, Image.UnidentifiedImageError):
        return "is not an image, or is empty or damaged at its start"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"has more than the {MAX_PIXELS:,} pixels allowed"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    text = str(error).strip() or type(error).__name__
    return f"is damaged ({text})"
