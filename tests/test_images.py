"""Any image file becomes the right RGB pixels, of the size its header promises, or a BadImage."""

import os
import pickle
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from patchpack.data import images
from patchpack.data.images import BadImage, decode, read_size, resize, to_rgb

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]
FORMATS += [
    name for name, key in [("AVIF", "avif"), ("JPEG2000", "jpg_2000")] if features.check(key)
]


def smooth(height: int, width: int) -> np.ndarray:
    """Slow waves in three colours, as a photo out of focus."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(7 * x + c) * np.cos(5 * y - c) for c in range(3)]
    return (128 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def encode(pixels: np.ndarray | Image.Image, kind: str, orientation: int = 1, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    file = BytesIO()
    image.save(file, kind, exif=exif, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size: tuple[int, int], depth: int, colour: int, row: bytes, *more: bytes) -> bytes:
    """A PNG of one row of pixels, with further chunks before them."""
    header = struct.pack(">IIBBBBB", size[1], size[0], depth, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(b"\0" + row))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def uprighted(stored: np.ndarray, orientation: int) -> np.ndarray:
    """What EXIF says of stored pixels, from the table in its specification."""
    first_row_is_a_side = orientation in (5, 6, 7, 8)
    out = stored.transpose(1, 0, 2) if first_row_is_a_side else stored
    if orientation in (3, 4, 7, 8):  # the first stored row, or column, is at the bottom
        out = out[::-1]
    if orientation in (2, 3, 6, 7):  # ... at the right
        out = out[:, ::-1]
    return out


# --- colours

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
def test_every_mode_has_its_colour_in_rgb(mode: str, value: object, rgb: list[int]) -> None:
    pixels = to_rgb(Image.new(mode, (3, 2), value))
    assert pixels.dtype == np.uint8 and pixels.shape == (2, 3, 3)
    np.testing.assert_allclose(pixels, np.full((2, 3, 3), rgb), atol=1)
    if mode not in ("YCbCr", "LAB"):  # those two round
        assert pixels[0, 0].tolist() == rgb


def test_palette_colours_and_transparent_palette_entries() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 0, 255, 9, 9, 9])
    image.putdata([0, 1, 2])
    assert to_rgb(image)[0].tolist() == [RED, [0, 0, 255], [9, 9, 9]]
    one = decode(encode(image, "PNG", transparency=1), key="one index")
    assert one[0].tolist() == [RED, WHITE, [9, 9, 9]]
    each = decode(encode(image, "PNG", transparency=bytes([0, 255, 128])), key="alpha per index")
    assert each[0].tolist() == [WHITE, [0, 0, 255], [132, 132, 132]]


@pytest.mark.parametrize(
    ("depth", "colour", "row", "clear"),
    [
        (8, 0, bytes([7, 50]), struct.pack(">H", 7)),
        (16, 0, struct.pack(">HH", 7, 50 * 257), struct.pack(">H", 7)),
        (1, 0, bytes([0b01000000]), struct.pack(">H", 0)),
        (8, 2, bytes([7, 8, 9, 50, 50, 50]), struct.pack(">HHH", 7, 8, 9)),
    ],
)
def test_the_transparent_colour_of_a_png_without_alpha_is_white(
    depth: int, colour: int, row: bytes, clear: bytes
) -> None:
    pixels = decode(png((1, 2), depth, colour, row, chunk(b"tRNS", clear)), key="tRNS")
    assert pixels[0].tolist() == [WHITE, WHITE if depth == 1 else [50, 50, 50]]


def test_16_bit_files_are_scaled_and_not_clipped() -> None:
    gray = np.linspace(0, 65535, 256).astype(np.uint16)[None]
    for kind in ("PNG", "TIFF"):
        pixels = decode(encode(gray, kind), key=kind)
        np.testing.assert_array_equal(pixels[0, :, 1], np.arange(256))


@pytest.mark.parametrize(("mode", "value"), [("F", 0.5), ("I", 65536), ("I", -1)])
def test_pixels_without_a_known_white_are_refused(mode: str, value: float) -> None:
    with pytest.raises(BadImage, match="convert it to 8 or 16 bits"):
        to_rgb(Image.new(mode, (2, 2), value))


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(decode(data, key=kind), np.full((4, 5, 3), RED), atol=2)


# --- sizes, orientation and the two JPEG decoders


@pytest.mark.parametrize("kind", FORMATS)
def test_the_header_has_the_size_that_decode_delivers(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(encode(smooth(37, 53), kind))
    pixels = decode(path, key="image")
    assert read_size(path) == pixels.shape[:2] == (37, 53)
    assert pixels.dtype == np.uint8 and pixels.flags.writeable and pixels.flags.c_contiguous
    np.testing.assert_array_equal(decode(path.read_bytes(), key="image"), pixels)


@pytest.mark.parametrize(
    "kind", [k for k in FORMATS if k in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")]
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(kind: str, orientation: int, tmp_path: Path) -> None:
    stored = smooth(48, 32)
    path = tmp_path / "image"
    path.write_bytes(encode(stored, kind, orientation))
    pixels = decode(path, key=kind)
    right = uprighted(stored, orientation)
    assert read_size(path) == pixels.shape[:2] == right.shape[:2]
    assert psnr(pixels, right) > 30


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_16_bit_images_are_upright_too(orientation: int) -> None:
    stored = np.array([[0, 257, 514], [771, 1028, 1285]], np.uint16)
    pixels = decode(encode(stored, "PNG", orientation), key="gray")
    right = uprighted(np.repeat(stored[:, :, None] // 257, 3, axis=2), orientation)
    np.testing.assert_array_equal(pixels, right)


def test_orientation_after_the_pixels_is_unknown_to_header_and_decode_alike(tmp_path: Path) -> None:
    data = encode(np.zeros((2, 5, 3), np.uint8), "PNG", 6)
    start = data.index(b"eXIf") - 4
    (length,) = struct.unpack(">I", data[start : start + 4])
    exif, rest = data[start : start + 12 + length], data[:start] + data[start + 12 + length :]
    path = tmp_path / "late.png"
    path.write_bytes(rest[:-12] + exif + rest[-12:])
    assert read_size(path) == decode(path, key="late").shape[:2] == (2, 5)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow tells of it
def test_broken_exif_leaves_the_pixels_alone(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    exif = b"Exif\0\0MM\0*\xff\xff\xff\xff"
    Image.fromarray(smooth(20, 30)).save(path, exif=exif)
    assert read_size(path) == decode(path, key="image").shape[:2] == (20, 30)


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
@pytest.mark.parametrize("gray", [False, True])
def test_both_jpeg_decoders_agree(options: dict, gray: bool) -> None:
    image = Image.fromarray(smooth(301, 403)).convert("L" if gray else "RGB")
    data = encode(image, "JPEG", quality=92, **options)
    assert psnr(decode(data, key="photo"), by_pillow(data)) >= 40


def test_jpegs_that_turbo_declines_are_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(smooth(40, 60), "JPEG", 6)
    fast = decode(data, key="photo")
    odd = data[:-2] + b"\0\0\0\0" + data[-2:]  # libjpeg warns of bytes before the end
    assert psnr(decode(odd, key="odd"), fast) >= 40
    assert psnr(decode(data + b"more", key="longer"), fast) >= 40

    def declines(*_: object, **__: object) -> None:
        raise ValueError("unsupported")

    monkeypatch.setattr(images.simplejpeg, "decode_jpeg", declines)
    assert psnr(decode(data, key="photo"), fast) >= 40


def test_cmyk_and_multi_picture_jpegs() -> None:
    cmyk = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")
    np.testing.assert_allclose(decode(cmyk, key="cmyk"), np.full((8, 8, 3), RED), atol=3)
    stereo = [Image.fromarray(smooth(48, 32)), Image.new("RGB", (48, 32))]
    pair = encode(stereo[0], "MPO", 6, save_all=True, append_images=stereo[1:])
    assert psnr(decode(pair, key="pair"), uprighted(smooth(48, 32), 6)) > 30


def test_a_size_that_differs_from_the_header_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = np.zeros((9, 9, 3), np.uint8)
    monkeypatch.setattr(images.simplejpeg, "decode_jpeg", lambda *_, **__: wrong)
    with pytest.raises(BadImage, match=r"photo: has \(9, 9\) pixels where .* \(10, 9\)"):
        decode(encode(smooth(10, 9), "JPEG"), key="photo")


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("stored", "target", "decoded"),
    [
        ((800, 1000), (100, 125), (200, 250)),  # a quarter: still twice the target
        ((800, 1000), (200, 250), (400, 500)),  # four times as large: a half
        ((800, 1000), (201, 250), (800, 1000)),  # less than four times in one side
        ((803, 1001), (16, 16), (101, 126)),  # an eighth is the least there is
        ((400, 4000), (100, 16), (200, 2000)),  # the side that shrinks least decides
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


# --- hostile files

HEADER_OF_A_BOMB = png((20000, 20000), 8, 2, b"")
HOSTILE = {
    "empty": (b"", "is not an image"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>" * 9, "is not an image"),
    "pdf": (b"%PDF-1.7\n" + b"0" * 99, "is not an image"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
    "fits": (b"SIMPLE  =                    T" + b" " * 2850, "is not an image"),
    "zero width": (png((5, 0), 8, 2, b""), "is not an image"),
    "zero height": (b"P6 5 0 255\n", "is not an image"),
    "bomb": (HEADER_OF_A_BOMB, "89,478,485"),
    "half a bomb": (png((9460, 9460), 8, 2, b""), "89,478,485"),
    "no pixels": (b"\x89PNG\r\n\x1a\n" + HEADER_OF_A_BOMB[8:16], "damaged"),
    "text bomb": (
        png((1, 1), 8, 0, b"\0", chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(9_000_000)))),
        "damaged",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_hostile_files_are_bad_images(name: str, action: str, tmp_path: Path) -> None:
    data, reason = HOSTILE[name]
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(BadImage, match=reason) as error:
            decode(data, key="the key")
        assert str(error.value).startswith("the key: ") and len(str(error.value)) < 200
        with pytest.raises(BadImage, match=reason) as error:
            read_size(path)
        assert error.value.key == str(path)


def test_a_bomb_is_refused_even_where_pillow_is_told_to_allow_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(BadImage, match="20000 x 20000 pixels are more than the 89,478,485"):
        decode(HEADER_OF_A_BOMB, key="bomb")


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(BadImage, match="has no pixels"):
        to_rgb(Image.new("RGB", (0, 4)))


def test_places_that_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    cases = [("gone", "no such file"), (".", "is a folder"), ("loop", "symbolic links")]
    for name, reason in cases:
        with pytest.raises(BadImage, match=reason):
            read_size(tmp_path / name)
        with pytest.raises(BadImage, match=reason):
            decode(tmp_path / name, key=name)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "secret").touch()
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(BadImage, match="may not be read"):
        decode(tmp_path / "secret", key="secret")


@pytest.mark.parametrize("kind", [*FORMATS, "progressive"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.3, 0.6, 0.9])
def test_truncated_files_are_bad_images(kind: str, kept: float) -> None:
    options = {"progressive": True} if kind == "progressive" else {}
    data = encode(smooth(200, 150), "JPEG" if options else kind, **options)
    with pytest.raises(BadImage):
        decode(data[: int(len(data) * kept)], key="cut")


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("target", [None, (20, 15)])
def test_jpegs_that_lack_their_last_bytes_are_bad_images(
    progressive: bool, target: tuple[int, int] | None
) -> None:
    data = encode(smooth(200, 150), "JPEG", progressive=progressive)
    for missing in range(1, 40):
        with pytest.raises(BadImage):
            decode(data[:-missing], key="cut", target=target)


SAMPLES = [encode(smooth(24, 20), kind, 6) for kind in FORMATS]
SAMPLES.append(encode(Image.fromarray(smooth(24, 20)).quantize(16), "PNG"))


@settings(max_examples=150, deadline=None)
@given(
    data=st.sampled_from(SAMPLES),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1),
    scaled=st.booleans(),
)
def test_flipped_bits_decode_or_are_a_bad_image(
    data: bytes, flips: list[tuple[float, int]], scaled: bool
) -> None:
    damaged = bytearray(data)
    for place, bit in flips:
        damaged[int(place * min(len(data), 400))] ^= 1 << bit
    try:
        pixels = decode(bytes(damaged), key="flipped", target=(4, 4) if scaled else None)
    except BadImage as error:
        assert error.key == "flipped"
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


def test_bad_images_cross_processes() -> None:
    error = pickle.loads(pickle.dumps(BadImage("a/b.jpg", "is damaged")))
    assert (error.key, error.reason, str(error)) == ("a/b.jpg", "is damaged", "a/b.jpg: is damaged")


# --- resize


def test_resize_to_the_same_size_is_the_identity() -> None:
    pixels = smooth(9, 7)
    assert resize(pixels, (9, 7)) is pixels


def test_resize_is_pillows_antialiased_bicubic() -> None:
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


def test_pipes_are_refused_not_waited_for(tmp_path):
    os.mkfifo(pipe := tmp_path / "pipe.png")
    for read in (read_size, lambda path: decode(path, key="pipe")):
        with pytest.raises(BadImage, match="is a pipe or a device"):
            read(pipe)


def test_names_that_would_move_the_cursor_are_shown_escaped():
    error = BadImage("a\n\x1b[2Jb\udcff é.png", "is empty")
    assert str(error) == r"a\n\x1b[2Jb\udcff é.png: is empty"
