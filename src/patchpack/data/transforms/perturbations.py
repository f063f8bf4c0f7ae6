"""Perturbations of images for evaluation: crops, aspect changes, downsampling, corruptions.

A perturbation gives the size of its output, so that packs can be planned, and changes the pixels.
It does not depend on a model or a token budget; the caller passes its random generator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Int

from patchpack.data.images import Pixels, resize
from patchpack.data.transforms.corruptions import CORRUPTIONS, SEVERITIES

Sides = Int[np.ndarray, " image"]


class Perturbation(Protocol):
    """A deterministic or random change of an image."""

    @property
    def name(self) -> str:
        """The name in reports and in the keys of cached outputs."""
        ...

    def sizes(self, heights: Sides, widths: Sides) -> tuple[Sides, Sides]:
        """Return the heights and widths of perturbed images from those of the originals."""
        ...

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """Return the perturbed image; the same generator gives the same image."""
        ...


@dataclass(frozen=True)
class CenterCrop:
    """Crop the center of an image."""

    # side of the crop as a fraction of the image's side, between 0 and 1
    # (the paper: 0.875, and 0.75 for ObjectNet and ImageNet-A, App. F)
    share: float = 0.875

    @property
    def name(self) -> str:
        return f"central {self.share:.1%}"

    def sizes(self, heights: Sides, widths: Sides) -> tuple[Sides, Sides]:
        return self._cropped(heights), self._cropped(widths)

    def _cropped(self, side: Sides) -> Sides:
        return np.maximum(1, np.rint(self.share * side).astype(np.int64))

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        h, w = (int(self._cropped(np.array(side))) for side in pixels.shape[:2])
        y, x = (pixels.shape[0] - h) // 2, (pixels.shape[1] - w) // 2
        return np.ascontiguousarray(pixels[y : y + h, x : x + w])


@dataclass(frozen=True)
class AspectChange:
    """Change the aspect ratio at constant area."""

    factor: float  # factor of width / height; above 1: wider

    @property
    def name(self) -> str:
        return f"{self.factor:g} times as wide"

    def sizes(self, heights: Sides, widths: Sides) -> tuple[Sides, Sides]:
        root = self.factor**0.5
        return _round_sides(heights / root), _round_sides(widths * root)

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        h, w = self.sizes(np.array(pixels.shape[0]), np.array(pixels.shape[1]))
        return resize(pixels, (int(h), int(w)))


@dataclass(frozen=True)
class Downsample:
    """Downsample an image and resize it back to its original size."""

    side: int  # square root of the downsampled area, in pixels; smaller images do not change

    @property
    def name(self) -> str:
        return f"detail of {self.side} px"

    def sizes(self, heights: Sides, widths: Sides) -> tuple[Sides, Sides]:
        return heights, widths

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        h, w = pixels.shape[:2]
        scale = self.side / (h * w) ** 0.5
        if scale >= 1:
            return pixels
        small = resize(pixels, (max(1, round(h * scale)), max(1, round(w * scale))))
        return resize(small, (h, w))


@dataclass(frozen=True)
class Corrupt:
    """Apply an ImageNet-C corruption (`corruptions.py`)."""

    kind: str  # name of the corruption, such as "gaussian noise"
    severity: int  # severity, 1 to 5

    def __post_init__(self) -> None:
        if self.kind not in CORRUPTIONS or self.severity not in SEVERITIES:
            raise ValueError(f"there is no corruption {self.kind!r} of severity {self.severity}")

    @property
    def name(self) -> str:
        return f"{self.kind} {self.severity}"

    def sizes(self, heights: Sides, widths: Sides) -> tuple[Sides, Sides]:
        return heights, widths

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        corrupt: Callable = CORRUPTIONS[self.kind]
        changed = corrupt(pixels.astype(np.float32) / 255, self.severity - 1, rng)
        return np.rint(changed.clip(0, 1) * 255).astype(np.uint8)


def _round_sides(sides: np.ndarray) -> Sides:
    return np.maximum(1, np.rint(sides).astype(np.int64))
