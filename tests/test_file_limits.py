"""Limits of one file: checked from headers, the same in every verb, changed by options."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from films import ramp, write_frames, write_video
from image_files import chunk, encode, smooth
from patchpack.cli import main
from patchpack.data.annotations.masks import MaskSpec, read_mask
from patchpack.data.images import BadImage, decode, read_size
from patchpack.data.index import build_index
from patchpack.data.reading import ReadingConfig, has_more_scans
from patchpack.data.records import CLIPS, BadDataset
from patchpack.data.video.decode import decode_frames, read_header


def scan_bomb(scans: int, **options) -> bytes:
    """Return a progressive JPEG whose last scan occurs many times."""
    data = encode(smooth(32, 48), "JPEG", progressive=True, **options)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def png_header(height: int, width: int, color: int = 0) -> bytes:
    """Return a PNG that has no pixels, so that nothing can decode it."""
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b""))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


REFUSED = {
    "tall": (png_header(65_536, 1), {}, "1 x 65536 pixels: a side is more .* max_side_px"),
    "wide": (png_header(1, 89_478_485), {}, "a side is more than the 65,535 allowed"),
    "pixels": (png_header(9_460, 9_460), {}, "more than the 89,478,485 allowed by max_pixels"),
    "scans": (scan_bomb(60), {}, "more JPEG scans than the 64 allowed by max_scans"),
    "bytes": (encode(smooth(9, 9), "PNG"), {"max_bytes": 99}, "bytes are more than the 99"),
    "own pixels": (encode(smooth(9, 9), "PNG"), {"max_pixels": 80}, "9 x 9 pixels .* the 80"),
    "own side": (encode(smooth(3, 9), "WEBP"), {"max_side_px": 8}, "9 x 3 pixels: a side"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_above_a_limit_are_refused_from_their_headers(name, tmp_path):
    data, limits, reason = REFUSED[name]
    reading, path = ReadingConfig(**limits), tmp_path / "a.png"
    path.write_bytes(data)
    for read in (
        lambda: read_size(path, reading),
        lambda: decode(path, key=str(path), reading=reading),
        lambda: read_mask(MaskSpec(path, 2, None, reading=reading), (9, 9), str(path)),
    ):
        with pytest.raises(BadImage, match=reason) as error:
            read()
        assert error.value.key == str(path)


def test_limits_can_be_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's own threshold does not count
    path = tmp_path / "a.png"
    path.write_bytes(encode(np.zeros((70_000, 2), np.uint8), "PNG"))
    with pytest.raises(BadImage, match="max_side_px"):
        read_size(path)
    reading = ReadingConfig(max_side_px=70_000)
    assert read_size(path, reading) == decode(path, key="a", reading=reading).shape[:2]
    path.write_bytes(scan_bomb(60))
    assert decode(path, key="a", reading=ReadingConfig(max_scans=99)).shape == (32, 48, 3)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}], ids=str)
def test_scans_are_counted_without_the_data_behind_the_image(options):
    data = encode(smooth(300, 400), "JPEG", quality=95, **options)
    scans = 10 if "progressive" in options else 1
    for file in (data, data + b"\xff\xda" * 99, data + scan_bomb(9)):
        assert has_more_scans(BytesIO(file), scans - 1) == (scans > 1)
        assert not has_more_scans(BytesIO(file), scans)
    # A comment that holds the marker of an end does not hide scans behind it.
    bomb = scan_bomb(30)
    last = bomb.rindex(b"\xff\xda")
    hidden = bomb[:last] + b"\xff\xfe\x00\x06\xff\xd9\xff\xd9" + bomb[last:]
    for file in (bomb, hidden):
        assert has_more_scans(BytesIO(file), 38) and not has_more_scans(BytesIO(file), 39)
    for end in range(0, len(data), 37):
        has_more_scans(BytesIO(data[:end]), 9)


def test_large_images_of_any_mode_convert_in_strips(monkeypatch):
    """Strips give the pixels of a conversion at once, transparency and orientation included."""
    rgba = np.random.default_rng(0).integers(0, 256, (37, 23, 4), np.uint8)
    image = Image.fromarray(rgba)
    files = [encode(image, "PNG", 6), encode(image.convert("LA"), "PNG"),
             encode(image.convert("RGB").quantize(16), "PNG", transparency=3),
             encode(image.convert("L"), "TIFF", 5), encode(image.convert("1"), "PNG"),
             encode(rgba[:, :, 0].astype(np.uint16) * 257, "PNG", 8)]  # fmt: skip
    whole = [decode(data, key="a") for data in files]
    monkeypatch.setattr("patchpack.data.images.STRIP_PIXELS", 100)
    for data, pixels in zip(files, whole, strict=True):
        assert np.array_equal(decode(data, key="a"), pixels)


def test_videos_and_folders_of_frames_have_limits(tmp_path):
    video = write_video(tmp_path / "a.mp4", ramp(), rate=10)
    folder = write_frames(tmp_path / "frames", ramp(3))
    for path, limits, reason in [
        (video, {"max_seconds": 5.0}, "6 s are more than the 5 allowed by max_seconds"),
        (video, {"max_frames": 59}, "60 frames are more than the 59"),
        (video, {"max_side_px": 47}, "48 x 32 pixels: a side"),
        (video, {"max_pixels": 1000}, "more than the 1,000 allowed"),
        (folder, {"max_frames": 2}, "3 frames are more than the 2"),
        (folder, {"max_pixels": 1000}, "more than the 1,000 allowed"),
    ]:
        reading = ReadingConfig(**limits)
        with pytest.raises(BadImage, match=reason):
            read_header(path, reading)
        if "max_frames" not in limits and "max_seconds" not in limits:
            with pytest.raises(BadImage, match=reason):
                list(decode_frames(path, [1], 10, key="a", reading=reading))


def write(folder: Path, count: int, data: bytes) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(data)
    return folder


def test_cached_headers_obey_limits(tmp_path):
    root = write(tmp_path / "root" / "a", 3, encode(smooth(20, 30), "PNG")).parent
    assert len(build_index(root)) == 3
    for limits in ({"max_pixels": 599}, {"max_side_px": 29}, {"max_bytes": 9}):
        with pytest.raises(BadDataset, match=next(iter(limits))):
            build_index(root, reading=ReadingConfig(**limits))
    clips = tmp_path / "clips" / "a"
    write_video(clips / "a.mp4", ramp(), rate=10)
    assert len(build_index(clips.parent, media_type=CLIPS)) == 1
    with pytest.raises(BadDataset, match="max_seconds"):
        build_index(clips.parent, media_type=CLIPS, reading=ReadingConfig(max_seconds=5.0))


@pytest.mark.parametrize("name", ["max_pixels", "max_scans", "max_seconds"])
def test_a_limit_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be more than 0"):
        ReadingConfig(**{name: 0})


def test_inspect_takes_limits_as_options(tmp_path, capsys):
    root = write(tmp_path / "root" / "a", 2, encode(smooth(20, 30), "PNG")).parent
    for words, status, shown in [
        ((), 0, ""), (("--max-pixels", "599"), 2, "the 599 allowed by max_pixels"),
    ]:  # fmt: skip
        with pytest.raises(SystemExit) as stop:
            main(["inspect", str(root), *words])
        assert stop.value.code == status and shown in capsys.readouterr().err
