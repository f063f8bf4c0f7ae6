"""Sizes, images, masks and video frames are turned by the same rules, which are Pillow's."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, TiffImagePlugin, features
from PIL.PngImagePlugin import PngInfo

from films import write_frames, write_video
from image_files import chunk
from patchpack.data.annotations.masks import MaskSpec, read_mask
from patchpack.data.images import decode, read_size
from patchpack.data.orientation import ORIENTATION, turn
from patchpack.data.video.decode import decode_frames, read_header

STORED = np.zeros((24, 40, 3), np.uint8)  # no turn leaves it as it is
STORED[:8, :8], STORED[:, 32:], STORED[16:] = 255, 120, 60


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags.tobytes()


def xmp(orientation: int) -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
        b'syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
        b'tiff:Orientation="%d"/></rdf:RDF></x:xmpmeta>' % orientation
    )


def raw_profile(orientation: int) -> str:
    data = exif(orientation)
    return f"\nexif\n{len(data):8}\n{data.hex()}\n"


def save(format: str, image: Image.Image, **options) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def text(key: str, value: str) -> PngInfo:
    info = PngInfo()
    info.add_itxt(key, value) if key.startswith("XML") else info.add_text(key, value, zip=True)
    return info


def late(image: Image.Image, kind: bytes, data: bytes, **options) -> bytes:
    """Return a PNG with a chunk behind its pixels."""
    png = save("PNG", image, **options)
    return png[:-12] + chunk(kind, data) + png[-12:]


def tiff_tags(orientation: int) -> TiffImagePlugin.ImageFileDirectory_v2:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[700], tags.tagtype[700] = xmp(orientation), 1
    return tags


STORES = {
    "PNG eXIf": lambda i, o: save("PNG", i, exif=exif(o)),
    "PNG raw profile": lambda i, o: save(
        "PNG", i, pnginfo=text("Raw profile type exif", raw_profile(o))
    ),
    "PNG XMP": lambda i, o: save("PNG", i, pnginfo=text("XML:com.adobe.xmp", xmp(o).decode())),
    "PNG late eXIf": lambda i, o: late(i, b"eXIf", exif(o)[6:]),
    "PNG late eXIf over an early one": lambda i, o: late(i, b"eXIf", exif(o)[6:], exif=exif(3)),
    "PNG late raw profile": lambda i, o: late(
        i, b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(o).encode())
    ),
    "PNG late XMP": lambda i, o: late(i, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(o)),
    "PNG animation": lambda i, o: late(
        i, b"eXIf", exif(o)[6:], save_all=True, append_images=[Image.new(i.mode, i.size)]
    ),
    "TIFF tag": lambda i, o: save("TIFF", i, exif=exif(o)),
    "TIFF tag, compressed": lambda i, o: save("TIFF", i, exif=exif(o), compression="tiff_lzw"),
    "TIFF XMP": lambda i, o: save("TIFF", i, tiffinfo=tiff_tags(o)),
    "TIFF XMP, compressed": lambda i, o: save(
        "TIFF", i, tiffinfo=tiff_tags(o), compression="tiff_deflate"
    ),
    "JPEG EXIF": lambda i, o: save("JPEG", i, exif=exif(o), quality=95),
    "JPEG XMP": lambda i, o: save("JPEG", i, xmp=xmp(o), quality=95),
    "JPEG EXIF before XMP": lambda i, o: save("JPEG", i, exif=exif(o), xmp=xmp(6), quality=95),
    "WebP EXIF": lambda i, o: save("WEBP", i, exif=exif(o), lossless=True),
    "WebP XMP": lambda i, o: save("WEBP", i, xmp=xmp(o), lossless=True),
}
if features.check("avif"):
    STORES["AVIF EXIF"] = lambda i, o: save("AVIF", i, exif=exif(o))
    STORES["AVIF XMP"] = lambda i, o: save("AVIF", i, xmp=xmp(o))
LOSSY = ("JPEG", "AVIF")


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_pillow_turns_them(tmp_path, store, orientation):
    path = tmp_path / "image"
    path.write_bytes(STORES[store](Image.fromarray(STORED), orientation))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    pixels = decode(path, key="image")
    assert read_size(path) == pixels.shape[:2] == expected.shape[:2]
    tolerance = 40 if store.startswith(LOSSY) else 0  # two decoders of a JPEG differ at edges
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance
    # Pillow does not read on behind the first frame of an animation.
    upright = turn(STORED, 1 if store == "PNG animation" else orientation)
    assert upright.shape == pixels.shape
    assert np.abs(pixels.astype(int) - upright).mean() < 6


@pytest.mark.parametrize("store", [name for name in STORES if not name.startswith(LOSSY)])
@pytest.mark.parametrize("orientation", [3, 5, 6])
def test_masks_are_turned_like_images(tmp_path, store, orientation):
    numbers = np.zeros((24, 40), np.uint8)
    numbers[2:8, 2:8] = 1
    image = Image.fromarray(np.repeat(numbers[:, :, None] * 255, 3, 2))
    (tmp_path / "image").write_bytes(STORES[store](image, orientation))
    (tmp_path / "mask").write_bytes(STORES[store](Image.fromarray(numbers), orientation))
    pixels = decode(tmp_path / "image", key="image")
    mask = read_mask(MaskSpec(tmp_path / "mask", 2, None), pixels.shape[:2], "image")
    assert np.array_equal(mask == 1, pixels[:, :, 0] == 255) and mask.sum() == 36


def test_broken_metadata_is_no_orientation(tmp_path):
    info = text("Raw profile type exif", "\nexif\n  4\nnot hexadecimal\n")
    (tmp_path / "a.png").write_bytes(save("PNG", Image.fromarray(STORED), pnginfo=info))
    assert (
        read_size(tmp_path / "a.png") == decode(tmp_path / "a.png", key="a").shape[:2] == (24, 40)
    )


MATRICES = {  # orientation → a, b, c, d of a display matrix
    1: (1, 0, 0, 1), 2: (-1, 0, 0, 1), 3: (-1, 0, 0, -1), 4: (1, 0, 0, -1),
    5: (0, 1, 1, 0), 6: (0, 1, -1, 0), 7: (0, -1, -1, 0), 8: (0, -1, 1, 0),
}  # fmt: skip


def with_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write a display matrix into an MP4's track header."""
    data = bytearray(path.read_bytes())
    start = data.find(b"tkhd") + 44  # behind 40 bytes of other fields
    for index, value in enumerate((a, b, 0, c, d, 0, 0, 0, 1 << 14)):
        struct.pack_into(">i", data, start + 4 * index, value << 16)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_videos_are_turned_and_mirrored(tmp_path, orientation):
    """By the matrix's definition: a pixel at (x, y) is displayed at (ax + cy, bx + dy)."""
    stored = np.stack([STORED] * 3)
    plain = write_video(tmp_path / "plain.mp4", stored)
    (reference,) = decode_frames(plain, [1], 10, key="plain")
    a, b, c, d = MATRICES[orientation]
    path = with_matrix(write_video(tmp_path / "a.mp4", stored), a, b, c, d)
    header = read_header(path)
    (frame,) = decode_frames(path, [1], header.rate, key="a")
    y, x = np.mgrid[:24, :40]
    across, down = a * x + c * y, b * x + d * y
    expected = np.zeros((40, 24, 3) if a == 0 else (24, 40, 3), np.uint8)
    expected[down - down.min(), across - across.min()] = reference
    assert header[:2] == frame.shape[:2] and np.array_equal(frame, expected)
    folder = write_frames(tmp_path / "frames", stored)
    for file in folder.iterdir():
        file.write_bytes(save("PNG", Image.fromarray(STORED), exif=exif(orientation)))
    (from_folder,) = decode_frames(folder, [1], 25, key="frames")
    assert read_header(folder)[:2] == from_folder.shape[:2] == frame.shape[:2]
    assert np.abs(from_folder.astype(int) - frame).mean() < 12
