"""A machine that fails is no damaged file: reading is repeated, then an error stops the command."""

import builtins
import errno
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from films import ramp, write_frames, write_video
from image_files import encode, smooth
from patchpack.cli import main
from patchpack.data import read_errors
from patchpack.data.annotations.masks import MaskSpec, read_mask
from patchpack.data.images import BadImage, decode, read_size
from patchpack.data.index import build_index
from patchpack.data.read_errors import PAUSES, ReadError
from patchpack.data.video import decode as video
from patchpack.data.video.decode import decode_frames, read_header

ATTEMPTS = len(PAUSES) + 1
MACHINE = [errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN,
           errno.ENOMEM, errno.EINTR]  # fmt: skip


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    assert sum(PAUSES) <= 1
    monkeypatch.setattr(read_errors, "PAUSES", (0.0,) * len(PAUSES))


@pytest.fixture
def failing_open(monkeypatch):
    """Make `open` fail: a function that takes the error, and how often it occurs."""
    original = builtins.open
    failures: list[Exception] = []

    def failing(*args, **options):
        if failures:
            raise failures.pop()
        return original(*args, **options)

    monkeypatch.setattr(builtins, "open", failing)
    return lambda error, times: failures.extend([error] * times)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(smooth(9, 7), "PNG"))
    return path


def readers(image):
    """Every way to read an image file, and what it returns."""
    size = (9, 7)
    mask = image.with_name("mask.png")
    mask.write_bytes(encode(np.ones(size, np.uint8), "PNG"))
    return {
        "size": lambda: read_size(image) == size,
        "pixels": lambda: decode(image, key=str(image)).shape[:2] == size,
        "mask": lambda: read_mask(MaskSpec(mask, 2, None), size, str(image)).all(),
    }


@pytest.mark.parametrize("name", ["size", "pixels", "mask"])
@pytest.mark.parametrize("number", MACHINE)
def test_reading_is_repeated_and_then_stops(name, number, image, failing_open):
    read = readers(image)[name]
    error = OSError(number, os.strerror(number))
    failing_open(error, ATTEMPTS - 1)
    assert read()
    failing_open(error, ATTEMPTS)
    with pytest.raises(ReadError) as stop:
        read()
    assert not isinstance(stop.value, BadImage) and stop.value.key == str(image)
    assert f"{ATTEMPTS} times" in str(stop.value)
    failing_open(OSError(errno.EACCES, "Permission denied"), 1)
    with pytest.raises(BadImage, match="permission denied"):  # no second attempt
        read()


def test_a_failing_stat_and_a_failing_listing_are_repeated(image, tmp_path, monkeypatch):
    folder = write_frames(tmp_path / "frames", ramp(3))
    for name, read in {
        "stat": lambda: read_size(image), "listdir": lambda: read_header(folder),
    }.items():  # fmt: skip
        expected, original, failures = read(), getattr(os, name), []

        def failing(*args, original=original, failures=failures, **options):
            if failures:
                raise failures.pop()
            return original(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing)
            failures += [OSError(errno.ESTALE, "Stale file handle")]
            assert read() == expected and not failures


def test_missing_memory_is_no_damage(image, monkeypatch):
    def fails(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", fails)
    monkeypatch.setattr(read_errors, "has_memory", lambda pixels: False)
    monkeypatch.setattr("patchpack.data.images.has_memory", lambda pixels: False)
    with pytest.raises(ReadError, match="not enough memory"):
        decode(image, key="a")
    monkeypatch.setattr("patchpack.data.images.has_memory", lambda pixels: True)
    with pytest.raises(BadImage, match="is damaged"):  # the file requests more than its size
        decode(image, key="a")


def test_a_whole_png_in_little_memory_is_not_damaged(tmp_path):
    """With enough memory for Python and not for the pixels."""
    path = tmp_path / "large.png"
    Image.new("RGB", (7000, 6000)).save(path, compress_level=1)
    code = (
        "import resource, sys\n"
        "from patchpack.data.images import decode\n"
        "from patchpack.data.read_errors import ReadError\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 150_000_000,) * 2)\n"
        f"try: decode({str(path)!r}, key='large')\n"
        "except ReadError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "large: cannot be read (there is not enough memory)" in run.stdout, run.stderr


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM, errno.EMFILE])
def test_videos_are_read_again_too(number, tmp_path, monkeypatch):
    import av

    path = write_video(tmp_path / "a.mp4", ramp(20), rate=10)
    whole = list(decode_frames(path, [0, 9, 19], 10, key="a"))
    failures: list[int] = []
    original = video._open

    def failing(path):
        if failures:
            av.error.err_check(-failures.pop(), str(path))
        return original(path)

    monkeypatch.setattr(video, "_open", failing)
    failures += [number] * (ATTEMPTS - 1)
    assert read_header(path).frames == 20 and not failures
    failures += [number] * (ATTEMPTS - 1)
    assert all(map(np.array_equal, decode_frames(path, [0, 9, 19], 10, key="a"), whole))
    monkeypatch.setattr(video, "has_memory", lambda pixels: False)
    monkeypatch.setattr(video, "has_readable_bytes", lambda path: False)
    for read in (lambda: read_header(path), lambda: list(decode_frames(path, [0], 10, key="a"))):
        failures[:] = [number] * ATTEMPTS
        with pytest.raises(ReadError, match=f"{ATTEMPTS} times"):
            read()


def test_frames_continue_where_reading_failed(tmp_path, monkeypatch):
    """A failure in the middle neither repeats nor skips a frame, and is not taken for the end."""
    import av

    path = write_video(tmp_path / "a.mp4", ramp(20), rate=10)
    whole = list(decode_frames(path, range(20), 10, key="a"))
    original, calls = video._FrameReader._next, []

    def failing(self):
        calls.append(1)
        if len(calls) == 8:
            av.error.err_check(-errno.EIO, "a")
        return original(self)

    monkeypatch.setattr(video._FrameReader, "_next", failing)
    frames = list(decode_frames(path, range(20), 10, key="a"))
    assert len(frames) == 20 and all(map(np.array_equal, frames, whole))


@pytest.mark.parametrize("number", [errno.EIO, errno.EAGAIN])
def test_damage_that_decoders_report_as_a_failed_disk_is_damage(number, tmp_path, monkeypatch):
    import av

    path = write_video(tmp_path / "a.mp4", ramp(20), rate=10)
    monkeypatch.setattr(video, "_open", lambda path: av.error.err_check(-number, str(path)))
    with pytest.raises(BadImage, match="is damaged"):
        read_header(path)


def test_errors_of_ffmpeg_are_explained_without_their_number_and_path(tmp_path, monkeypatch):
    import av

    path = write_video(tmp_path / "a.mp4", ramp(2), rate=10)
    number = -int.from_bytes(b"PAWE", "little")
    monkeypatch.setattr(video, "_open", lambda path: av.error.err_check(number, str(path)))
    with pytest.raises(BadImage) as error:
        read_header(path)
    assert error.value.reason.startswith("is damaged (Not yet implemented")
    assert "Errno" not in error.value.reason and "a.mp4" not in error.value.reason


def test_errors_can_be_pickled():
    error = pickle.loads(pickle.dumps(ReadError("a/b.jpg", "cannot be read")))
    assert isinstance(error, ReadError) and not isinstance(error, ValueError)
    assert (error.key, str(error)) == ("a/b.jpg", "a/b.jpg: cannot be read")


def test_the_index_and_a_command_stop(tmp_path, failing_open, capsys):
    (tmp_path / "root" / "a").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "root" / "a" / f"{number}.png").write_bytes(encode(smooth(9, 7), "PNG"))
    error = OSError(errno.EIO, "Input/output error")
    failing_open(error, ATTEMPTS)
    with pytest.raises(ReadError, match=r"0\.png: cannot be read \(Input/output error\)"):
        build_index(tmp_path / "root", max_bad_fraction=1.0)
    failing_open(error, ATTEMPTS)
    with pytest.raises(SystemExit) as stop:
        main(["inspect", str(tmp_path / "root")])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1
