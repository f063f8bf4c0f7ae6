"""A generated dataset of videos whose classes differ only in motion.

    python -m patchpack.demo.motions motions        writes motions/<split>/<class>/<number>.mp4

Classes come in pairs: the same frames in reverse order, or two shapes that meet and then bounce or
cross. A single frame may identify the pair, but not the class. Frame size, aspect ratio, length and
frame rate vary from video to video and are independent of the class.
"""

import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from patchpack.data.images import resize

SPLITS = {"train": 300, "val": 12, "test": 30}  # videos per class
SIDES = (64, 112)  # range of √area of a frame, px
ASPECTS = (0.5, 2.0)  # range of width / height
SECONDS = (1.0, 2.5)  # range of lengths
RATES = (10, 15, 25, 30)  # frames per second


class Shape(NamedTuple):
    """A rectangle in one frame, in units of the frame's shorter side, relative to its center."""

    y: float
    x: float
    side: float  # √area
    angle: float  # radians


# Shapes at a time in [0, 1]. Every frame of a video gets a generator with the same seed.
Motion = Callable[[float, np.random.Generator], list[Shape]]


def _along(dy: float, dx: float) -> Motion:
    def shapes(time: float, rng: np.random.Generator) -> list[Shape]:
        y, x, angle = *rng.uniform(-0.15, 0.15, 2), rng.uniform(0, np.pi)
        shift = 0.6 * (time - 0.5)
        return [Shape(y + dy * shift, x + dx * shift, rng.uniform(0.22, 0.34), angle)]

    return shapes


def _turning(sign: float) -> Motion:
    def shapes(time: float, rng: np.random.Generator) -> list[Shape]:
        y, x, start = *rng.uniform(-0.2, 0.2, 2), rng.uniform(0, 2 * np.pi)
        return [Shape(y, x, rng.uniform(0.3, 0.5), start + sign * np.pi * time)]

    return shapes


def _growing(sign: float) -> Motion:
    def shapes(time: float, rng: np.random.Generator) -> list[Shape]:
        y, x, angle = *rng.uniform(-0.15, 0.15, 2), rng.uniform(0, np.pi)
        side = rng.uniform(0.3, 0.4) * 2 ** (sign * 1.2 * (time - 0.5))
        return [Shape(y, x, side, angle)]

    return shapes


def _meeting(bounce: bool) -> Motion:
    """Two shapes approach until they overlap; then they bounce back or cross."""

    def shapes(time: float, rng: np.random.Generator) -> list[Shape]:
        y, side = rng.uniform(-0.15, 0.15), rng.uniform(0.2, 0.26)
        direction = rng.uniform(0, 2 * np.pi)
        distance = 0.7 * (0.5 - time)
        dy, dx = np.array([np.sin(direction), np.cos(direction)]) * (
            abs(distance) if bounce else distance
        )
        return [Shape(y + dy, dx, side, direction), Shape(y - dy, -dx, side, direction)]

    return shapes


MOTIONS: dict[str, Motion] = {
    "left": _along(0, -1), "right": _along(0, 1), "up": _along(-1, 0), "down": _along(1, 0),
    "clockwise": _turning(1), "counterclockwise": _turning(-1),
    "growing": _growing(1), "shrinking": _growing(-1),
    "bouncing": _meeting(True), "crossing": _meeting(False),
}  # fmt: skip
CLASSES = tuple(MOTIONS)


class Video(NamedTuple):
    """One video with its label."""

    frames: UInt8[np.ndarray, "time height width 3"]
    rate: int  # frames per second
    label: str


def draw_video(label: str, rng: np.random.Generator) -> Video:
    """Draw one video of a class."""
    side, aspect = rng.uniform(*SIDES), np.exp(rng.uniform(*np.log(ASPECTS)))
    height, width = (2 * round(s / 2) for s in (side / aspect**0.5, side * aspect**0.5))
    rate = int(rng.choice(RATES))
    length = round(rng.uniform(*SECONDS) * rate)
    background = _texture(height, width, rng)
    bright = rng.integers(0, 2, 3)  # channels of the first shape; inverted for the second
    colors = 30 + 195 * np.stack([bright, 1 - bright]) + rng.integers(-25, 26, (2, 3))
    aspects = rng.uniform(1.6, 2.4, 2)  # elongated, so that rotation is visible
    seed = int(rng.integers(2**31))
    frames = [
        _draw(background, MOTIONS[label](time, np.random.default_rng(seed)), colors, aspects)
        for time in np.linspace(0, 1, length)
    ]
    noise = rng.normal(0, 4, (length, height, width, 1))
    return Video((np.stack(frames) + noise).clip(0, 255).astype(np.uint8), rate, label)


def _texture(height: int, width: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Return a cloudy gray background."""
    coarse = rng.integers(80, 176, (int(rng.integers(3, 9)), int(rng.integers(3, 9)), 1))
    return resize(np.repeat(coarse, 3, 2).astype(np.uint8), (height, width))


def _draw(
    background: UInt8[np.ndarray, "h w 3"],
    shapes: list[Shape],
    colors: np.ndarray,
    aspects: Float[np.ndarray, "2"],
) -> np.ndarray:
    """Draw shapes on the background, at four times the size for sub-pixel motion."""
    height, width = background.shape[:2]
    unit = min(height, width)
    image = Image.fromarray(background).resize((4 * width, 4 * height), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    for shape, color, aspect in zip(shapes, colors, aspects, strict=False):
        along, across = shape.side / 2 * aspect**0.5, shape.side / 2 / aspect**0.5
        cos, sin = np.cos(shape.angle), np.sin(shape.angle)
        corners = [
            (4 * (width / 2 + unit * (shape.x + a * cos - b * sin)),
             4 * (height / 2 + unit * (shape.y + a * sin + b * cos)))
            for a, b in ((along, across), (-along, across), (-along, -across), (along, -across))
        ]  # fmt: skip
        draw.polygon(corners, fill=tuple(int(c) for c in color))
    return np.asarray(image.resize((width, height), Image.Resampling.BOX)).astype(np.float32)


def videos(split: str, seed: int = 0) -> Iterator[Video]:
    """Yield all videos of a split. The same seed gives the same videos."""
    for number, label in enumerate(CLASSES):
        rng = np.random.default_rng([seed, list(SPLITS).index(split), number])
        for _ in range(SPLITS[split]):
            yield draw_video(label, rng)


def write_video(path: Path, frames: UInt8[np.ndarray, "t h w 3"], rate: int) -> None:
    """Write an MP4 file (H.264). Height and width must be even.

    rate  frames per second
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def write_videos(root: Path, seed: int = 0) -> None:
    """Write the dataset as root/<split>/<class>/<number>.mp4."""
    for split in SPLITS:
        for number, video in enumerate(videos(split, seed)):
            path = root / split / video.label / f"{number:05d}.mp4"
            write_video(path, video.frames, video.rate)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m patchpack.demo.motions FOLDER")
    write_videos(Path(sys.argv[1]))
