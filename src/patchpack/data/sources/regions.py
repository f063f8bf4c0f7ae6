"""Outlines of objects, and the pixels that they cover.

    Polygons, RunLengths    COCO's `segmentation`, drawn as pycocotools' annToMask draws it
    Outlines                LabelMe's shapes, drawn as LabelMe's shape_to_mask draws them

`faster-coco-eval` (extra `detection`) draws the first two, Pillow the third.

Axes: point.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

Size = tuple[int, int]  # (height, width) in pixels
Points = Float[np.ndarray, "point 2"]  # (x, y) in pixels
DrawnPixels = UInt8[np.ndarray, "height width"]  # 1 inside, 0 outside
FARTHEST = 1e6  # px; polygons with points farther away are rejected
LONGEST = 4  # length of all sides of a polygon, in pixels of the image: more is rejected
SHAPES = ("polygon", "rectangle", "circle")


class Region(Protocol):
    """The outline of one object."""

    def box(self) -> Sequence[float]:
        """Return (top, left, bottom, right)."""
        ...

    def scaled(self, y: float, x: float) -> "Region":
        """Return the outline with its coordinates multiplied."""
        ...

    def digest(self) -> bytes:
        """Return bytes that change with the outline."""
        ...

    def draw(self, size: Size) -> DrawnPixels:
        """Return the pixels of an image of this size; raise ValueError for a damaged outline."""
        ...


@dataclass(frozen=True, eq=False)
class Polygons:
    """One or more polygons; the object is their union."""

    rings: tuple[Points, ...]

    def box(self) -> Sequence[float]:
        return _box_around(np.concatenate(self.rings))

    def scaled(self, y: float, x: float) -> "Polygons":
        return Polygons(tuple(ring * np.array([x, y]) for ring in self.rings))

    def digest(self) -> bytes:
        return b"".join(_array_bytes(ring) for ring in self.rings)

    def draw(self, size: Size) -> DrawnPixels:
        steps = sum(np.abs(np.diff(ring, axis=0)).max(1).sum() for ring in self.rings)
        if steps > LONGEST * size[0] * size[1] + FARTHEST:
            raise ValueError(f"its sides are {steps:,.0f} px long together")
        library = coco_masks()
        runs = library.frPyObjects([ring.ravel().tolist() for ring in self.rings], *size)
        return library.decode(library.merge(runs))


@dataclass(frozen=True, eq=False)
class RunLengths:
    """COCO's run-length encoding of a mask, column by column."""

    size: Size
    counts: str | tuple[int, ...]  # compressed text, or lengths of runs

    def box(self) -> Sequence[float]:
        y, x = np.nonzero(self.draw(self.size))
        if not len(y):
            return 0.0, 0.0, 0.0, 0.0
        return float(y.min()), float(x.min()), float(y.max() + 1), float(x.max() + 1)

    def scaled(self, y: float, x: float) -> "RunLengths":
        return self

    def digest(self) -> bytes:
        return repr((self.size, self.counts)).encode("utf-8", "surrogatepass")

    def draw(self, size: Size) -> DrawnPixels:
        if size != self.size:
            raise ValueError(f"its runs are of an image of {self.size}, not {size}")
        library = coco_masks()
        runs = {"size": list(size), "counts": self.counts}
        try:
            if isinstance(self.counts, tuple):
                runs = library.frPyObjects(runs | {"counts": list(self.counts)}, *size)
            return library.decode(runs)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"its runs are damaged: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True, eq=False)
class Outlines:
    """LabelMe's shapes; the object is their union."""

    shapes: tuple[tuple[str, Points], ...]  # (one of SHAPES, points)

    def box(self) -> Sequence[float]:
        corners = [_circle_corners(p) if kind == "circle" else p for kind, p in self.shapes]
        return _box_around(np.concatenate(corners))

    def scaled(self, y: float, x: float) -> "Outlines":
        return replace(
            self, shapes=tuple((kind, points * np.array([x, y])) for kind, points in self.shapes)
        )

    def digest(self) -> bytes:
        return b"".join(kind.encode() + _array_bytes(points) for kind, points in self.shapes)

    def draw(self, size: Size) -> DrawnPixels:
        image = Image.new("L", size[::-1])
        draw = ImageDraw.Draw(image)
        for kind, points in self.shapes:
            if kind == "polygon":
                draw.polygon([tuple(p) for p in points.tolist()], outline=1, fill=1)
                continue
            corners = _circle_corners(points) if kind == "circle" else points
            sides = (*corners.min(0).tolist(), *corners.max(0).tolist())
            (draw.ellipse if kind == "circle" else draw.rectangle)(sides, outline=1, fill=1)
        return np.asarray(image)


def parse_segmentation(value: object) -> Region | str:
    """Return the outline of COCO's `segmentation`, or why it is none."""
    if isinstance(value, dict):
        return _parse_runs(value)
    if not isinstance(value, list):
        return "its segmentation is neither polygons nor runs"
    rings = [parse_polygon(ring) for ring in value]
    wrong = next((ring for ring in rings if isinstance(ring, str)), None)
    return wrong or Polygons(tuple(ring for ring in rings if not isinstance(ring, str)))


def parse_polygon(value: object) -> Points | str:
    """Return the points of [x, y, x, y, …], or why they are no polygon."""
    numbers = parse_numbers(value)
    if numbers is None:
        return "its polygon is not a list of numbers"
    if len(numbers) < 6 or len(numbers) % 2:
        return f"its polygon has {len(numbers)} numbers, not 3 or more pairs"
    if not np.isfinite(numbers).all() or np.abs(numbers).max() > FARTHEST:
        return "its polygon has impossible coordinates"
    return numbers.reshape(-1, 2)


def parse_numbers(value: object) -> Float[np.ndarray, " number"] | None:
    """Return a list of numbers as an array; None for anything else."""
    if not isinstance(value, list) or any(type(v) not in (int, float) for v in value):
        return None
    try:
        return np.array(value, np.float64)
    except (OverflowError, ValueError):
        return None


def _parse_runs(value: dict[str, object]) -> Region | str:
    size, counts = value.get("size"), value.get("counts")
    if not (
        isinstance(size, list) and len(size) == 2 and all(type(v) is int and v > 0 for v in size)
    ):
        return "its segmentation has no size [height, width]"
    if isinstance(counts, str):
        return RunLengths((size[0], size[1]), counts)
    if isinstance(counts, list) and all(type(v) is int and v >= 0 for v in counts):
        if sum(counts) != size[0] * size[1]:
            return f"its runs cover {sum(counts)} pixels, not {size[0]} x {size[1]}"
        return RunLengths((size[0], size[1]), tuple(counts))
    return "its segmentation has no counts"


def _array_bytes(points: Points) -> bytes:
    return len(points).to_bytes(8) + points.astype("<f8").tobytes()


def _circle_corners(points: Points) -> Points:
    """Return the corners of the square around a circle, of its center and a point on it."""
    center, edge = points
    radius = math.dist(center, edge)
    return np.stack([center - radius, center + radius])


def _box_around(points: Points) -> Sequence[float]:
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    return top, left, bottom, right


def coco_masks() -> Any:
    """Return the library that draws COCO's outlines; raise ImportError without it."""
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise ImportError(
            f"outlines of objects need pip install 'patchpack[detection]' ({error})"
        ) from error
    return mask
