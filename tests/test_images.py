"""Every image file decodes to correct RGB pixels of its header's size, or raises BadImage."""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_files import FORMATS, chunk, encode, png, psnr, smooth
from patchpack.data import images
from patchpack.data.images import BadImage, decode, read_size, resize, to_rgb


def oriented(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation to stored pixels, by the table in its specification."""
    first_row_is_a_side = orientation in (5, 6, 7, 8)
    out = stored.transpose(1, 0, 2) if first_row_is_a_side else stored
    if orientation in (3, 4, 7, 8):  # the first stored row, or column, is at the bottom
        out = out[::-1]
    if orientation in (2, 3, 6, 7):  # ... at the right
        out = out[:, ::-1]
    return out


# --- colors

WHITE, RED = [255, 255, 255], [255, 0, 0]
COLORS = [
    ("RGB", (10, 200, 30), [10, 200, 30]),
    ("L", 77, [77, 77, 77]),
    ("1", 1, WHITE),
    ("LA", (100, 255), [100, 100, 100]),
    ("LA", (100, 0), WHITE),
    ("PA", (0, 0), WHITE),
    ("La", (0, 0), WHITE),
    ("RGBa", (0, 0, 0, 0), WHITE),
    ("RGBA", (255, 0, 0, 255), RED),
    ("RGBA", (255, 0, 0, 0), WHITE),
    ("RGBA", (255, 0, 0, 128), [255, 127, 127]),
    ("RGBX", (1, 2, 3, 0), [1, 2, 3]),
    ("CMYK", (0, 255, 255, 0), RED),
    ("YCbCr", (76, 85, 255), [254, 0, 0]),
    ("HSV", (0, 255, 255), RED),
    ("LAB", (255, 128, 128), WHITE),
    ("I;16", 65535, WHITE),
    ("I;16", 257 * 9, [9, 9, 9]),
    ("I;16B", 257 * 200, [200, 200, 200]),
    ("I;16L", 257 * 99 + 128, [99, 99, 99]),
    ("I;16", 257 * 99 + 129, [100, 100, 100]),
    ("I", 257 * 128, [128, 128, 128]),
]


@pytest.mark.parametrize(("mode", "value", "rgb"), COLORS)
def test_every_mode_converts_to_rgb(mode: str, value: object, rgb: list[int]) -> None:
    pixels = to_rgb(Image.new(mode, (3, 2), value))
    assert pixels.dtype == np.uint8 and pixels.shape == (2, 3, 3)
    np.testing.assert_allclose(pixels, np.full((2, 3, 3), rgb), atol=1)
    if mode not in ("YCbCr", "LAB"):  # these two round
        assert pixels[0, 0].tolist() == rgb


def test_palette_colors_and_transparent_palette_entries() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 0, 255, 9, 9, 9])
    image.putdata([0, 1, 2])
    assert to_rgb(image)[0].tolist() == [RED, [0, 0, 255], [9, 9, 9]]
    single = decode(encode(image, "PNG", transparency=1), key="one index")
    assert single[0].tolist() == [RED, WHITE, [9, 9, 9]]
    each = decode(encode(image, "PNG", transparency=bytes([0, 255, 128])), key="alpha per index")
    assert each[0].tolist() == [WHITE, [0, 0, 255], [132, 132, 132]]


@pytest.mark.parametrize(
    ("depth", "color", "row", "transparent"),
    [
        (8, 0, bytes([7, 50]), struct.pack(">H", 7)),
        (16, 0, struct.pack(">HH", 7, 50 * 257), struct.pack(">H", 7)),
        (1, 0, bytes([0b01000000]), struct.pack(">H", 0)),
        (8, 2, bytes([7, 8, 9, 50, 50, 50]), struct.pack(">HHH", 7, 8, 9)),
    ],
)
def test_the_transparent_color_of_a_png_without_alpha_is_white(
    depth: int, color: int, row: bytes, transparent: bytes
) -> None:
    pixels = decode(png((1, 2), depth, color, row, chunk(b"tRNS", transparent)), key="tRNS")
    assert pixels[0].tolist() == [WHITE, WHITE if depth == 1 else [50, 50, 50]]


def test_16_bit_files_are_scaled_and_not_clipped() -> None:
    gray = np.linspace(0, 65535, 256).astype(np.uint16)[None]
    for format in ("PNG", "TIFF"):
        pixels = decode(encode(gray, format), key=format)
        np.testing.assert_array_equal(pixels[0, :, 1], np.arange(256))


@pytest.mark.parametrize(("mode", "value"), [("F", 0.5), ("I", 65536), ("I", -1)])
def test_pixels_without_a_defined_maximum_raise(mode: str, value: float) -> None:
    with pytest.raises(BadImage, match="convert it to 8 or 16 bits"):
        to_rgb(Image.new(mode, (2, 2), value))


def test_animations_decode_to_their_first_frame() -> None:
    frames = [Image.new("RGB", (5, 4), color) for color in ("red", "blue")]
    for format in ("GIF", "PNG", "WEBP"):
        data = encode(frames[0], format, save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(decode(data, key=format), np.full((4, 5, 3), RED), atol=2)


# --- sizes, orientation and the two JPEG decoders


@pytest.mark.parametrize("format", FORMATS)
def test_the_header_has_the_decoded_size(format: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(encode(smooth(37, 53), format))
    pixels = decode(path, key="image")
    assert read_size(path) == pixels.shape[:2] == (37, 53)
    assert pixels.dtype == np.uint8 and pixels.flags.writeable and pixels.flags.c_contiguous
    np.testing.assert_array_equal(decode(path.read_bytes(), key="image"), pixels)


@pytest.mark.parametrize(
    "format", [f for f in FORMATS if f in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")]
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(format: str, orientation: int, tmp_path: Path) -> None:
    stored = smooth(48, 32)
    path = tmp_path / "image"
    path.write_bytes(encode(stored, format, orientation))
    pixels = decode(path, key=format)
    expected = oriented(stored, orientation)
    assert read_size(path) == pixels.shape[:2] == expected.shape[:2]
    assert psnr(pixels, expected) > 30


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_16_bit_images_are_upright_too(orientation: int) -> None:
    stored = np.array([[0, 257, 514], [771, 1028, 1285]], np.uint16)
    pixels = decode(encode(stored, "PNG", orientation), key="gray")
    expected = oriented(np.repeat(stored[:, :, None] // 257, 3, axis=2), orientation)
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow warns about it
def test_broken_exif_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    exif = b"Exif\0\0MM\0*\xff\xff\xff\xff"
    Image.fromarray(smooth(20, 30)).save(path, exif=exif)
    assert read_size(path) == decode(path, key="image").shape[:2] == (20, 30)


def decode_by_pillow(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
@pytest.mark.parametrize("gray", [False, True])
def test_both_jpeg_decoders_agree(options: dict, gray: bool) -> None:
    image = Image.fromarray(smooth(301, 403)).convert("L" if gray else "RGB")
    data = encode(image, "JPEG", quality=92, **options)
    assert psnr(decode(data, key="photo"), decode_by_pillow(data)) >= 40


def test_jpegs_that_turbo_rejects_are_decoded_by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(smooth(40, 60), "JPEG", 6)
    fast = decode(data, key="photo")
    odd = data[:-2] + b"\0\0\0\0" + data[-2:]  # libjpeg warns of bytes before the end
    assert psnr(decode(odd, key="odd"), fast) >= 40
    assert psnr(decode(data + b"more", key="longer"), fast) >= 40

    def reject(*_: object, **__: object) -> None:
        raise ValueError("unsupported")

    monkeypatch.setattr(images.simplejpeg, "decode_jpeg", reject)
    assert psnr(decode(data, key="photo"), fast) >= 40


def test_cmyk_and_multi_picture_jpegs() -> None:
    cmyk = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")
    np.testing.assert_allclose(decode(cmyk, key="cmyk"), np.full((8, 8, 3), RED), atol=3)
    stereo = [Image.fromarray(smooth(48, 32)), Image.new("RGB", (48, 32))]
    pair = encode(stereo[0], "MPO", 6, save_all=True, append_images=stereo[1:])
    assert psnr(decode(pair, key="pair"), oriented(smooth(48, 32), 6)) > 30


def test_a_size_that_differs_from_the_header_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = np.zeros((9, 9, 3), np.uint8)
    monkeypatch.setattr(images.simplejpeg, "decode_jpeg", lambda *_, **__: wrong)
    with pytest.raises(BadImage, match=r"photo: decodes to \(9, 9\) pixels, .* \(10, 9\)"):
        decode(encode(smooth(10, 9), "JPEG"), key="photo")


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("stored", "target", "decoded"),
    [
        ((800, 1000), (100, 125), (200, 250)),  # a quarter: still twice the target
        ((800, 1000), (200, 250), (400, 500)),  # four times as large: a half
        ((800, 1000), (201, 250), (800, 1000)),  # less than four times in one side
        ((803, 1001), (16, 16), (101, 126)),  # an eighth is the smallest scale
        ((400, 4000), (100, 16), (200, 2000)),  # the side with the smallest reduction decides
    ],
)
def test_scaled_decode(
    stored: tuple[int, int], target: tuple[int, int], decoded: tuple[int, int], orientation: int
) -> None:
    data = encode(smooth(*stored), "JPEG", orientation, quality=95)
    if orientation == 6:
        target, decoded = target[::-1], decoded[::-1]
    pixels = decode(data, key="photo", target=target)
    assert pixels.shape[:2] == decoded
    assert psnr(resize(pixels, target), resize(decode(data, key="photo"), target)) > 30


# --- resize


def test_resize_to_the_same_size_is_the_identity() -> None:
    pixels = smooth(9, 7)
    assert resize(pixels, (9, 7)) is pixels


def test_resize_matches_pillows_antialiased_bicubic() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 311, 3), dtype=np.uint8)
    for size in [(50, 70), (96, 96), (300, 400), (13, 401)]:
        pillow = Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC)
        small = resize(noise, size)
        assert small.dtype == np.uint8 and small.flags.c_contiguous
        assert psnr(small, np.asarray(pillow)) > 45


@pytest.mark.parametrize(
    ("before", "after"), [((1, 5000), (16, 2048)), ((5000, 1), (3, 7)), ((1, 1), (16, 16))]
)
def test_resize_of_extreme_shapes(before: tuple[int, int], after: tuple[int, int]) -> None:
    pixels = np.broadcast_to(np.array([9, 100, 250], np.uint8), (*before, 3))
    small = resize(pixels, after)  # from read-only pixels too
    np.testing.assert_array_equal(small, np.broadcast_to(pixels[0, 0], (*after, 3)))
