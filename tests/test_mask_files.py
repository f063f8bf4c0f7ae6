"""Mask files of every kind: whole numbers are read as stored, colors are refused by name."""

import numpy as np
import pytest
from PIL import Image

from image_files import encode
from patchpack.data.annotations.mask_values import MaskEncoding
from patchpack.data.annotations.masks import MaskSpec, read_mask
from patchpack.data.read_errors import BadImage

NUMBERS = np.zeros((24, 40), np.uint8)
NUMBERS[2:8, 2:8], NUMBERS[10:, 20:] = 1, 2


def raw(mode: str, dtype: str) -> Image.Image:
    return Image.frombytes(mode, (40, 24), NUMBERS.astype(dtype).tobytes())


def palette(alpha: int | None = None) -> Image.Image:
    image = Image.fromarray(NUMBERS).convert("P")
    image.putpalette([9, 9, 9] * 256)
    return image


def merged(mode: str, *bands: np.ndarray) -> Image.Image:
    return Image.merge(mode, [Image.fromarray(band) for band in bands])


OPAQUE = np.full_like(NUMBERS, 255)
READ = {
    "8-bit PNG": encode(NUMBERS, "PNG"),
    "8-bit TIFF": encode(NUMBERS, "TIFF", compression="tiff_lzw"),
    "8-bit BMP": encode(NUMBERS, "BMP"),
    "palette PNG": encode(palette(), "PNG"),
    "palette PNG with a transparent entry": encode(palette(), "PNG", transparency=1),
    "palette GIF": encode(palette(), "GIF"),
    "palette TIFF": encode(palette(), "TIFF"),
    "16-bit PNG": encode(raw("I;16", "<u2"), "PNG"),
    "16-bit TIFF": encode(raw("I;16", "<u2"), "TIFF"),
    "16-bit TIFF, big-endian": encode(raw("I;16B", ">u2"), "TIFF"),
    "16-bit TIFF, big-endian, compressed": encode(
        raw("I;16B", ">u2"), "TIFF", compression="tiff_lzw"
    ),
    "16-bit PGM": encode(raw("I;16", "<u2"), "PPM"),
    "32-bit TIFF": encode(raw("I", "<i4"), "TIFF"),
    "floating-point TIFF": encode(raw("F", "<f4"), "TIFF"),
    "gray with alpha": encode(merged("LA", NUMBERS, OPAQUE), "PNG"),
    "gray as RGB": encode(merged("RGB", NUMBERS, NUMBERS, NUMBERS), "PNG"),
    "gray as RGBA": encode(merged("RGBA", NUMBERS, NUMBERS, NUMBERS, OPAQUE), "PNG"),
}


@pytest.mark.parametrize("name", READ)
def test_whole_numbers_of_one_channel_are_read(name, tmp_path):
    (tmp_path / "mask").write_bytes(READ[name])
    found = read_mask(MaskSpec(tmp_path / "mask", 3, None), (24, 40), "image")
    assert found.dtype == np.uint8 and np.array_equal(found, NUMBERS)


def test_masks_of_one_bit_are_read(tmp_path):
    (tmp_path / "mask").write_bytes(encode(Image.fromarray(NUMBERS == 1), "PNG"))
    found = read_mask(MaskSpec(tmp_path / "mask", 2, None), (24, 40), "image")
    assert np.array_equal(found, NUMBERS == 1)


REFUSED = {
    "colors": (encode(merged("RGB", NUMBERS, NUMBERS, OPAQUE), "PNG"), "RGB"),
    "colors with alpha": (
        encode(merged("RGBA", OPAQUE, NUMBERS, NUMBERS, OPAQUE), "PNG"), "RGBA"
    ),
    "transparent gray": (encode(merged("LA", NUMBERS, NUMBERS), "PNG"), "LA"),
    "transparent RGB": (encode(merged("RGBA", *[NUMBERS] * 4), "PNG"), "RGBA"),
    "inks": (encode(Image.new("CMYK", (40, 24)), "TIFF"), "CMYK"),
    "fractions": (encode(raw("F", "<f4").point(lambda v: v * 0.5 + 0.25), "TIFF"), "F"),
    "not a number": (encode(Image.new("F", (40, 24), float("nan")), "TIFF"), "F"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_refused_by_name(name, tmp_path):
    data, mode = REFUSED[name]
    (tmp_path / "mask").write_bytes(data)
    with pytest.raises(
        BadImage, match=f"image: its mask has mode {mode}, not one channel"
    ) as error:
        read_mask(MaskSpec(tmp_path / "mask", 3, None), (24, 40), "image")
    assert ("without an alpha channel" in str(error.value)) == ("transparent" in name)


def test_colors_below_transparent_pixels_are_no_classes(tmp_path):
    alpha = Image.fromarray((NUMBERS > 0).astype(np.uint8) * 255)
    ink = Image.new("L", alpha.size, 255)
    colors = MaskEncoding((0xFFFFFF, 0x000000), colors=True)
    for mode, channels in {"RGBA": [ink] * 3, "LA": [ink]}.items():
        (tmp_path / "mask").write_bytes(encode(Image.merge(mode, [*channels, alpha]), "PNG"))
        with pytest.raises(BadImage, match="without an alpha channel"):
            read_mask(MaskSpec(tmp_path / "mask", 2, None, colors), (24, 40), "image")
