"""An image and what is known of places in it, moved together.

Whatever moves pixels (a crop, a resize, a mirror, a turn, a warp) moves the mask and the boxes of
objects with them, so that augmentation cannot put them apart.

Axes: height, width, channel.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from patchpack.batch import IGNORE_INDEX
from patchpack.data.annotations.boxes import Boxes
from patchpack.data.images import Pixels, mirror, resize

Mask = UInt8[np.ndarray, "height width"]
Affine = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): the pixel shown at (x, y) is the one from (ax + by + c, dx + ey + f)."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One image."""

    pixels: Pixels
    mask: Mask | None = None  # the class of every pixel, of the same size
    objects: Boxes | None = None  # in these pixels

    def __post_init__(self) -> None:
        if self.mask is not None and self.mask.shape != self.size:
            raise ValueError(f"a mask of {self.mask.shape} for pixels of {self.size}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.pixels.shape[:2]

    def crop(self, top: int, left: int, height: int, width: int) -> "Sample":
        """A part; objects of which too little lies in it are gone."""
        cut = np.s_[top : top + height, left : left + width]
        return Sample(
            self.pixels[cut],
            None if self.mask is None else self.mask[cut],
            self.objects and self.objects.shifted(top, left).within((height, width)),
        )

    def resized(self, size: tuple[int, int]) -> "Sample":
        """To (height, width): pixels antialiased, the nearest class of a mask."""
        mask = self.mask
        if mask is not None and mask.shape != size:
            image = Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST)
            mask = np.asarray(image)
        y, x = size[0] / self.size[0], size[1] / self.size[1]
        return Sample(resize(self.pixels, size), mask, self.objects and self.objects.scaled(y, x))

    def hflip(self) -> "Sample":
        """Left and right exchanged."""
        return Sample(
            mirror(self.pixels),
            None if self.mask is None else self.mask[:, ::-1],
            self.objects and self.objects.mapped((-1, 0, self.size[1], 0, 1, 0)),
        )

    def rot90(self, quarters: int) -> "Sample":
        """Counterclockwise."""
        objects, width = self.objects, self.size[1]
        for side in (width, self.size[0], width, self.size[0])[: quarters % 4]:
            objects = objects and objects.mapped((0, 1, 0, -1, 0, side))
        mask = None if self.mask is None else np.rot90(self.mask, quarters)
        return Sample(np.rot90(self.pixels, quarters), mask, objects)

    def affine(self, matrix: Affine, fill: tuple[int, ...]) -> "Sample":
        """What comes from outside is of the colour `fill` and of no class."""
        pixels = _warp(self.pixels, matrix, fill, Image.Resampling.BILINEAR)
        mask, objects = self.mask, self.objects
        if mask is not None:
            plain = np.ascontiguousarray(mask)
            mask = _warp(plain, matrix, (IGNORE_INDEX,), Image.Resampling.NEAREST)
        return Sample(pixels, mask, objects and objects.mapped(_inverse(matrix)).within(self.size))

    def with_pixels(self, pixels: Pixels) -> "Sample":
        """The same places in other colours."""
        return replace(self, pixels=pixels)


def _warp(
    values: np.ndarray, matrix: Affine, fill: tuple[int, ...], resampling: Image.Resampling
) -> np.ndarray:
    image = Image.fromarray(values)
    colour = fill if len(fill) > 1 else fill[0]
    kind = Image.Transform.AFFINE
    return np.asarray(image.transform(image.size, kind, matrix, resampling, fillcolor=colour))


def _inverse(matrix: Affine) -> Affine:
    """Where a pixel goes, of a matrix that says where it comes from."""
    a, b, c, d, e, f = matrix
    linear = np.linalg.inv(np.array([[a, b], [d, e]], np.float64))
    (p, q), (r, s) = linear.tolist()
    return p, q, -(p * c + q * f), r, s, -(r * c + s * f)
