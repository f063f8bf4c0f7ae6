"""An image and what is known of places in it, moved together.

Whatever moves pixels (a crop, a resize, a mirror, a turn, a warp) moves the mask with them, so that
augmentation cannot put them apart.

Axes: height, width, channel.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from patchpack.batch import IGNORED
from patchpack.data.images import Pixels, mirror, resize

Mask = UInt8[np.ndarray, "height width"]
Affine = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): the pixel shown at (x, y) is the one from (ax + by + c, dx + ey + f)."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One image."""

    pixels: Pixels
    mask: Mask | None = None  # the class of every pixel, of the same size

    def __post_init__(self) -> None:
        if self.mask is not None and self.mask.shape != self.size:
            raise ValueError(f"a mask of {self.mask.shape} for pixels of {self.size}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.pixels.shape[:2]

    def window(self, top: int, left: int, height: int, width: int) -> "Scene":
        cut = np.s_[top : top + height, left : left + width]
        return Scene(self.pixels[cut], None if self.mask is None else self.mask[cut])

    def resized(self, size: tuple[int, int]) -> "Scene":
        """To (height, width): pixels antialiased, the nearest class of a mask."""
        mask = self.mask
        if mask is not None and mask.shape != size:
            image = Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST)
            mask = np.asarray(image)
        return Scene(resize(self.pixels, size), mask)

    def mirrored(self) -> "Scene":
        """Left and right exchanged."""
        return Scene(mirror(self.pixels), None if self.mask is None else self.mask[:, ::-1])

    def turned(self, quarters: int) -> "Scene":
        """Counterclockwise."""
        mask = None if self.mask is None else np.rot90(self.mask, quarters)
        return Scene(np.rot90(self.pixels, quarters), mask)

    def warped(self, matrix: Affine, fill: tuple[int, ...]) -> "Scene":
        """What comes from outside is of the colour `fill` and of no class."""
        pixels = _warp(self.pixels, matrix, fill, Image.Resampling.BILINEAR)
        if self.mask is None:
            return Scene(pixels)
        mask = np.ascontiguousarray(self.mask)
        return Scene(pixels, _warp(mask, matrix, (IGNORED,), Image.Resampling.NEAREST))

    def coloured(self, pixels: Pixels) -> "Scene":
        """The same places in other colours."""
        return replace(self, pixels=pixels)


def _warp(
    values: np.ndarray, matrix: Affine, fill: tuple[int, ...], resampling: Image.Resampling
) -> np.ndarray:
    image = Image.fromarray(values)
    colour = fill if len(fill) > 1 else fill[0]
    kind = Image.Transform.AFFINE
    return np.asarray(image.transform(image.size, kind, matrix, resampling, fillcolor=colour))
