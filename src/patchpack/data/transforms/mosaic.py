"""Four images in one: each shows a part of itself in a quarter of the canvas.

More objects, of more sizes, in the tokens of one image (as OWL-ViT and YOLOv4 train on). Aspects
are kept: of each image the largest window of its quarter's proportions is taken, somewhere.
"""

from collections.abc import Sequence

import numpy as np

from patchpack.data.annotations.boxes import Boxes
from patchpack.data.transforms.sample import Sample

MIDDLE = (0.3, 0.7)  # where the quarters meet, as a share of each side


def mosaic(samples: Sequence[Sample], size: tuple[int, int], rng: np.random.Generator) -> Sample:
    """A canvas of (height, width) from four scenes, all with a mask or none, all with objects or
    none."""
    y, x = (int(np.clip(round(side * rng.uniform(*MIDDLE)), 1, side - 1)) for side in size)
    pixels = np.empty((*size, 3), np.uint8)
    mask = None if samples[0].mask is None else np.empty(size, np.uint8)
    found: list[Boxes] = []
    corners = [(0, 0, y, x), (0, x, y, size[1]), (y, 0, size[0], x), (y, x, *size)]
    for sample, (top, left, bottom, right) in zip(samples, corners, strict=True):
        part = _filling(sample, (bottom - top, right - left), rng)
        pixels[top:bottom, left:right] = part.pixels
        if mask is not None:
            assert part.mask is not None
            mask[top:bottom, left:right] = part.mask
        if part.objects is not None:
            found.append(part.objects.shifted(-top, -left))
    objects = None
    if found:
        objects = Boxes(
            np.concatenate([part.boxes for part in found]),
            np.concatenate([part.labels for part in found]),
        )
    return Sample(pixels, mask, objects)


def _filling(sample: Sample, size: tuple[int, int], rng: np.random.Generator) -> Sample:
    """A window of the proportions of (height, width), resized to it."""
    height, width = sample.size
    scale = min(height / size[0], width / size[1])
    h, w = (max(1, min(limit, int(side * scale)))
            for side, limit in zip(size, (height, width), strict=True))  # fmt: skip
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return sample.crop(top, left, h, w).resized(size)
