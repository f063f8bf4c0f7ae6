"""Distributions of image sizes for the benchmarks."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np


def read_sizes(path: Path) -> dict[str, np.ndarray]:
    """Read a CSV with columns dataset,width,height,count.

    Returns (height, width, count) [size, 3] by dataset.
    """
    rows = defaultdict(list)
    with path.open() as file:
        for row in csv.DictReader(file):
            rows[row["dataset"]].append([int(row[name]) for name in ("height", "width", "count")])
    return {name: np.array(sizes) for name, sizes in rows.items()}


def log_normal_sizes() -> dict[str, np.ndarray]:
    """Return sizes of about 400 px per side, two thirds with an aspect ratio of 1/1.4 to 1.4."""
    rng = np.random.default_rng(0)
    side, aspect = 400 * np.exp(rng.normal(0, 0.4, 20_000)), np.exp(rng.normal(0, 0.35, 20_000))
    sizes = np.rint([side * aspect**0.5, side / aspect**0.5]).astype(int)
    return {"log-normal": np.stack([*sizes, np.ones_like(sizes[0])], axis=1)}


def draw(sizes: np.ndarray, images: int, seed: int = 0) -> np.ndarray:
    """Draw (height, width) of images with replacement, [image, 2]."""
    share = sizes[:, 2] / sizes[:, 2].sum()
    return sizes[np.random.default_rng(seed).choice(len(share), images, p=share), :2]
