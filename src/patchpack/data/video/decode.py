"""Decode video files, through PyAV, and folders of frames.

Frame k of a clip is the frame displayed at time (k + ½) / rate, so a clip with a variable frame
rate is sampled evenly in time. Only requested frames are decoded, from the last key frame before
them if that is closer than the current position.

Every failure of a file raises BadImage with the file's key; every failure of the machine, after
further attempts, ReadError.

Traps: WebM stores no frame count, so packets are counted, and its rate may differ from that of its
frames; MP4 derives its rate from the order of decoding, so with B-frames and a variable rate the
last frames would lie behind its end; a phone's video may be rotated or mirrored, and only a decoded
frame has the matrix; old formats have non-square pixels; MPEG streams have no index, so a seek may
land anywhere, and a damaged index may call any frame a key frame; a text file (a playlist) may make
FFmpeg read other files; FFmpeg reports some damage as a failed disk or a resource that is busy.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from errno import EAGAIN, EIO
from fractions import Fraction
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from patchpack.data.formats import SUFFIXES
from patchpack.data.images import Pixels, decode, read_size, require_regular_file
from patchpack.data.orientation import SWAPS_AXES, matrix_orientation, turn
from patchpack.data.read_errors import (
    BadImage,
    has_memory,
    has_readable_bytes,
    is_machine_failure,
    is_out_of_memory,
    retry,
)
from patchpack.data.reading import DEFAULT_READING, ReadingConfig

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
LATEST = 1 << 48  # a time behind the end of every video, in ticks
FRAME_PIXELS = 16_000_000  # memory that must be free for an allocation error to be the file's


class VideoHeader(NamedTuple):
    """Size, length and frame rate of a clip."""

    height: int  # pixels, upright, for square pixels
    width: int  # pixels, upright, for square pixels
    frames: int  # number of frames
    rate: Fraction  # frames per second


def read_header(
    path: str | os.PathLike[str], reading: ReadingConfig = DEFAULT_READING
) -> VideoHeader:
    """Read size, length and frame rate of a clip; this decodes the first frame.

    Raises BadImage for an unreadable clip or one above a limit, ReadError if the machine fails, and
    ImportError for a video file without PyAV.
    """
    key = os.fspath(path)
    if os.path.isdir(path):
        frames = frames_in(Path(path), key)
        header = VideoHeader(*read_size(frames[0], reading), len(frames), FOLDER_RATE)
    else:
        _require_av()
        header = retry(lambda: _read_video_header(path, reading), key, _is_damage(path))
    try:
        reading.check_size(header.height, header.width)
        reading.check_length(header.frames, float(header.frames / header.rate))
    except BadImage as error:
        raise BadImage(key, error.reason) from error
    return header


def _read_video_header(path: str | os.PathLike[str], reading: ReadingConfig) -> VideoHeader:
    with _translated_errors(), _open(path) as container:
        stream = _stream(container, reading)
        first = next(container.decode(stream), None)
        if first is None:
            raise BadImage("", "has no frames")
        size = _display_size(first, stream)
        rate = Fraction(stream.average_rate or stream.guessed_rate or FOLDER_RATE)
        frames = stream.frames
        is_variable = stream.average_rate != stream.base_rate
    if not frames or is_variable:
        with _translated_errors(), _open(path) as container:
            stream = _stream(container, reading)
            if frames:  # the packets from the last key frame on have the last time
                container.seek(LATEST, stream=stream)
                start = stream.start_time
                times = [start, *_packet_times(container, stream)]
            else:
                times = list(_packet_times(container, stream))
                frames = len(times)
            rate = _corrected_rate(rate, frames, times, stream.time_base)
    return VideoHeader(*size, max(1, frames), rate)


def decode_frames(
    path: str | os.PathLike[str],
    numbers: Sequence[int],
    rate: Fraction | float,
    *,
    key: str,
    reading: ReadingConfig = DEFAULT_READING,
) -> Iterator[Pixels]:
    """Yield frames of a clip by ascending frame numbers; numbers past the end give the last frame.

    Raises BadImage for an unreadable clip or one above a limit, and ReadError if the machine fails.
    """
    if os.path.isdir(path):
        frames = frames_in(Path(path), key)
        for number in numbers:
            path = frames[min(number, len(frames) - 1)]
            try:
                yield decode(path, key=key, reading=reading)
            except BadImage as error:
                raise BadImage(key, f"its frame {path.name} {error.reason}") from error
        return
    _require_av()
    times = [(number + 0.5) / float(rate) for number in numbers]
    decoding: Iterator[Pixels] | None = None

    def next_frame(position: int) -> Pixels:
        """Decode the next frame; after an error, open the file again."""
        nonlocal decoding
        decoding, current = None, decoding or _decode_at(path, times[position:], reading)
        pixels = next(current)
        decoding = current
        return pixels

    for position in range(len(times)):
        yield retry(partial(next_frame, position), key, _is_damage(path))


def _decode_at(
    path: str | os.PathLike[str], times: Sequence[float], reading: ReadingConfig
) -> Iterator[Pixels]:
    """Yield the frame displayed at each time, ascending, in seconds from the start."""
    with _translated_errors(), _open(path) as container:
        stream = _stream(container, reading)
        reader = _FrameReader(container, stream)
        start = (stream.start_time or 0) * reader.tick
        for time in times:
            yield _pixels(reader.advance(start + time), reading)


def frames_in(folder: Path, key: str) -> list[Path]:
    """List the frames of a folder in natural order of their names; raise BadImage without any."""
    names = retry(lambda: os.listdir(folder), key)
    names = [name for name in names if os.path.splitext(name)[1].lower() in SUFFIXES]
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


def _stream(container: "InputContainer", reading: ReadingConfig) -> "VideoStream":
    if not container.streams.video:
        raise BadImage("", "has no frames")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise BadImage("", "has a video codec that cannot be decoded")
    stream.thread_type = "NONE"  # clips are loaded in parallel, each on a single core
    if stream.width and stream.height:  # else only frames have a size
        reading.check_size(stream.height, stream.width)
    return stream


def _corrected_rate(
    rate: Fraction, frames: int, times: Sequence[int | None], tick: Fraction | None
) -> Fraction:
    """Return the stored rate, or the one by which the last frame starts at the last time.

    frames  number of frames
    times   times of packets, the first and the last among them
    tick    unit of times in seconds

    The stored rate is kept if it is wrong by less than half a frame at the end.
    """
    present = [time for time in times if time is not None]
    span = Fraction(max(present, default=0) - min(present, default=0)) * (tick or 0)
    if not span or frames < 2 or abs((frames - 1) / rate - span) < 1 / (2 * rate):
        return rate
    return (Fraction(frames - 1) / span).limit_denominator(10_000)


def _packet_times(container: "InputContainer", stream: "VideoStream") -> Iterator[int | None]:
    """Yield the times of a video's packets up to its first damaged packet."""
    import av

    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet.pts
    except av.FFmpegError as error:
        if is_machine_failure(error):
            raise


def _display_size(frame: "VideoFrame", stream: "VideoStream") -> tuple[int, int]:
    """Return the upright (height, width) for square pixels."""
    pixel_aspect = stream.sample_aspect_ratio or 1
    height, width = frame.height, max(1, round(frame.width * pixel_aspect))
    return (width, height) if _orientation(frame) in SWAPS_AXES else (height, width)


def _pixels(frame: "VideoFrame", reading: ReadingConfig) -> Pixels:
    """Return a frame as upright RGB; non-square pixels are corrected later by resizing."""
    reading.check_size(frame.height, frame.width)  # it may differ from that in the header
    return turn(frame.to_ndarray(format="rgb24"), _orientation(frame))


def _orientation(frame: "VideoFrame") -> int:
    """Return the orientation that a frame's display matrix means."""
    from av.sidedata.sidedata import Type

    matrix = frame.side_data.get(Type.DISPLAYMATRIX)  # pyrefly: ignore
    if matrix is None:
        return 1
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).tolist()
    return matrix_orientation(a, b, c, d)


class _FrameReader:
    """Read frames of a video in order; hold the current frame and the following one."""

    def __init__(self, container: "InputContainer", stream: "VideoStream") -> None:
        self.container, self.stream, self.gap = container, stream, SEEK
        if any(name in UNINDEXED for name in container.format.name.split(",")):
            self.gap = inf
        self.tick = float(stream.time_base or Fraction(1, 1000))  # seconds
        self._restart()

    def _rewind(self) -> None:
        self.container.seek(self.stream.start_time or 0, stream=self.stream)
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
        except av.FFmpegError as error:
            if is_machine_failure(error):
                raise
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
        elif not self.current.key_frame:  # the index is wrong: no picture to start from
            self.gap = inf
            self._rewind()
        elif _time(self.current) > time:  # the seek landed too late
            self._rewind()
        elif _time(self.current) <= _time(previous[0]):  # no gain: key frames are far apart
            self.gap *= 2


def _time(frame: "VideoFrame") -> float:
    if frame.time is None:
        raise BadImage("", "has frames without timestamps")
    return frame.time


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise BadImage for FFmpeg's errors of files, in the words of this library."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ in ("InvalidDataError", "EOFError", "ArgumentError"):
            raise BadImage("", "is not a video, or is empty or damaged") from error
        raise


def _is_damage(path: str | os.PathLike[str]) -> Callable[[Exception], bool]:
    """Return a test of whether the contents of a file caused an error of the machine."""

    def is_damage(error: Exception) -> bool:
        if is_out_of_memory(error):
            return has_memory(FRAME_PIXELS)
        return getattr(error, "errno", None) in (EIO, EAGAIN) and has_readable_bytes(path)

    return is_damage
