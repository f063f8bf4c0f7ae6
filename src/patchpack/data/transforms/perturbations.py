"""Images changed on purpose before they are judged: crops, stretches, lost detail, corruptions.

An alteration says what size an image will have, so that packs can be planned, and changes its
pixels. It knows no model and no budget; what it draws follows from a generator that it is given.
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
    """One way to change images."""

    @property
    def name(self) -> str:
        """Names it in reports, and in what is kept of a judgement."""
        ...

    def sizes(self, heights: Sides, widths: Sides) -> tuple[Sides, Sides]:
        """The heights and widths that images of these will have."""
        ...

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels: ...


@dataclass(frozen=True)
class CenterCrop:
    """The middle of an image: so large a share of each side."""

    share: float = 0.875  # the paper: 0.875, and 0.75 for ObjectNet and ImageNet-A (App. F)

    @property
    def name(self) -> str:
        return f"central {self.share:.1%}"

    def sizes(self, heights: Sides, widths: Sides) -> tuple[Sides, Sides]:
        return self._kept(heights), self._kept(widths)

    def _kept(self, side: Sides) -> Sides:
        return np.maximum(1, np.rint(self.share * side).astype(np.int64))

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        h, w = (int(self._kept(np.array(side))) for side in pixels.shape[:2])
        y, x = (pixels.shape[0] - h) // 2, (pixels.shape[1] - w) // 2
        return np.ascontiguousarray(pixels[y : y + h, x : x + w])


@dataclass(frozen=True)
class AspectChange:
    """Another aspect ratio, the area kept: `factor` times as wide for its height."""

    factor: float

    @property
    def name(self) -> str:
        return f"{self.factor:g} times as wide"

    def sizes(self, heights: Sides, widths: Sides) -> tuple[Sides, Sides]:
        root = self.factor**0.5
        return _whole(heights / root), _whole(widths * root)

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        h, w = self.sizes(np.array(pixels.shape[0]), np.array(pixels.shape[1]))
        return resize(pixels, (int(h), int(w)))


@dataclass(frozen=True)
class Downsample:
    """The detail of an image of a smaller side √area, at the size that it had."""

    side: int  # pixels; images that are no larger stay as they are

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
    """One of ImageNet-C's corruptions (`data.corruptions`)."""

    kind: str
    severity: int  # 1 to 5

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


def _whole(sides: np.ndarray) -> Sides:
    return np.maximum(1, np.rint(sides).astype(np.int64))
