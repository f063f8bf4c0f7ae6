"""A generated set of images whose classes only true shape and fine detail tell apart.

    class     = proportion of an ellipse (wide, tall) × its stripes (fine, coarse)
    place     near the upper left corner, of about the same size in pixels
    canvas    any size and aspect, independent of the class

Squeezed to a square, a wide ellipse on a wide canvas looks like a tall one on an even canvas; and
shrunk, fine stripes blur into gray. At their own size and aspect both are plain to see.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

PROPORTIONS = {"wide": (0.6, 1.0), "tall": (1.0, 0.6)}  # height, width
STRIPES = {"fine": 2.8, "coarse": 6.0}  # period, px
CLASSES = tuple("-".join(names) for names in product(sorted(PROPORTIONS), sorted(STRIPES)))
SPLITS = {"train": 600, "val": 45, "test": 90}  # images of each class
SIZES = (26, 36)  # longest diameter of the ellipse, px
SIDES = (48, 96)  # √area of a canvas, px
ASPECTS = (0.4, 2.5)  # width / height of a canvas


@dataclass(frozen=True)
class Drawing:
    """One image and what it shows."""

    pixels: UInt8[np.ndarray, "height width 3"]
    label: str


def draw(label: str, rng: np.random.Generator) -> Drawing:
    """One image of a class."""
    proportion, stripes = label.split("-")
    side = rng.uniform(*SIDES)
    aspect = np.exp(rng.uniform(*np.log(ASPECTS)))
    height, width = round(side / aspect**0.5), round(side * aspect**0.5)
    size = min(rng.uniform(*SIZES), height, width)
    half_h, half_w = (size / 2 * share for share in PROPORTIONS[proportion])
    y0 = half_h + rng.uniform(0, min(6, height - 2 * half_h))
    x0 = half_w + rng.uniform(0, min(6, width - 2 * half_w))
    y, x = np.mgrid[:height, :width] + 0.5
    inside = ((y - y0) / half_h) ** 2 + ((x - x0) / half_w) ** 2 < 1
    across = y if rng.uniform() < 0.5 else x
    wave = np.sin(across * 2 * np.pi / STRIPES[stripes])
    dark, light = rng.uniform(0, 80, 3), rng.uniform(175, 255, 3)
    paper = rng.uniform(110, 145, 3)
    texture = np.where(wave[..., None] > 0, light, dark)
    image = np.where(inside[..., None], texture, paper) + rng.normal(0, 8, (height, width, 1))
    return Drawing(image.clip(0, 255).astype(np.uint8), label)


def drawings(split: str, seed: int = 0) -> Iterator[Drawing]:
    """All images of a split; the same ones for the same seed."""
    for number, label in enumerate(CLASSES):
        rng = np.random.default_rng([seed, list(SPLITS).index(split), number])
        for _ in range(SPLITS[split]):
            yield draw(label, rng)


def write_images(root: Path, seed: int = 0) -> None:
    """Write the set as root/<split>/<class>/<number>.png."""
    for split in SPLITS:
        for number, drawing in enumerate(drawings(split, seed)):
            path = root / split / drawing.label / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawing.pixels).save(path, compress_level=1)
