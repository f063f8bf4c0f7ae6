"""Images of more than 8 bits: declared ranges, and a notice on values of fewer bits."""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from image_files import encode, png
from patchpack.cli import main
from patchpack.data.depth_notice import depth_notice
from patchpack.data.images import BadImage, decode, to_rgb
from patchpack.data.reading import ReadingConfig

CAMERA = ReadingConfig(intensity_range=(0, 4095))
VALUES = np.linspace(0, 4095, 48).astype(np.uint16).reshape(6, 8)


def tiff(values: np.ndarray, **tags: int) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        directory[{"maximum": 281, "format": 339}[name]] = value
    file = BytesIO()
    Image.fromarray(values).save(file, "TIFF", tiffinfo=directory)
    return file.getvalue()


def tiff_of_12_bits() -> bytes:
    """Return a TIFF of one row of two packed 12-bit samples, 4095 and 2048."""
    fields = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1),
              (279, 3)]  # fmt: skip
    fields = [(tag, 0 if tag == 273 else value) for tag, value in fields]
    end = 8 + 2 + 12 * len(fields) + 4
    rows = b"".join(
        struct.pack("<HHII", tag, 4, 1, end if tag == 273 else value) for tag, value in fields
    )
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(fields)) + rows + bytes(4) + b"\xff\xf8\x00"


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_a_declared_range_becomes_black_and_white(format):
    pixels = decode(encode(VALUES, format), key="a", reading=CAMERA)
    assert pixels[0, 0].tolist() == [0] * 3 and pixels[-1, -1].tolist() == [255] * 3
    expected = VALUES.astype(float) * 255 / 4095
    assert np.abs(pixels[:, :, 0] - expected).max() <= 0.5
    assert decode(encode(VALUES, format), key="a").max() == 16  # nearly black


@pytest.mark.parametrize(
    ("mode", "value", "range", "gray"),
    [
        ("I;16B", 2000, (1000, 2000), 255), ("I;16L", 1500, (1000, 2000), 128),
        ("I;16", 10, (1000, 2000), 0), ("I;16", 9999, (1000, 2000), 255),
        ("I", -500, (-1000, 0), 128), ("I", 1 << 20, (0, 1 << 21), 128),
        ("F", 0.25, (0, 1), 64), ("F", float("nan"), (0, 1), 0), ("L", 9, (0, 4095), 9),
        ("RGB", (9, 8, 7), (0, 4095), None),
    ],
)  # fmt: skip
def test_every_mode_of_one_channel_follows_the_range(mode, value, range, gray):
    pixels = to_rgb(Image.new(mode, (3, 2), value), range)
    assert pixels[1, 2].tolist() == ([9, 8, 7] if gray is None else [gray] * 3)


def test_ranges_that_a_tiff_declares_are_used():
    assert decode(tiff_of_12_bits(), key="a")[0, :, 0].tolist() == [255, 128]
    assert decode(tiff(VALUES, maximum=4095), key="a").max() == 255
    assert decode(tiff(VALUES, maximum=4000), key="a").max() == 16  # a maximum of this image alone
    assert decode(tiff(VALUES, maximum=4095), key="a", reading=CAMERA).max() == 255


def test_values_without_a_defined_range_are_refused():
    signed = np.array([[-5, 300]], np.int16)
    data = BytesIO()
    # Pillow writes no signed 16-bit images: the format is changed in the file's directory.
    Image.fromarray(signed.astype(np.uint16)).save(data, "TIFF", tiffinfo={339: 1})
    patched = data.getvalue().replace(
        struct.pack("<HHII", 339, 3, 1, 1), struct.pack("<HHII", 339, 3, 1, 2)
    )
    with pytest.raises(BadImage, match="signed 16-bit pixels; set intensity_range"):
        decode(patched, key="a")
    reading = ReadingConfig(intensity_range=(-5, 300))
    assert decode(patched, key="a", reading=reading)[0, :, 0].tolist() == [0, 255]
    colors = png((1, 2), 16, 2, struct.pack(">6H", *[4095] * 6))
    assert decode(colors, key="a")[0, 0].tolist() == [15] * 3  # Pillow's upper 8 bits
    with pytest.raises(BadImage, match="16-bit colors, and intensity_range is for images of one"):
        decode(colors, key="a", reading=CAMERA)


@pytest.mark.parametrize(
    "range", [(5.0, 5.0), (9.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0)]
)
def test_impossible_ranges_raise(range):
    with pytest.raises(ValueError, match="intensity_range must rise"):
        ReadingConfig(intensity_range=range)


def write(folder: Path, **images: np.ndarray | bytes) -> list[Path]:
    folder.mkdir(parents=True)
    for name, image in images.items():
        data = image if isinstance(image, bytes) else encode(image, "PNG")
        (folder / f"{name}.png").write_bytes(data)
    return sorted(folder.iterdir())


def test_dark_16_bit_images_are_noticed_once(tmp_path):
    whole = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    colors = png((1, 2), 16, 2, struct.pack(">6H", *[4095] * 6))
    paths = write(tmp_path / "a", dark=VALUES, whole=whole, gray=VALUES.astype(np.uint8))
    notice = depth_notice(paths, ReadingConfig())
    assert notice and notice.startswith("1 of 2 sampled 16-bit images hold no value above 4,095")
    assert "12-bit camera" in notice and "--data.reading.intensity-range 0 4095" in notice
    assert depth_notice(paths, CAMERA) is None
    assert depth_notice(write(tmp_path / "b", whole=whole), ReadingConfig()) is None
    assert "1 of 1" in str(depth_notice(write(tmp_path / "c", c=colors), ReadingConfig()))
    broken = [*write(tmp_path / "d", broken=b"x"), tmp_path / "absent.png"]
    assert depth_notice(broken, ReadingConfig()) is None


def test_inspect_prints_the_notice_on_stderr(tmp_path, capsys):
    for label in ("a", "b"):
        write(tmp_path / "data" / label, one=VALUES, two=VALUES)
    for words in ([], ["--intensity-range", "0", "4095"]):
        with pytest.raises(SystemExit) as status:
            main(["inspect", str(tmp_path / "data"), "--json", *words])
        shown = capsys.readouterr()
        assert status.value.code == 0 and shown.out.startswith("{")
        assert ("4 of 4 sampled 16-bit images" in shown.err) == (not words)
