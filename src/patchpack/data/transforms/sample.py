"""A sample: the pixels of an image and its annotations. All transforms apply to both.

Axes: height, width, channel.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from patchpack.data.annotations.annotation import Affine, ItemAnnotation, Size
from patchpack.data.images import Pixels, ResizeFilter, mirror, resize


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and its annotations."""

    pixels: Pixels
    annotations: Mapping[str, ItemAnnotation] = field(default_factory=dict)  # by Annotation.name

    @property
    def size(self) -> Size:
        """(height, width)"""
        return self.pixels.shape[:2]

    def crop(self, top: int, left: int, height: int, width: int) -> "Sample":
        pixels = self.pixels[top : top + height, left : left + width]
        return Sample(
            pixels, {k: a.crop(top, left, height, width) for k, a in self.annotations.items()}
        )

    def resize(self, size: Size, filter: ResizeFilter = "bicubic") -> "Sample":
        """Resize to (height, width), with antialiasing."""
        pixels = resize(self.pixels, size, filter)
        return Sample(pixels, {k: a.resize(self.size, size) for k, a in self.annotations.items()})

    def hflip(self) -> "Sample":
        """Mirror left and right."""
        pixels = mirror(self.pixels)
        return Sample(pixels, {k: a.hflip(self.size) for k, a in self.annotations.items()})

    def rot90(self, k: int) -> "Sample":
        """Rotate counterclockwise by `k` quarter turns."""
        pixels = np.rot90(self.pixels, k)
        return Sample(pixels, {name: a.rot90(k, self.size) for name, a in self.annotations.items()})

    def affine(self, matrix: Affine, fill: tuple[int, ...]) -> "Sample":
        """Warp: output (x, y) shows the input at (ax + by + c, dx + ey + f), `fill` outside."""
        pixels, inverse = warp(self.pixels, matrix, fill, Image.Resampling.BILINEAR), invert(matrix)
        return Sample(
            pixels, {k: a.affine(matrix, inverse, self.size) for k, a in self.annotations.items()}
        )

    def with_pixels(self, pixels: Pixels) -> "Sample":
        """Replace the pixels; raise ValueError if annotations would no longer fit their size."""
        if self.annotations and pixels.shape[:2] != self.size:
            raise ValueError(f"annotations of {self.size} for pixels of {pixels.shape[:2]}")
        return Sample(pixels, self.annotations)


def warp(
    values: np.ndarray, matrix: Affine, fill: tuple[int, ...], resampling: Image.Resampling
) -> np.ndarray:
    """Apply an affine map from output to input positions to an image of one or three channels."""
    image = Image.fromarray(values)
    color = fill if len(fill) > 1 else fill[0]
    affine = Image.Transform.AFFINE
    return np.asarray(image.transform(image.size, affine, matrix, resampling, fillcolor=color))


def invert(matrix: Affine) -> Affine:
    """Return the inverse of an affine map."""
    a, b, c, d, e, f = matrix
    linear = np.linalg.inv(np.array([[a, b], [d, e]], np.float64))
    (p, q), (r, s) = linear.tolist()
    return p, q, -(p * c + q * f), r, s, -(r * c + s * f)
