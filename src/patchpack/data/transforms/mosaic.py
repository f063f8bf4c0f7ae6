"""Mosaic: four images on one canvas, a part of each in a quarter (YOLOv4, OWL-ViT).

More objects of more sizes share the tokens of one image. Each quarter shows a random crop of its
image: the largest with the aspect of the quarter, so that aspects are kept.
"""

from collections.abc import Sequence

import numpy as np

from patchpack.data.transforms.sample import Sample

CENTER = (0.3, 0.7)  # range of the point where the quarters meet, as a share of each side


def mosaic(samples: Sequence[Sample], size: tuple[int, int], rng: np.random.Generator) -> Sample:
    """Return a canvas of (height, width) from four samples with the same kinds of annotations.

    Raise ValueError for annotations that cannot be combined.
    """
    y, x = (int(np.clip(round(side * rng.uniform(*CENTER)), 1, side - 1)) for side in size)
    pixels = np.empty((*size, 3), np.uint8)
    quarters = [(0, 0, y, x), (0, x, y, size[1]), (y, 0, size[0], x), (y, x, *size)]
    parts = []
    for sample, (top, left, bottom, right) in zip(samples, quarters, strict=True):
        part = _crop_to_fill(sample, (bottom - top, right - left), rng)
        pixels[top:bottom, left:right] = part.pixels
        parts.append(part)
    offsets = [(top, left) for top, left, _, _ in quarters]
    annotations = {
        name: first.merge([part.annotations[name] for part in parts], offsets, size)
        for name, first in parts[0].annotations.items()
    }
    return Sample(pixels, annotations)


def _crop_to_fill(sample: Sample, size: tuple[int, int], rng: np.random.Generator) -> Sample:
    """Crop the largest window with the aspect of (height, width), and resize it to that."""
    height, width = sample.size
    scale = min(height / size[0], width / size[1])
    h, w = (max(1, min(limit, int(side * scale)))
            for side, limit in zip(size, (height, width), strict=True))  # fmt: skip
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return sample.crop(top, left, h, w).resize(size)
