"""Colours for classes, and pictures of images with their masks laid over them."""

import colorsys
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8

from patchpack.data.images import Pixels

SHARE = 0.55  # of the colour, over pixels of any class but the first


@lru_cache(maxsize=1)
def palette() -> UInt8[np.ndarray, "256 3"]:
    """Colours of classes, far apart in hue; the first, most often the background, is black."""
    colours = [(0.0, 0.0, 0.0)]
    golden = 0.61803398875
    for number in range(255):
        lightness = (0.55, 0.40, 0.70)[number // 12 % 3]
        colours.append(colorsys.hls_to_rgb(number * golden % 1, lightness, 0.75))
    return (np.array(colours) * 255).round().astype(np.uint8)


def overlay(pixels: Pixels, mask: UInt8[np.ndarray, "height width"]) -> Pixels:
    """An image in gray, the classes of its mask in colour."""
    gray = np.repeat(pixels.mean(2, keepdims=True), 3, 2)
    share = np.where(mask == 0, 0.0, SHARE)[..., None]
    return (gray * (1 - share) + palette()[mask] * share).round().astype(np.uint8)
