"""Class colors, and segmentation masks drawn over images."""

import colorsys
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8

from patchpack.data.images import Pixels

OPACITY = 0.55  # of the class color; class 0 is transparent


@lru_cache(maxsize=1)
def palette() -> UInt8[np.ndarray, "256 3"]:
    """Return RGB colors of class indices with distinct hues; class 0 (background) is black."""
    colors = [(0.0, 0.0, 0.0)]
    golden = 0.61803398875
    for number in range(255):
        lightness = (0.55, 0.40, 0.70)[number // 12 % 3]
        colors.append(colorsys.hls_to_rgb(number * golden % 1, lightness, 0.75))
    return (np.array(colors) * 255).round().astype(np.uint8)


def overlay(pixels: Pixels, mask: UInt8[np.ndarray, "height width"]) -> Pixels:
    """Draw the class colors of a mask over a grayscale copy of the image."""
    gray = np.repeat(pixels.mean(2, keepdims=True), 3, 2)
    opacity = np.where(mask == 0, 0.0, OPACITY)[..., None]
    return (gray * (1 - opacity) + palette()[mask] * opacity).round().astype(np.uint8)
