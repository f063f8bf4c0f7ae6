"""Augmentation for small data; all of it off by default, as in the paper.

It happens in the worker, on one image, from that image's own random generator, so it does not
depend on packing, on workers or on where a run was resumed. None of it changes the number of
tokens: a crop fills the grid that was planned for the whole image, and a quarter turn swaps the
grid's sides.

Order: crop (in source pixels) → resize to the grid → symmetry → pixel operations → erase.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

from patchpack.data.images import mirror

Pixels = UInt8[np.ndarray, "height width channel"]
LUMA = np.array([0.299, 0.587, 0.114])  # of red, green, blue (ITU-R BT.601)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What may happen to a training image; every default leaves it alone."""

    symmetry: Literal["none", "flip", "dihedral"] = "none"  # left-right, or all 8 of a square
    crop: float = 1.0  # smallest area of a random crop, as a share of the image
    crop_aspect: float = 1.0  # largest factor between a crop's aspect and its image's own
    colour: float = 0.0  # largest relative change of brightness, contrast and saturation
    operations: int = 0  # random operations, as in RandAugment
    magnitude: float = 0.5  # their strength, 0 to 1
    erase: float = 0.0  # probability that a random rectangle is filled with noise

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must lie in (0, 1], not {self.crop}")
        if self.crop_aspect < 1:
            raise ValueError(f"crop_aspect must be at least 1, not {self.crop_aspect}")
        for name in ("colour", "magnitude", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {getattr(self, name)}")
        if self.operations < 0:
            raise ValueError(f"operations must be 0 or more, not {self.operations}")


def random_crop(pixels: Pixels, config: Augment, rng: np.random.Generator) -> Pixels:
    """A window of an area uniform in [crop, 1] of the image, its aspect changed log-uniformly.

    With crop 0.08 and crop_aspect 4/3 the inception crop of a square (Szegedy et al., arXiv
    1409.4842, §6); a window that would not fit is made as large as fits.
    """
    if config.crop == 1 and config.crop_aspect == 1:
        return pixels
    height, width = pixels.shape[:2]
    side = rng.uniform(config.crop, 1) ** 0.5
    stretch = np.exp(rng.uniform(-1, 1) * np.log(config.crop_aspect) / 2)
    h = int(np.clip(round(height * side * stretch), 1, height))
    w = int(np.clip(round(width * side / stretch), 1, width))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    return pixels[top : top + h, left : left + w]


def augment(pixels: Pixels, config: Augment, rng: np.random.Generator) -> Pixels:
    """Symmetry, pixel operations and erasing of a resized image; a new array or a view."""
    pixels = _symmetry(pixels, config.symmetry, rng)
    if config.colour:
        pixels = _jitter(pixels, config.colour, rng)
    names = tuple(OPERATIONS)
    for _ in range(config.operations):
        name = names[rng.integers(len(names))]
        strength = config.magnitude * rng.uniform()
        sign = 1 if rng.uniform() < 0.5 else -1
        image = OPERATIONS[name](Image.fromarray(pixels), strength, sign, _background(pixels))
        pixels = np.asarray(image)
    if config.erase and rng.uniform() < config.erase:
        pixels = _erase(pixels, rng)
    return pixels


def _symmetry(pixels: Pixels, kind: str, rng: np.random.Generator) -> Pixels:
    if kind == "none":
        return pixels
    if rng.uniform() < 0.5:
        pixels = mirror(pixels)
    if kind == "dihedral":
        pixels = np.rot90(pixels, int(rng.integers(4)))
    return pixels


def _jitter(pixels: Pixels, most: float, rng: np.random.Generator) -> Pixels:
    """Change brightness, contrast (about the mean luma) and saturation, in this order, at once.

    Each is linear in the colours, so the three are one matrix; nothing is rounded in between.
    """
    brightness, contrast, saturation = 1 + rng.uniform(-most, most, 3)
    image = Image.fromarray(pixels)
    mean = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    gray = float(LUMA @ mean) * brightness
    colours = saturation * np.eye(3) + (1 - saturation) * LUMA
    matrix = np.column_stack([contrast * brightness * colours, np.full(3, (1 - contrast) * gray)])
    return np.asarray(image.convert("RGB", tuple(matrix.ravel())))


def _erase(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Fill 2 to 33 % of the area with noise (Zhong et al., Random Erasing, arXiv 1708.04896)."""
    height, width, channels = pixels.shape
    area = rng.uniform(0.02, 0.33) * height * width
    aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
    h = min(height, max(1, round((area * aspect) ** 0.5)))
    w = min(width, max(1, round((area / aspect) ** 0.5)))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    pixels = pixels.copy()
    pixels[top : top + h, left : left + w] = rng.integers(0, 256, (h, w, channels), np.uint8)
    return pixels


def _background(pixels: Pixels) -> tuple[int, ...]:
    """The mean of the four corners: what to show where a turn uncovers nothing."""
    corners = pixels[:: max(1, len(pixels) - 1), :: max(1, pixels.shape[1] - 1)]
    return tuple(int(c) for c in corners.reshape(-1, pixels.shape[2]).mean(0))


Operation = Callable[[Image.Image, float, int, tuple[int, ...]], Image.Image]


def _affine(image: Image.Image, matrix: tuple[float, ...], fill: tuple[int, ...]) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=fill
    )


def _zoom(image: Image.Image, factor: float, fill: tuple[int, ...]) -> Image.Image:
    x, y = image.width / 2, image.height / 2
    return _affine(image, (factor, 0, x - factor * x, 0, factor, y - factor * y), fill)


# Cubuk et al., RandAugment (arXiv 1909.13719), at strength s in [0, 1] and sign ±1.
OPERATIONS: dict[str, Operation] = {
    "rotate": lambda im, s, sign, fill: im.rotate(
        90 * s * sign, Image.Resampling.BILINEAR, fillcolor=fill
    ),
    "shear_x": lambda im, s, sign, fill: _affine(
        im, (1, 0.5 * s * sign, -0.25 * s * sign * im.height, 0, 1, 0), fill
    ),
    "shear_y": lambda im, s, sign, fill: _affine(
        im, (1, 0, 0, 0.5 * s * sign, 1, -0.25 * s * sign * im.width), fill
    ),
    "translate_x": lambda im, s, sign, fill: _affine(
        im, (1, 0, 0.5 * s * sign * im.width, 0, 1, 0), fill
    ),
    "translate_y": lambda im, s, sign, fill: _affine(
        im, (1, 0, 0, 0, 1, 0.5 * s * sign * im.height), fill
    ),
    "zoom": lambda im, s, sign, fill: _zoom(im, 2 ** (s * sign), fill),
    "brightness": lambda im, s, sign, _: ImageEnhance.Brightness(im).enhance(1 + 0.9 * s * sign),
    "contrast": lambda im, s, sign, _: ImageEnhance.Contrast(im).enhance(1 + 0.9 * s * sign),
    "saturation": lambda im, s, sign, _: ImageEnhance.Color(im).enhance(1 + 0.9 * s * sign),
    "sharpness": lambda im, s, sign, _: ImageEnhance.Sharpness(im).enhance(1 + 0.9 * s * sign),
    "autocontrast": lambda im, s, sign, _: ImageOps.autocontrast(im),
    "equalize": lambda im, s, sign, _: ImageOps.equalize(im),
    "posterize": lambda im, s, sign, _: ImageOps.posterize(im, 8 - round(4 * s)),
    "solarize": lambda im, s, sign, _: ImageOps.solarize(im, round(255 * (1 - s))),
}
