"""Decode video files, through PyAV, and folders of frames.

Frame k of a clip is the frame displayed at time (k + ½) / rate, so a clip with a variable frame
rate is sampled evenly in time. Only requested frames are decoded, from the last key frame before
them if that is closer than the current position.

Every failure to read a file raises BadImage with the file's key.

Traps: WebM stores no frame count, so packets are counted, and its rate may differ from that of its
frames; a phone's video may be rotated, and only a decoded frame has the rotation; old formats have
non-square pixels; MPEG streams have no index, so a seek may land anywhere; a text file (a playlist)
may make FFmpeg read other files.
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
FOLDER_RATE = Fraction(25)  # assumed frames per second of a folder of frames
SEEK = 1.0  # initial gap in seconds above which the reader seeks instead of decoding
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,ogg,asf,flv"
UNINDEXED = ("mpeg", "mpegvideo", "mpegts")  # formats without seeking, decoded from the start
SAME_RATE = 0.02  # maximum relative difference of measured and stored frame rate


class VideoHeader(NamedTuple):
    """Size, length and frame rate of a clip."""

    height: int  # pixels, upright, for square pixels
    width: int  # pixels, upright, for square pixels
    frames: int  # number of frames
    rate: Fraction  # frames per second


def read_header(path: str | os.PathLike[str]) -> VideoHeader:
    """Read size, length and frame rate of a clip; this decodes the first frame.

    Raises BadImage for an unreadable clip, and ImportError for a video file without PyAV.
    """
    key = os.fspath(path)
    if os.path.isdir(path):
        frames = frames_in(Path(path), key)
        return VideoHeader(*read_size(frames[0]), len(frames), FOLDER_RATE)
    _require_av()
    try:
        with _open(path) as container:
            stream = _stream(container)
            first = next(container.decode(stream), None)
            if first is None:
                raise BadImage(key, "has no frames")
            size = _display_size(first, stream)
            rate = Fraction(stream.average_rate or stream.guessed_rate or FOLDER_RATE)
            frames = stream.frames
        if not frames:
            with _open(path) as container:
                frames, rate = _count_packets(container, _stream(container), rate)
        return VideoHeader(*size, max(1, frames), rate)
    except Exception as error:
        raise BadImage(key, _reason(error)) from error


def decode_frames(
    path: str | os.PathLike[str], numbers: Sequence[int], rate: Fraction | float, *, key: str
) -> Iterator[Pixels]:
    """Yield frames of a clip by ascending frame numbers; numbers past the end give the last frame.

    Raises BadImage for an unreadable clip.
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
    _require_av()
    try:
        with _open(path) as container:
            stream = _stream(container)
            for frame in _frames_at(container, stream, [(k + 0.5) / float(rate) for k in numbers]):
                yield _pixels(frame)
    except Exception as error:  # decoders raise exceptions of any type on hostile files
        raise BadImage(key, _reason(error)) from error


def frames_in(folder: Path, key: str) -> list[Path]:
    """List the frames of a folder in natural order of their names; raise BadImage without any."""
    try:
        names = [n for n in os.listdir(folder) if os.path.splitext(n)[1].lower() in SUFFIXES]
    except OSError as error:
        raise BadImage(key, explain_error(error)) from error
    names = [name for name in names if not name.startswith(".")]
    if not names:
        raise BadImage(key, "has no frames")
    return [folder / name for name in sorted(names, key=_by_number)]


def _by_number(name: str) -> list[tuple[int, int, str]]:
    """Return a key for natural order: frame9 before frame10."""
    return [
        (0, int(part), part) if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", name)
        if part
    ]


def _require_av() -> None:
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"reading videos needs PyAV: pip install 'patchpack[video]' ({error})"
        ) from error


def _open(path: str | os.PathLike[str]) -> "InputContainer":
    import av

    require_regular_file(path)
    if os.path.splitext(path)[1].lower() in SUFFIXES:
        raise BadImage("", "is an image, not a clip")
    # An absolute path, so that no name is read as a URL.
    return av.open(os.path.abspath(path), options={"format_whitelist": FORMATS})


def _stream(container: "InputContainer") -> "VideoStream":
    if not container.streams.video:
        raise BadImage("", "has no frames")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise BadImage("", "has a video codec that cannot be decoded")
    stream.thread_type = "NONE"  # clips are loaded in parallel, each on a single core
    if stream.width * stream.height > MAX_PIXELS:
        raise BadImage(
            "", f"{stream.width} x {stream.height} pixels are more than the {MAX_PIXELS:,} allowed"
        )
    return stream


def _count_packets(
    container: "InputContainer", stream: "VideoStream", rate: Fraction
) -> tuple[int, Fraction]:
    """Count the frames of a video without a stored count, and correct its rate by their times."""
    times = list(_packet_times(container, stream))
    present = [time for time in times if time is not None]
    duration = max(present, default=0) - min(present, default=0)
    if not duration or not stream.time_base:
        return len(times), rate
    measured = Fraction(len(present) - 1) / (duration * stream.time_base)
    if abs(measured / rate - 1) < SAME_RATE:
        return len(times), rate
    return len(times), measured.limit_denominator(10_000)


def _packet_times(container: "InputContainer", stream: "VideoStream") -> Iterator[int | None]:
    """Yield the times of a video's packets up to its first damaged packet."""
    import av

    with suppress(av.FFmpegError):
        for packet in container.demux(stream):
            if packet.size:
                yield packet.pts


def _display_size(frame: "VideoFrame", stream: "VideoStream") -> tuple[int, int]:
    """Return the upright (height, width) for square pixels."""
    pixel_aspect = stream.sample_aspect_ratio or 1
    height, width = frame.height, max(1, round(frame.width * pixel_aspect))
    return (width, height) if frame.rotation % 180 else (height, width)


def _pixels(frame: "VideoFrame") -> Pixels:
    """Return a frame as upright RGB; non-square pixels are corrected later by resizing."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def _frames_at(
    container: "InputContainer", stream: "VideoStream", times: Sequence[float]
) -> Iterator["VideoFrame"]:
    """Yield the frame displayed at each time, ascending, in seconds from the start."""
    reader = _FrameReader(container, stream)
    start = (stream.start_time or 0) * reader.tick
    for time in times:
        yield reader.advance(start + time)


class _FrameReader:
    """Read frames of a video in order; hold the current frame and the following one."""

    def __init__(self, container: "InputContainer", stream: "VideoStream") -> None:
        self.container, self.stream, self.gap = container, stream, SEEK
        if any(name in UNINDEXED for name in container.format.name.split(",")):
            self.gap = inf
        self.tick = float(stream.time_base or Fraction(1, 1000))  # seconds
        self._restart()

    def _restart(self) -> None:
        self.frames = self.container.decode(self.stream)
        self.current: Any = next(self.frames, None)
        if self.current is None:
            raise BadImage("", "has no frames")
        self.following: Any = self._next()

    def _next(self) -> "VideoFrame | None":
        """Decode the next frame; return None at the end and if the file is damaged."""
        import av

        try:
            return next(self.frames, None)
        except av.FFmpegError:
            return None

    def advance(self, time: float) -> "VideoFrame":
        """Advance to the last frame that starts at `time` or before, in seconds; return it."""
        if time - _time(self.current) > self.gap:
            self._seek(time)
        while self.following is not None and _time(self.following) <= time:
            self.current, self.following = self.following, self._next()
        return self.current

    def _seek(self, time: float) -> None:
        """Seek to the last key frame before a time."""
        previous = self.current, self.following
        self.container.seek(round(time / self.tick), stream=self.stream)
        self.frames = self.container.decode(self.stream)
        self.current = self._next()
        self.following = self._next()
        if self.current is None:  # no frame can be decoded after the seek
            self.current, self.following = previous
        elif _time(self.current) > time:  # the seek landed too late
            self.container.seek(self.stream.start_time or 0, stream=self.stream)
            self._restart()
        elif _time(self.current) <= _time(previous[0]):  # no gain: key frames are far apart
            self.gap *= 2


def _time(frame: "VideoFrame") -> float:
    if frame.time is None:
        raise BadImage("", "has frames without timestamps")
    return frame.time


def _reason(error: Exception) -> str:
    if isinstance(error, BadImage):
        return error.reason
    if type(error).__name__ in ("InvalidDataError", "EOFError", "ArgumentError"):
        return "is not a video, or is empty or damaged"
    return explain_error(error)
