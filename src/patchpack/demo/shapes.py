"""A generated dataset whose classes differ only in aspect ratio and fine detail.

    class     cell size of a checkered ellipse, height x width in px
    canvas    random size and aspect ratio, independent of the class

Resized to a square, wide cells on a wide canvas look like square cells on a square canvas.
Downsampled, fine cells blur into gray. At native size and aspect ratio, the classes are distinct.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

CELLS = {"coarse": (6, 6), "fine": (3, 3), "tall": (6, 3), "wide": (3, 6)}  # height, width, px
CLASSES = tuple(CELLS)
SPLITS = {"train": 600, "val": 45, "test": 150}  # images per class
SIDES = (48, 96)  # range of √area of a canvas, px
ASPECTS = (0.4, 2.5)  # range of width / height of a canvas


@dataclass(frozen=True)
class Drawing:
    """One image with its label."""

    pixels: UInt8[np.ndarray, "height width 3"]
    label: str


def draw(label: str, rng: np.random.Generator) -> Drawing:
    """Draw one image of a class."""
    side = rng.uniform(*SIDES)
    aspect = np.exp(rng.uniform(*np.log(ASPECTS)))
    height, width = round(side / aspect**0.5), round(side * aspect**0.5)
    half_h, half_w = rng.uniform(0.3, 0.5, 2) * min(height, width)
    y0 = rng.uniform(half_h, height - half_h)
    x0 = rng.uniform(half_w, width - half_w)
    y, x = np.mgrid[:height, :width]
    inside = ((y + 0.5 - y0) / half_h) ** 2 + ((x + 0.5 - x0) / half_w) ** 2 < 1
    cell_h, cell_w = CELLS[label]
    light_cell = ((y + rng.integers(cell_h)) // cell_h + (x + rng.integers(cell_w)) // cell_w) % 2
    dark, light = rng.uniform(0, 80, 3), rng.uniform(175, 255, 3)
    background = rng.uniform(110, 145, 3)
    texture = np.where(light_cell[..., None], light, dark)
    image = np.where(inside[..., None], texture, background) + rng.normal(0, 8, (height, width, 1))
    return Drawing(image.clip(0, 255).astype(np.uint8), label)


def drawings(split: str, seed: int = 0) -> Iterator[Drawing]:
    """Yield all images of a split. The same seed gives the same images."""
    for number, label in enumerate(CLASSES):
        rng = np.random.default_rng([seed, list(SPLITS).index(split), number])
        for _ in range(SPLITS[split]):
            yield draw(label, rng)


def write_images(root: Path, seed: int = 0) -> None:
    """Write the dataset as root/<split>/<class>/<number>.png."""
    for split in SPLITS:
        for number, drawing in enumerate(drawings(split, seed)):
            path = root / split / drawing.label / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawing.pixels).save(path, compress_level=1)
