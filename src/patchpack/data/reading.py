"""How files are read: limits of one file, and the range of gray values. Part of a model's input.

Limits bound the time and the memory that one file takes. They are checked from headers, before
pixels are decoded, and are the same for images, masks and videos, in every command.
"""

import re
from dataclasses import dataclass
from typing import IO

from patchpack.data.read_errors import BadImage

SOI = 2  # bytes of a JPEG's start
SOS, EOI = 0xDA, 0xD9  # JPEG markers: scan, end
SCAN = bytes((0xFF, SOS))
FRAMES = tuple(code for code in range(0xC0, 0xD0) if code not in (0xC4, 0xC8, 0xCC))
HEAD = 16_384  # bytes of a JPEG that are read first
FIELDS = 8  # bytes of a segment's length and first fields
PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd8\xff])")  # not a byte, not one without a length


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """Limits of one file, and the range of gray values; raises ValueError for impossible ones."""

    max_pixels: int = 89_478_485  # maximum pixels of an image, a mask or a video frame
    max_side_px: int = 65_535  # maximum height and width of an image or a video frame in pixels
    max_scans: int = 64  # maximum scans of a progressive JPEG; each takes the time of a whole image
    max_bytes: int = 1_000_000_000  # maximum bytes of an image or mask file
    max_seconds: float = 14_400.0  # maximum duration of a video in seconds
    max_frames: int = 1_000_000  # maximum frames of a clip
    intensity_range: tuple[float, float] | None = None
    """Values that become black and white, in images of one channel with more than 8 bits, such as
    0 4095 for 12-bit cameras; None: 0 65535, or the bits that a TIFF declares."""

    def __post_init__(self) -> None:
        for name in (
            "max_pixels", "max_side_px", "max_scans", "max_bytes", "max_seconds", "max_frames"
        ):  # fmt: skip
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"{name} must be more than 0, not {value}")
        low, high = self.intensity_range or (0.0, 1.0)
        if not -1e38 < low < high < 1e38:
            raise ValueError(f"intensity_range must rise, as in 0 4095, not {low:g} {high:g}")

    def check_size(self, height: int, width: int) -> None:
        """Raise BadImage for an image or a frame above the limits, or without pixels."""
        size = f"{width} x {height} pixels"
        if height < 1 or width < 1:
            raise BadImage("", "has no pixels")
        if height * width > self.max_pixels:
            raise BadImage(
                "", f"{size} are more than the {self.max_pixels:,} allowed by max_pixels"
            )
        if max(height, width) > self.max_side_px:
            raise BadImage(
                "", f"{size}: a side is more than the {self.max_side_px:,} allowed by max_side_px"
            )

    def check_bytes(self, count: int) -> None:
        """Raise BadImage for an image or mask file above the limit."""
        if count > self.max_bytes:
            raise BadImage(
                "", f"{count:,} bytes are more than the {self.max_bytes:,} allowed by max_bytes"
            )

    def check_scans(self, jpeg: IO[bytes]) -> None:
        """Raise BadImage for a JPEG above the limit."""
        if has_more_scans(jpeg, self.max_scans):
            raise BadImage("", f"more JPEG scans than the {self.max_scans:,} allowed by max_scans")

    def check_length(self, frames: int, seconds: float) -> None:
        """Raise BadImage for a clip above the limits."""
        if seconds > self.max_seconds:
            raise BadImage(
                "", f"{seconds:,.0f} s are more than the {self.max_seconds:,.0f} allowed by "
                "max_seconds"
            )  # fmt: skip
        if frames > self.max_frames:
            raise BadImage(
                "", f"{frames:,} frames are more than the {self.max_frames:,} allowed by max_frames"
            )


DEFAULT_READING = ReadingConfig()


def has_more_scans(jpeg: IO[bytes], limit: int) -> bool:
    """Return whether the first image of a JPEG has more scans than the limit.

    Of a JPEG that cannot have several scans, the first bytes alone are read.
    """
    jpeg.seek(0)
    data, position, scans, sequential = jpeg.read(HEAD), SOI, 0, b""
    while scans <= limit:
        marker = MARKER.search(data, position)
        if marker is None or marker.end() + FIELDS > len(data):
            if more := jpeg.read(len(data)):
                data += more
                continue
            if marker is None:
                return False
        code, fields = marker[1][0], data[marker.end() : marker.end() + FIELDS]
        if code == EOI:
            return False
        if code in FRAMES:
            sequential = b"" if code in PROGRESSIVE else fields[7:8]
        if code == SOS:
            scans += 1
            if sequential and fields[2:3] >= sequential:
                return False  # a sequential scan of all components is the last
            if scans == 1:
                data += jpeg.read()
                if data.count(SCAN, position) <= limit:  # fast, and never too few
                    return False
        position = marker.end() + max(2, int.from_bytes(fields[:2], "big"))
    return True
