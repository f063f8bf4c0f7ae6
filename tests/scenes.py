"""Generated images with masks: rectangles and discs on noise, in sizes of any aspect."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from patchpack.config import RunConfig
from patchpack.data.transforms.augment import Augment
from patchpack.tasks.segmentation.model import SegmentationConfig
from runs import tiny

CLASSES = ("ground", "box", "disc")


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return an image [h, w, 3] and its mask [h, w]; boxes are bright, discs dark."""
    h, w = rng.integers(16, 48, 2)
    y, x = np.mgrid[:h, :w]
    mask = np.zeros((h, w), np.uint8)
    top, left = rng.integers(0, h // 2), rng.integers(0, w // 2)
    mask[top : top + h // 3, left : left + w // 3] = 1
    center, radius = rng.uniform(0.3, 1, 2) * (h, w), rng.uniform(3, 7)
    mask[(y - center[0]) ** 2 + (x - center[1]) ** 2 < radius**2] = 2
    gray = np.array([128, 220, 30])[mask] + rng.integers(-15, 16, (h, w))
    return np.repeat(gray[..., None], 3, 2).clip(0, 255).astype(np.uint8), mask


def write_scenes(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Write root/images/<split>/*.png, root/masks/<split>/*.png and root/classes.json."""
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            pixels, mask = draw(rng)
            Image.fromarray(pixels).save(root / "images" / split / f"{number:03d}.png")
            Image.fromarray(mask).save(root / "masks" / split / f"{number:03d}.png")
    (root / "classes.json").write_text('["ground", "box", "disc"]')
    return root


def tiny_segmenter(root: Path, out: Path, steps: int = 12, **task: object) -> RunConfig:
    config = tiny(root, out, steps, ema=0.0)
    data = replace(
        config.data, augment=Augment(flip="dihedral", min_crop_area=0.5, randaugment_ops=1)
    )
    return replace(config, data=data, task=SegmentationConfig(**task))
