"""Clips on disk: video files, through PyAV, and folders of frames.

Frame k of a clip is the one that is shown at the time (k + ½) / rate, so that a clip of a changing
frame rate is sampled evenly in time. Frames are decoded where they are asked for: from the last key
frame before, when that is nearer than the place reached so far.

Whatever is wrong with a file, the error is a BadImage that names it.

Traps: WebM tells no number of frames, so packets are counted there, and its rate need not be that
of its frames; a phone's video lies on its side, and only a decoded frame says so; pixels of old
formats are not square; MPEG streams have no index, so a seek in them may land anywhere; a text file
may name other files to be read.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from patchpack.data.images import (
    MAX_PIXELS,
    SUFFIXES,
    BadImage,
    Pixels,
    decode,
    explain_error,
    read_size,
    require_regular_file,
)

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .webm .mkv .avi .mpg .mpeg .ogv .wmv .flv .3gp .m2ts".split()
)
FOLDER_RATE = Fraction(25)  # frames a second of a folder of frames, which tells none
SEEK = 1.0  # seconds that are decoded at first rather than sought across
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,ogg,asf,flv"
UNINDEXED = ("mpeg", "mpegvideo", "mpegts")  # are decoded from the start
SAME_RATE = 0.02  # by how much a measured rate may differ from the one that a file tells
MISSING = "videos are read with PyAV: pip install 'patchpack[video]'"


class VideoHeader(NamedTuple):
    """What a clip's file says of it."""

    height: int  # px, upright, of square pixels
    width: int
    frames: int
    rate: Fraction  # frames a second


def read_header(path: str | os.PathLike[str]) -> VideoHeader:
    """Size, length and rate of a clip, its first frame decoded; raises BadImage, and ImportError
    for a video file without PyAV."""
    key = os.fspath(path)
    if os.path.isdir(path):
        frames = frames_in(Path(path), key)
        return VideoHeader(*read_size(frames[0]), len(frames), FOLDER_RATE)
    _need_av()
    try:
        with _open(path) as container:
            stream = _stream(container)
            first = next(container.decode(stream), None)
            if first is None:
                raise BadImage(key, "has no frames")
            size = _shown_size(first, stream)
            told = stream.average_rate or stream.guessed_rate or FOLDER_RATE
            frames, rate = stream.frames, Fraction(told)
        if not frames:
            with _open(path) as container:
                frames, rate = _count_packets(container, _stream(container), rate)
        return VideoHeader(*size, max(1, frames), rate)
    except Exception as error:
        raise BadImage(key, _reason(error)) from error


def decode_frames(
    path: str | os.PathLike[str], numbers: Sequence[int], rate: Fraction | float, *, key: str
) -> Iterator[Pixels]:
    """Frames of a clip by their numbers, ascending, one at a time; its last for those beyond.

    Raises BadImage for what cannot be read.
    """
    if os.path.isdir(path):
        frames = frames_in(Path(path), key)
        for number in numbers:
            path = frames[min(number, len(frames) - 1)]
            try:
                yield decode(path, key=key)
            except BadImage as error:
                raise BadImage(key, f"its frame {path.name} {error.reason}") from error
        return
    _need_av()
    try:
        with _open(path) as container:
            stream = _stream(container)
            for frame in _shown_at(container, stream, [(k + 0.5) / float(rate) for k in numbers]):
                yield _pixels(frame)
    except Exception as error:  # decoders raise anything at all on hostile files
        raise BadImage(key, _reason(error)) from error


def frames_in(folder: Path, key: str) -> list[Path]:
    """The frames of a folder: by name, and by number where names hold numbers; raises BadImage."""
    try:
        names = [n for n in os.listdir(folder) if os.path.splitext(n)[1].lower() in SUFFIXES]
    except OSError as error:
        raise BadImage(key, explain_error(error)) from error
    names = [name for name in names if not name.startswith(".")]
    if not names:
        raise BadImage(key, "has no frames")
    return [folder / name for name in sorted(names, key=_by_number)]


def _by_number(name: str) -> list[tuple[int, int, str]]:
    """frame9 before frame10."""
    return [
        (0, int(part), part) if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", name)
        if part
    ]


def _need_av() -> None:
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{MISSING} ({error})") from error


def _open(path: str | os.PathLike[str]) -> "InputContainer":
    import av

    require_regular_file(path)
    if os.path.splitext(path)[1].lower() in SUFFIXES:
        raise BadImage("", "is an image, not a clip")
    # An absolute path: so no name is taken for the address of a server.
    return av.open(os.path.abspath(path), options={"format_whitelist": FORMATS})


def _stream(container: "InputContainer") -> "VideoStream":
    if not container.streams.video:
        raise BadImage("", "has no frames")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise BadImage("", "is of a kind of video that cannot be decoded")
    stream.thread_type = "NONE"  # clips are loaded in parallel, each on one core
    if stream.width * stream.height > MAX_PIXELS:
        raise BadImage("", f"{stream.width} x {stream.height} pixels are more than allowed")
    return stream


def _count_packets(
    container: "InputContainer", stream: "VideoStream", told: Fraction
) -> tuple[int, Fraction]:
    """Frames of a video that tells no number of them, and how many there are a second: what it
    tells, unless the times of its frames say otherwise."""
    times = list(_times(container, stream))
    known = [time for time in times if time is not None]
    grid_extents = max(known, default=0) - min(known, default=0)
    if not grid_extents or not stream.time_base:
        return len(times), told
    measured = Fraction(len(known) - 1) / (grid_extents * stream.time_base)
    if abs(measured / told - 1) < SAME_RATE:
        return len(times), told
    return len(times), measured.limit_denominator(10_000)


def _times(container: "InputContainer", stream: "VideoStream") -> Iterator[int | None]:
    """Of the packets of a video, as far as it is not damaged."""
    import av

    with suppress(av.FFmpegError):
        for packet in container.demux(stream):
            if packet.size:
                yield packet.pts


def _shown_size(frame: "VideoFrame", stream: "VideoStream") -> tuple[int, int]:
    """(height, width)"""
    shape = stream.sample_aspect_ratio or 1
    height, width = frame.height, max(1, round(frame.width * shape))
    return (width, height) if frame.rotation % 180 else (height, width)


def _pixels(frame: "VideoFrame") -> Pixels:
    """Upright RGB, as stored: pixels that are not square stay so until they are resized."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def _shown_at(
    container: "InputContainer", stream: "VideoStream", times: Sequence[float]
) -> Iterator["VideoFrame"]:
    """The frame that is shown at each of these times, ascending, in seconds from the start."""
    walk = _FrameReader(container, stream)
    start = (stream.start_time or 0) * walk.tick
    for time in times:
        yield walk.to(start + time)


class _FrameReader:
    """A way through a video: the frame that was reached, and the one after it."""

    def __init__(self, container: "InputContainer", stream: "VideoStream") -> None:
        self.container, self.stream, self.gap = container, stream, SEEK
        if any(name in UNINDEXED for name in container.format.name.split(",")):
            self.gap = inf
        self.tick = float(stream.time_base or Fraction(1, 1000))  # seconds
        self._begin()

    def _begin(self) -> None:
        self.frames = self.container.decode(self.stream)
        self.reached: Any = next(self.frames, None)
        if self.reached is None:
            raise BadImage("", "has no frames")
        self.ahead: Any = self._next()

    def _next(self) -> "VideoFrame | None":
        """The next frame that can be decoded; none at the end, or where the file is damaged."""
        import av

        try:
            return next(self.frames, None)
        except av.FFmpegError:
            return None

    def to(self, time: float) -> "VideoFrame":
        """On to the last frame that begins by then."""
        if time - _time(self.reached) > self.gap:
            self._seek(time)
        while self.ahead is not None and _time(self.ahead) <= time:
            self.reached, self.ahead = self.ahead, self._next()
        return self.reached

    def _seek(self, time: float) -> None:
        """To the last key frame before a time."""
        before = self.reached, self.ahead
        self.container.seek(round(time / self.tick), stream=self.stream)
        self.frames = self.container.decode(self.stream)
        self.reached = self._next()
        self.ahead = self._next()
        if self.reached is None:  # nothing is left from there on
            self.reached, self.ahead = before
        elif _time(self.reached) > time:  # it landed too late
            self.container.seek(self.stream.start_time or 0, stream=self.stream)
            self._begin()
        elif _time(self.reached) <= _time(before[0]):  # nothing gained: key frames are far apart
            self.gap *= 2


def _time(frame: "VideoFrame") -> float:
    if frame.time is None:
        raise BadImage("", "has frames that tell no time")
    return frame.time


def _reason(error: Exception) -> str:
    if isinstance(error, BadImage):
        return error.reason
    if type(error).__name__ in ("InvalidDataError", "EOFError", "ArgumentError"):
        return "is not a video, or is empty or damaged"
    return explain_error(error)
