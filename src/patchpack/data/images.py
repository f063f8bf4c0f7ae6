"""Image files, of whatever kind and condition, to correct 8-bit RGB.

Pillow reads the header of every file and the pixels of most; JPEGs go to libjpeg-turbo directly.
The size in the header, EXIF orientation applied, is the size that `decode` delivers: plans rely on
it. Whatever is wrong with a file, the error is a BadImage that names it.

Traps: a name in `Image.open(formats=...)` that Pillow does not know is a KeyError for every file
that no earlier name fits (so AVIF, new in Pillow 11.3, is last); `Image.getexif` decodes whole
PNGs, so orientation is read from what the header gave; converting 16-bit gray in Pillow clips
instead of scaling; transparent pixels have any colour.
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

MAX_PIXELS = 89_478_485  # Pillow's own threshold for decompression bombs
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .jp2 .avif".split()
)
ORIENTATION = 0x0112  # EXIF tag
EXIF_TRANSPOSE = {  # EXIF orientation → what rights the image
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
EXIF_SWAPS_AXES = (5, 6, 7, 8)  # orientations that exchange height and width
SCALED_DECODE = 4  # times the target, in both sides, from which JPEGs are decoded at a fraction

Pixels = UInt8[np.ndarray, "height width 3"]


class BadImage(ValueError):
    """An image that cannot be read: which one, and why."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key, self.reason = key, reason

    def __str__(self) -> str:
        """In one line, whatever the name of the file does to terminals."""
        shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in self.key)
        return f"{''.join(shown)}: {self.reason}"


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) from the header alone, EXIF orientation applied; raises BadImage."""
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
    """The first frame as RGB, upright, transparent parts over white; raises BadImage.

    target  (height, width) that the image will be resized to: a JPEG at least four times as large
            is decoded at a half, quarter or eighth of its size, still twice the target or more
    """
    try:
        data = source if isinstance(source, bytes) else read_file(source)
        with _open(BytesIO(data), key) as image:
            size = _oriented_size(image)
            is_jpeg = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")
            least = _least_size(image, target) if is_jpeg and target else (0, 0)
            pixels = _decode_jpeg(image, data, least) if is_jpeg else to_rgb(image)
        if least == (0, 0) and pixels.shape[:2] != size:
            raise BadImage(key, f"has {pixels.shape[:2]} pixels where its header says {size}")
        return pixels
    except BadImage as error:
        raise BadImage(key, error.reason) from error
    except Exception as error:  # decoders raise anything at all on hostile files
        raise BadImage(key, explain_error(error)) from error


def to_rgb(image: Image.Image) -> Pixels:
    """Any Pillow image as upright RGB; raises BadImage for modes that say no colours."""
    upright = (
        image.transpose(EXIF_TRANSPOSE[turn])
        if (turn := _orientation(image)) in EXIF_TRANSPOSE
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
    """Antialiased bicubic resize to (height, width)."""
    if pixels.shape[:2] == size:
        return pixels
    small = F.interpolate(
        _as_batch(pixels), size, mode="bicubic", antialias=True, align_corners=False
    )
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())


def mirror(pixels: Pixels) -> Pixels:
    """Left and right exchanged; a new array, many times as fast as copying NumPy's view of it."""
    return np.ascontiguousarray(_as_batch(pixels).flip(-1)[0].permute(1, 2, 0).numpy())


def _as_batch(pixels: Pixels) -> UInt8[torch.Tensor, "1 3 height width"]:
    """With the strides of a batch in channels-last order, which PyTorch has fast kernels for."""
    batch = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))[None]
    return batch.permute(0, 3, 1, 2)


def _open(source: str | os.PathLike[str] | BytesIO, key: str) -> Image.Image:
    """The header, checked; pixels are not read yet."""
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
    """Opening a pipe waits for its writer; a device may never end."""
    mode = os.stat(path).st_mode
    if not (S_ISREG(mode) or S_ISDIR(mode)):
        raise BadImage(os.fspath(path), "is a pipe or a device, not a file")


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file; pipes and devices are refused."""
    require_regular_file(path)
    with open(path, "rb") as file:
        return file.read()


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none, as in TIFFs, which Pillow rights itself."""
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


def _least_size(header: Image.Image, target: tuple[int, int]) -> tuple[int, int]:
    """(height, width), as stored, that a scaled decode must reach; (0, 0) for full scale."""
    high, wide = target[::-1] if _orientation(header) in EXIF_SWAPS_AXES else target
    if header.height < SCALED_DECODE * high or header.width < SCALED_DECODE * wide:
        return 0, 0
    return 2 * high, 2 * wide


def _decode_jpeg(header: Image.Image, data: bytes, least: tuple[int, int]) -> Pixels:
    """libjpeg-turbo, at the smallest scale that reaches `least`; Pillow where it declines."""
    try:
        pixels = simplejpeg.decode_jpeg(
            data, "RGB", min_height=least[0], min_width=least[1], strict=True
        )
    except ValueError:  # it is strict about oddities that Pillow rightly forgives
        return to_rgb(header)
    turn = _orientation(header)
    return (
        np.array(Image.fromarray(pixels).transpose(EXIF_TRANSPOSE[turn]))
        if turn in EXIF_TRANSPOSE
        else pixels
    )


def _from_16_bit(image: Image.Image) -> Pixels:
    """16-bit gray, scaled to 8 bits; 32-bit integers are taken for 16 bits where they fit."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImage("image", "holds 32-bit pixels; convert it to 8 or 16 bits")
    gray = ((values + 128) // 257).astype(np.uint8)
    if (clear := image.info.get("transparency")) is not None:
        gray[values == clear] = 255
    return np.repeat(gray[:, :, None], 3, axis=2)


def explain_error(error: Exception) -> str:
    """What is wrong, in words a person can act on."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "is a folder"
    if isinstance(error, PermissionError):
        return "may not be read"
    if isinstance(error, Image.UnidentifiedImageError):
        return "is not an image, or is empty or damaged at its start"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"has more than the {MAX_PIXELS:,} pixels allowed"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    text = str(error).strip() or type(error).__name__
    return f"is damaged ({text})"
