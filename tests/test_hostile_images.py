"""Damaged and malicious image files raise BadImage."""

import os
import pickle
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from image_files import FORMATS, chunk, encode, png, smooth
from patchpack.data.images import BadImage, decode, read_size, to_rgb

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
def test_hostile_files_raise(name: str, action: str, tmp_path: Path) -> None:
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


def test_a_decompression_bomb_raises_even_if_pillow_allows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(BadImage, match="20000 x 20000 pixels are more than the 89,478,485"):
        decode(HEADER_OF_A_BOMB, key="bomb")


def test_an_image_without_pixels_raises() -> None:
    with pytest.raises(BadImage, match="has no pixels"):
        to_rgb(Image.new("RGB", (0, 4)))


def test_paths_without_a_readable_file_raise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    cases = [("gone", "no such file"), (".", "is a folder"), ("loop", "symbolic links")]
    for name, reason in cases:
        with pytest.raises(BadImage, match=reason):
            read_size(tmp_path / name)
        with pytest.raises(BadImage, match=reason):
            decode(tmp_path / name, key=name)

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "secret").touch()
    monkeypatch.setattr("builtins.open", deny)
    with pytest.raises(BadImage, match="permission denied"):
        decode(tmp_path / "secret", key="secret")


@pytest.mark.parametrize("format", [*FORMATS, "progressive"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.3, 0.6, 0.9])
def test_truncated_files_raise(format: str, kept: float) -> None:
    options = {"progressive": True} if format == "progressive" else {}
    data = encode(smooth(200, 150), "JPEG" if options else format, **options)
    with pytest.raises(BadImage):
        decode(data[: int(len(data) * kept)], key="truncated")


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("target", [None, (20, 15)])
def test_jpegs_without_their_last_bytes_raise(
    progressive: bool, target: tuple[int, int] | None
) -> None:
    data = encode(smooth(200, 150), "JPEG", progressive=progressive)
    for missing in range(1, 40):
        with pytest.raises(BadImage):
            decode(data[:-missing], key="truncated", target=target)


SAMPLES = [encode(smooth(24, 20), format, 6) for format in FORMATS]
SAMPLES.append(encode(Image.fromarray(smooth(24, 20)).quantize(16), "PNG"))


@settings(max_examples=150, deadline=None)
@given(
    data=st.sampled_from(SAMPLES),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1),
    scaled=st.booleans(),
)
def test_flipped_bits_decode_or_raise_bad_image(
    data: bytes, flips: list[tuple[float, int]], scaled: bool
) -> None:
    damaged = bytearray(data)
    for position, bit in flips:
        damaged[int(position * min(len(data), 400))] ^= 1 << bit
    try:
        pixels = decode(bytes(damaged), key="flipped", target=(4, 4) if scaled else None)
    except BadImage as error:
        assert error.key == "flipped"
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


def test_bad_images_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(BadImage("a/b.jpg", "is damaged")))
    assert (error.key, error.reason, str(error)) == ("a/b.jpg", "is damaged", "a/b.jpg: is damaged")


def test_pipes_raise_without_blocking(tmp_path):
    os.mkfifo(pipe := tmp_path / "pipe.png")
    for read in (read_size, lambda path: decode(path, key="pipe")):
        with pytest.raises(BadImage, match="is a pipe or a device"):
            read(pipe)


def test_unprintable_characters_of_a_name_are_escaped():
    error = BadImage("a\n\x1b[2Jb\udcff é.png", "is empty")
    assert str(error) == r"a\n\x1b[2Jb\udcff é.png: is empty"
