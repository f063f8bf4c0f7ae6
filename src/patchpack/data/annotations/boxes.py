"""Objects in images, as arrays: boxes (top, left, bottom, right) and the numbers of their classes.

Axes: image, object.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

LEAST_VISIBLE = 0.3  # share of a box that a crop must leave of it


@dataclass(frozen=True, eq=False)
class Boxes:
    """The objects of one image, in its pixels."""

    boxes: Float[np.ndarray, "object 4"]
    labels: Int[np.ndarray, " object"]

    def shifted(self, top: float, left: float) -> "Boxes":
        """As seen from another origin."""
        moved = self.boxes - np.array([top, left, top, left], np.float32)
        return replace(self, boxes=moved)

    def scaled(self, y: float, x: float) -> "Boxes":
        return replace(self, boxes=self.boxes * np.array([y, x, y, x], np.float32))

    def within(self, size: tuple[int, int]) -> "Boxes":
        """Clipped to (height, width); those of which too little is left are gone."""
        inside = np.clip(self.boxes, 0, np.array([*size, *size], np.float32))
        before, after = (
            np.clip(b[:, 2:] - b[:, :2], 0, None).prod(1) for b in (self.boxes, inside)
        )
        kept = (after > 0) & (after >= LEAST_VISIBLE * before)
        return Boxes(inside[kept], self.labels[kept])

    def mapped(self, matrix: tuple[float, ...]) -> "Boxes":
        """Under (x, y) → (ax + by + c, dx + ey + f), in boxes around what the corners become."""
        a, b, c, d, e, f = matrix
        top, left, bottom, right = self.boxes.T
        x = np.stack([left, right, left, right])
        y = np.stack([top, top, bottom, bottom])
        xs, ys = a * x + b * y + c, d * x + e * y + f
        sides = [ys.min(0), xs.min(0), ys.max(0), xs.max(0)]
        return replace(self, boxes=np.stack(sides, 1).astype(np.float32))


@dataclass(frozen=True, eq=False)
class BoxAnnotations:
    """The objects of every image of an index."""

    images: tuple[Boxes, ...]
    classes: tuple[str, ...]
    areas: tuple[Float[np.ndarray, " object"], ...]  # px, of what is in the boxes
    crowds: tuple[Boxes, ...]  # regions of many objects: neither learned nor wrong to be found

    def select(self, numbers: Int[np.ndarray, " image"]) -> "BoxAnnotations":
        images, areas, crowds = (
            tuple(many[i] for i in numbers) for many in (self.images, self.areas, self.crowds)
        )
        return replace(self, images=images, areas=areas, crowds=crowds)
