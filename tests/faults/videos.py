"""Hostile videos from a seed, and the right answer to each: what a plain linear decode gives.

Containers and codecs of several kinds, as written, turned and mirrored by their display matrix, or
damaged. A whole video must give the frames that were written, in order, turned as its matrix is; a
damaged one frames that a plain decode gives too, or that were written.
"""

import struct
import warnings
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from io import BytesIO
from itertools import islice
from pathlib import Path

import av
import numpy as np

from faults.mutate import DAMAGES, any_of, splice
from faults.verdicts import Outcome, Verdict, of_error
from patchpack.data.video.decode import decode_frames, read_header

FRAMES = 14
CONTAINERS = (
    ("mp4", "libx264"), ("mov", "mpeg4"), ("matroska", "libx264"), ("avi", "mpeg4"),
    ("webm", "libvpx"), ("mpegts", "mpeg2video"), ("mp4", "mpeg4"),
)  # fmt: skip
SUFFIXES = {"mpegts": ".m2ts", "matroska": ".mkv"}
# (a, b, c, d) of a display matrix → what it does to frames [t, h, w, 3]
ONE = 1 << 16
TURNS = {
    (ONE, 0, 0, ONE): lambda f: f,
    (0, ONE, -ONE, 0): lambda f: np.rot90(f, -1, (1, 2)),
    (-ONE, 0, 0, -ONE): lambda f: np.rot90(f, 2, (1, 2)),
    (0, -ONE, ONE, 0): lambda f: np.rot90(f, 1, (1, 2)),
    (-ONE, 0, 0, ONE): lambda f: f[:, :, ::-1],
    (ONE, 0, 0, -ONE): lambda f: f[:, ::-1],
    (0, ONE, ONE, 0): lambda f: f.transpose(0, 2, 1, 3),
    (0, -ONE, -ONE, 0): lambda f: np.rot90(f, 2, (1, 2)).transpose(0, 2, 1, 3),
}


@dataclass(frozen=True)
class HostileVideo:
    """A file, how it was made, its upright frames before any damage, and whether it has any."""

    name: str
    suffix: str
    data: bytes
    frames: np.ndarray  # [t, h, w, 3]
    whole: bool


def hostile_video(seed: int) -> HostileVideo:
    """The video of a seed: a quarter are whole, the others damaged in one or two ways."""
    rng = np.random.default_rng([2, seed])
    number = int(rng.integers(len(CONTAINERS)))
    (format, codec), data = CONTAINERS[number], _bases()[number]
    name, suffix = f"{format} {codec}", SUFFIXES.get(format, f".{format}")
    frames = _decoded(number)
    if format in ("mp4", "mov") and rng.random() < 0.6:
        matrix = any_of(tuple(TURNS), rng)
        data, frames = _with_matrix(data, matrix), TURNS[matrix](frames)
        name += f", matrix {tuple(value // ONE for value in matrix)}"
    if rng.random() < 0.25:
        return HostileVideo(name, suffix, data, frames, True)
    if rng.random() < 0.1:
        data = splice(data, any_of(_bases(), rng), rng)
        return HostileVideo(f"{name}, spliced", suffix, data, frames, False)
    for _ in range(int(rng.integers(1, 3))):
        mutation = any_of(DAMAGES, rng)
        data = mutation(data, rng) if data else data
        name += f", {mutation.__name__}"
    return HostileVideo(name, suffix, data, frames, False)


@cache
def _bases() -> tuple[bytes, ...]:
    return tuple(_film(format, codec) for format, codec in CONTAINERS)


def _film(format: str, codec: str) -> bytes:
    """A clip of 48 x 32 px whose corners differ and whose frames grow brighter."""
    file = BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 48, 32, "yuv420p", 6
        if codec == "libx264":
            stream.options = {"crf": "10", "bf": "2"}
        for number in range(FRAMES):
            frame = np.full((32, 48, 3), 20 + 10 * number, np.uint8)
            frame[:12, :20], frame[20:, 30:, 0] = 255, 0
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


@cache
def _decoded(number: int) -> np.ndarray:
    with av.open(BytesIO(_bases()[number])) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def _with_matrix(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """An MP4 whose track has another display matrix."""
    at = data.index(b"tkhd") + 4 + 40  # version 0: times, id, duration, layer, volume
    a, b, c, d = matrix
    return data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :]


def check_video(seed: int, folder: Path, _: Path) -> Outcome:
    """Read the header and four frames of the video of a seed, and compare with a linear decode."""
    hostile = hostile_video(seed)
    path = folder / f"video{hostile.suffix}"
    path.write_bytes(hostile.data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Outcome(hostile.name, *_compare(hostile, path))


def _compare(hostile: HostileVideo, path: Path) -> tuple[Verdict, str]:
    try:
        header = read_header(path)
        numbers = sorted({int(k * (min(header.frames, 10_000) - 1)) for k in (0, 0.3, 0.6, 1)})
        pixels = list(decode_frames(path, numbers, header.rate, key="the key"))
    except Exception as error:
        verdict, detail = of_error(error, ("the key", str(path)))
        if verdict == Verdict.REFUSED and hostile.whole:
            return Verdict.UNCLEAR, f"a whole file is refused: {detail}"
        return verdict, detail
    if len(pixels) != len(numbers):
        return Verdict.SILENT, f"{len(pixels)} frames of {len(numbers)}"
    if not hostile.whole:
        return _among(hostile, path, pixels)
    if header.frames != len(hostile.frames):
        return Verdict.SILENT, f"{header.frames} frames, not {len(hostile.frames)}"
    expected = hostile.frames[numbers]
    if pixels[0].shape != expected[0].shape or header[:2] != expected[0].shape[:2]:
        return Verdict.SILENT, f"size {header[:2]}, {pixels[0].shape}, not {expected[0].shape}"
    off = int(np.abs(expected.astype(int) - np.stack(pixels)).max())
    return (Verdict.SILENT, f"off by {off}") if off else (Verdict.RIGHT, "")


def _among(hostile: HostileVideo, path: Path, pixels: list[np.ndarray]) -> tuple[Verdict, str]:
    """Whether each frame of a damaged video is one that a plain decode gives, or that the film had
    before the damage: no picture is made up."""
    plain = [frame for past_damage in (False, True) for frame in _all_frames(path, past_damage)]
    if not plain:
        return Verdict.SILENT, "frames, where a plain decode gives none"
    turned = [np.rot90(frame, k) for frame in plain for k in range(4)]
    turned += [frame[:, ::-1] for frame in turned]
    known = {(frame.shape, frame.tobytes()) for frame in [*turned, *hostile.frames]}
    wrong = [k for k, frame in enumerate(pixels) if (frame.shape, frame.tobytes()) not in known]
    return (Verdict.SILENT, f"frames {wrong} of 4 are made up") if wrong else (Verdict.RIGHT, "")


def _all_frames(path: Path, past_damage: bool) -> list[np.ndarray]:
    """Frames in order, up to the first error or to the end."""
    frames = []
    with suppress(av.FFmpegError, OSError, ValueError), av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for packet in islice(container.demux(stream), 10_000):
            try:
                frames += [frame.to_ndarray(format="rgb24") for frame in packet.decode()]
            except av.FFmpegError:
                if not past_damage:
                    break
    return frames
