"""Image files for tests: smooth images in any format, hand-made PNGs, and their comparison."""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image, features

from patchpack.data.orientation import ORIENTATION

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]
FORMATS += [
    name for name, key in [("AVIF", "avif"), ("JPEG2000", "jpg_2000")] if features.check(key)
]


def smooth(height: int, width: int) -> np.ndarray:
    """Return slow waves in three channels, like a blurred photo."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(7 * x + c) * np.cos(5 * y - c) for c in range(3)]
    return (128 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def encode(pixels: np.ndarray | Image.Image, format: str, orientation: int = 1, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = BytesIO()
    image.save(file, format, exif=exif, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size: tuple[int, int], depth: int, color: int, row: bytes, *chunks: bytes) -> bytes:
    """Return a PNG with one row of pixels, and further chunks before the pixels."""
    header = struct.pack(">IIBBBBB", size[1], size[0], depth, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(b"\0" + row))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)
