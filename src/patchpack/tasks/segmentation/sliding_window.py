"""Overlapping windows over an image that is larger than a token budget, each within the budget."""

from math import ceil, isqrt
from typing import NamedTuple

WINDOW_OVERLAP = 0.25  # minimum overlap of neighbors, as a share of the window's side


class Window(NamedTuple):
    """A window over an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def windows(size: tuple[int, int], patch_size: int, tokens: int) -> list[Window]:
    """Windows of at most `tokens` patches that together cover an image of (height, width).

    They are square where the image allows, longer where it is narrow; neighbors overlap by at least
    a quarter. An image within the budget is one window.
    """
    height, width = size
    if ceil(height / patch_size) * ceil(width / patch_size) <= tokens:
        return [Window(0, 0, height, width)]
    side = max(1, isqrt(tokens))
    h = min(ceil(height / patch_size), side)
    w = min(ceil(width / patch_size), max(1, tokens // h))
    h = min(ceil(height / patch_size), max(1, tokens // w))
    high, wide = min(height, h * patch_size), min(width, w * patch_size)
    return [
        Window(top, left, high, wide)
        for top in _starts(height, high)
        for left in _starts(width, wide)
    ]


def _starts(whole: int, part: int) -> list[int]:
    """Evenly spaced offsets of parts that cover the whole."""
    if part >= whole:
        return [0]
    count = 1 + ceil((whole - part) / max(1, int(part * (1 - WINDOW_OVERLAP))))
    return [round(i * (whole - part) / (count - 1)) for i in range(count)]
