"""Headers and requested frames of video files and folders of frames."""

import struct
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from films import ramp, write_frames, write_video
from patchpack.data.images import BadImage
from patchpack.data.video.decode import decode_frames, read_header

CONTAINERS = {
    ".mp4": "libx264", ".mkv": "libx264", ".avi": "mpeg4", ".webm": "libvpx-vp9",
    ".m2ts": "libx264", ".mpg": "mpeg2video",
}  # fmt: skip


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_every_container_gives_the_requested_frames(tmp_path, suffix):
    """Frames may be seconds apart, and containers may have no index."""
    path = write_video(tmp_path / f"a{suffix}", ramp(), rate=25, codec=CONTAINERS[suffix])
    header = read_header(path)
    assert header == (32, 48, 60, Fraction(25))
    for numbers in ([0, 1, 2], [5], [0, 59], [45, 46, 58], [0, 20, 40, 59], [33, 33, 34]):
        means = [frame.mean() for frame in decode_frames(path, numbers, header.rate, key="a")]
        assert np.abs(np.array(means) - 4 * np.array(numbers)).max() < 4.5
        assert means == sorted(means)


def test_seeking_and_decoding_give_the_same_pixels(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", ramp(), rate=10)
    frames = list(decode_frames(path, range(60), 10, key="a"))
    seeks: list[float] = []
    original = av.container.InputContainer.seek

    class Counting:
        def __init__(self, container):
            self.container, self.streams = container, container.streams
            self.format = container.format

        def __enter__(self):
            return self

        def __exit__(self, *rest):
            self.container.close()

        def decode(self, stream):
            return self.container.decode(stream)

        def seek(self, time, **options):
            seeks.append(time)
            return original(self.container, time, **options)

    av_open = av.open
    monkeypatch.setattr(av, "open", lambda path, **options: Counting(av_open(path, **options)))
    numbers = [3, 31, 32, 59, 80]
    decoded = list(decode_frames(path, numbers, 10, key="a"))
    assert len(seeks) == 3  # to 31, to 59, and past the end
    for frame, number in zip(decoded, numbers, strict=True):
        assert np.array_equal(frame, frames[min(number, 59)])


def test_no_picture_starts_at_a_frame_that_is_no_key_frame(tmp_path):
    """A table of key frames that is wrong by four frames changes no pixel."""
    path = write_video(tmp_path / "a.mp4", ramp() // 4, rate=10, codec="mpeg4")
    expected = list(decode_frames(path, range(60), 10, key="a"))
    data = bytearray(path.read_bytes())
    at = data.index(b"stss") + 8  # after version and flags
    (count,) = struct.unpack_from(">I", data, at)
    (last,) = struct.unpack_from(">I", data, at + 4 * count)
    struct.pack_into(">I", data, at + 4 * count, last + 4)
    path.write_bytes(data)
    numbers = [0, last + 4, 59]
    frames = list(decode_frames(path, numbers, 10, key="a"))
    assert all(np.array_equal(expected[n], f) for n, f in zip(numbers, frames, strict=True))


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "libx264"), (".webm", "libvpx-vp9")])
def test_a_variable_frame_rate_is_sampled_evenly_in_time(tmp_path, suffix, codec):
    """The duration follows from frame times if the stored rate differs."""
    path = tmp_path / f"a{suffix}"
    times = [0, 1, 2, 3, 10, 11, 12, 19]  # frame starts in tenths of a second
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(ramp()[4 * number], format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    decoded = decode_frames(path, [0, 5, 9, 12, 18, 19], 10, key="a")
    # Displayed at 0.05 s, 0.55 s, …
    assert [round(f.mean() / 16) for f in decoded] == [0, 3, 3, 6, 6, 7]
    header = read_header(path)
    assert header.frames / header.rate == pytest.approx(1.9 * 8 / 7, rel=0.01)
    ends = decode_frames(path, [0, header.frames - 1], header.rate, key="a")
    assert [round(f.mean() / 16) for f in ends] == [1, 7]  # at 0.14 and 2.04 s


VARIABLE = {  # frame starts in hundredths of a second
    "slow at the end": [*range(0, 40, 2), *range(40, 240, 20)],
    "fast at the end": [*range(0, 200, 20), *range(200, 240, 2)],
    "long last gap": [*range(0, 60, 2), 200],
    "pairs": [0, 2, 30, 32, 60, 62, 90, 92, 120, 122],
}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("between", ["0", "3"])
@pytest.mark.parametrize("name", VARIABLE)
def test_the_last_frame_of_a_variable_rate_is_seen(tmp_path, name, between, suffix):
    """MP4 stores its length in the order of decoding, which B-frames change."""
    times, path = VARIABLE[name], tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=100)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        stream.options = {"crf": "1", "bf": between, "b-adapt": "0"}
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(ramp()[number], format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    header = read_header(path)
    numbers = range(header.frames)
    seen = [round(f.mean() / 4) for f in decode_frames(path, numbers, header.rate, key="a")]
    assert header.frames == len(times) and seen[0] in (0, 1) and seen[-1] == len(times) - 1
    # The rate spreads all frames over the time from the first to the last.
    assert (header.frames - 1) / header.rate == pytest.approx(times[-1] / 100, abs=0.005)


def test_rotation_metadata_is_applied(tmp_path):
    """A bright top left corner moves to the top right when the video is rotated clockwise."""
    frames = np.zeros((5, 32, 48, 3), np.uint8)
    frames[:, :12, :12] = 255
    path = write_video(tmp_path / "a.mp4", frames)
    data = bytearray(path.read_bytes())
    header = data.find(b"tkhd") + 4  # its matrix follows 40 bytes of other fields
    for index, value in enumerate((0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)):
        struct.pack_into(">i", data, header + 40 + 4 * index, value)
    path.write_bytes(data)
    header = read_header(path)
    (frame,) = decode_frames(path, [2], header.rate, key="a")
    assert header[:2] == frame.shape[:2] == (48, 32)
    assert frame[:12, -12:].mean() > 200 and frame[:12, :12].mean() < 50 > frame[-12:, :12].mean()


def test_non_square_pixels_and_a_start_time_above_zero(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(ramp()[4 * number], format="rgb24")
            frame.pts, frame.time_base = 70 + number, Fraction(1, 10)  # starts at 7 s
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    header = read_header(path)
    assert header[:3] == (32, 96, 10)
    decoded = decode_frames(path, [0, 4, 9], header.rate, key="a")
    assert [round(f.mean() / 16) for f in decoded] == [0, 4, 9]


def test_folders_of_frames_are_clips_in_natural_order(tmp_path):
    folder = write_frames(tmp_path / "walk", ramp(12))
    assert read_header(folder) == (32, 48, 12, Fraction(25))
    decoded = decode_frames(folder, [0, 2, 9, 10, 11, 40], 25, key="a")
    assert [f.mean() / 4 for f in decoded] == [0, 2, 9, 10, 11, 11]


def test_errors_name_the_clip_and_the_reason(tmp_path):
    video = write_video(tmp_path / "whole.mp4", ramp())
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:1500])
    (tmp_path / "none").mkdir()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        samples = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile whole.mp4\n")
    Image.fromarray(ramp()[0]).save(tmp_path / "image.png")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "._f.png").touch()
    write_frames(tmp_path / "torn", ramp(3))
    (tmp_path / "torn" / "frame2.png").write_bytes(b"x")
    with pytest.raises(BadImage, match=r"^clip: its frame frame2\.png is not an image"):
        list(decode_frames(tmp_path / "torn", [0, 2], 10, key="clip"))
    for name, reason in {
        "list.mp4": "is not a video", "image.png": "is an image, not a clip",
        "hidden": "has no frames", "text.mp4": "is not a video",
        "empty.mp4": "is not a video", "cut.mp4": "is not a video",
        "none": "has no frames", "sound.mp4": "has no frames", "away.mp4": "there is no such file",
    }.items():  # fmt: skip
        with pytest.raises(BadImage, match=reason):
            read_header(tmp_path / name)
        with pytest.raises(BadImage, match=f"^clip: {reason}"):
            list(decode_frames(tmp_path / name, [0], 10, key="clip"))


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_file_damaged_in_the_middle_gives_its_readable_frames(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)
    path = write_video(tmp_path / f"a{suffix}", noise, codec=CONTAINERS[suffix])
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 10] = bytes(len(data) // 10)
    path.write_bytes(data)
    frames = list(decode_frames(path, [0, 10, 39], 10, key="a"))
    assert len(frames) == 3 and not np.array_equal(frames[0], frames[1])


def test_a_truncated_file_repeats_its_last_readable_frame(tmp_path):
    path = write_video(tmp_path / "a.mkv", ramp())
    truncated = tmp_path / "truncated.mkv"
    truncated.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    first, *rest = (f.mean() for f in decode_frames(truncated, [0, 57, 58, 59], 10, key="a"))
    assert first < 4 and len({round(x) for x in rest}) == 1 and 40 < rest[0] < 200


def test_without_pyav_videos_raise_and_folders_are_read(tmp_path):
    write_frames(tmp_path / "walk", ramp(3))
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from patchpack.data.video.decode import read_header\n"
        f"print(read_header({str(tmp_path / 'walk')!r}).frames)\n"
        f"try: read_header({str(tmp_path / 'a.mp4')!r})\n"
        "except ImportError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("3\nreading videos needs PyAV: pip install 'patchpack[video]'")
