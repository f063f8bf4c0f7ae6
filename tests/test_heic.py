"""HEIC images: read where pillow-heif is installed; else errors name the extra to install."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from image_files import psnr, smooth
from patchpack.data import formats
from patchpack.data.images import BadImage, decode, read_size
from patchpack.data.orientation import ORIENTATION, turn
from patchpack.data.records import IMAGES

HEADER = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1"  # the first bytes of a file without its pixels
needs_heif = pytest.mark.skipif(not formats.READS_HEIC, reason="pillow-heif is not installed")


@needs_heif
@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_images_are_read_upright(tmp_path, orientation):
    stored = smooth(48, 64)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file, path = BytesIO(), tmp_path / "a.heic"
    Image.fromarray(stored).save(file, "HEIF", exif=exif.tobytes(), quality=95)
    path.write_bytes(file.getvalue())
    pixels = decode(path, key="a")
    assert read_size(path) == pixels.shape[:2]
    assert psnr(pixels, turn(stored, orientation)) > 30
    with pytest.raises(BadImage):
        decode(file.getvalue()[: len(file.getvalue()) // 2], key="cut")


@needs_heif
def test_heic_files_are_images():
    assert formats.HEIC_SUFFIXES <= IMAGES.suffixes
    assert not formats.HEIC_SUFFIXES & formats.UNREAD_SUFFIXES


@pytest.mark.parametrize("name", ["a.heic", "a.jpg"])  # phones' exports bear any suffix
def test_without_pillow_heif_the_error_names_the_extra(tmp_path, monkeypatch, name):
    monkeypatch.setattr(formats, "READS_HEIC", False)
    monkeypatch.setattr(formats, "FORMATS", tuple(f for f in formats.FORMATS if f != "HEIF"))
    (tmp_path / name).write_bytes(HEADER + bytes(np.arange(99, dtype=np.uint8)))
    for read in (read_size, lambda path: decode(path, key="a")):
        with pytest.raises(BadImage, match=r"is a HEIC image; .*pip install 'patchpack\[heic\]'"):
            read(tmp_path / name)


def test_suffixes_are_read_or_known_and_never_both():
    assert not formats.SUFFIXES & formats.UNREAD_SUFFIXES
    assert {".psd", ".dng", ".jxl"} <= formats.UNREAD_SUFFIXES
    assert formats.HEIC_SUFFIXES <= formats.SUFFIXES | formats.UNREAD_SUFFIXES
