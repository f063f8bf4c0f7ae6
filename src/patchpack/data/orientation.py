"""Orientation of images, masks and video frames: which way is up, and the turn that makes it so.

Images follow Pillow's `ImageOps.exif_transpose`: EXIF, then EXIF in a PNG's text chunks, then XMP.
A PNG may hold them after its pixels; its chunks are walked, and not decoded. Pillow turns a TIFF
itself when its pixels are read.

Orientations are those of EXIF, 1 (upright) to 8; 5 to 8 swap height and width.
"""

import struct
from io import BufferedReader
from os import pread
from typing import IO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

ORIENTATION = 0x0112  # EXIF and TIFF tag
EXIF_TRANSPOSE = {  # orientation → operation that makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SWAPS_AXES = (5, 6, 7, 8)  # orientations that swap height and width
PNG_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
PNG_SIGNATURE = 8  # bytes


def orientation_of(image: Image.Image) -> int:
    """Return the orientation of an image's pixels, 1 to 8; 1 without one, or a broken one.

    The pixels of a PNG must be loaded, or its metadata read by `upright_size`.
    """
    try:
        # Not `image.getexif()`, which decodes a PNG.
        value = Image.Image.getexif(image).get(ORIENTATION, 1)
    except (MemoryError, OSError):
        raise
    except Exception:  # broken metadata; the pixels may be fine
        return 1
    return next((number for number in EXIF_TRANSPOSE if number == value), 1)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the (height, width) that an opened image has once its pixels are read and upright.

    The pixels are not read.
    """
    if isinstance(image, PngImageFile):
        _read_late_metadata(image)
    orientation = orientation_of(image)
    if isinstance(image, TiffImageFile) and ORIENTATION in image.tag_v2:
        orientation = 1  # Pillow's size counts this tag already, and no other metadata
    if orientation in SWAPS_AXES:
        return image.width, image.height
    return image.height, image.width


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return upright pixels [height, width, …] in one block of memory."""
    if orientation in SWAPS_AXES:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):  # the first stored row, or column, is at the bottom
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):  # … at the right
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def matrix_orientation(a: int, b: int, c: int, d: int) -> int:
    """Return the orientation of a display matrix [[a, b], [c, d]] of a video, of any scale.

    A pixel at (x, y) is displayed at (ax + cy, bx + dy). The nearest multiple of 90° is used.
    """
    if abs(a) + abs(d) >= abs(b) + abs(c):
        b = c = 0
    else:
        a = d = 0
    signs = {
        (1, 0, 0, 1): 1, (-1, 0, 0, 1): 2, (-1, 0, 0, -1): 3, (1, 0, 0, -1): 4,
        (0, 1, 1, 0): 5, (0, 1, -1, 0): 6, (0, -1, -1, 0): 7, (0, -1, 1, 0): 8,
    }  # fmt: skip
    return signs.get((_sign(a), _sign(b), _sign(c), _sign(d)), 1)


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _read_late_metadata(image: PngImageFile) -> None:
    """Add the metadata behind a PNG's pixels to `image.info`, as loading its pixels does."""
    assert image.fp is not None and image.png is not None
    start, position, seen_pixels = image.fp.tell(), PNG_SIGNATURE, False
    try:
        while len(header := _read_at(image.fp, position, 8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            if kind == b"IEND" or (kind == b"fcTL" and seen_pixels and image.is_animated):
                return
            if kind == b"IDAT":
                seen_pixels = True
            elif seen_pixels and kind in PNG_METADATA:
                image.fp.seek(position + 8)
                image.png.call(kind, position + 8, length)
            position += 12 + length
    finally:
        image.fp.seek(start)


def _read_at(file: IO[bytes], position: int, length: int) -> bytes:
    """Read without filling the buffer of a file: PNGs hold thousands of chunks."""
    if isinstance(file, BufferedReader):
        return pread(file.fileno(), length, position)
    file.seek(position)
    return file.read(length)
