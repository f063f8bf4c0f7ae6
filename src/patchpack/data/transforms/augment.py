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
from PIL import Image, ImageEnhance, ImageOps

from patchpack.data.images import Pixels
from patchpack.data.transforms.sample import Affine, Sample

LUMA = np.array([0.299, 0.587, 0.114])  # of red, green, blue (ITU-R BT.601)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What may happen to a training image; every default leaves it alone."""

    flip: Literal["none", "horizontal", "dihedral"] = "none"  # left-right, or all 8 of a square
    min_crop_area: float = 1.0  # smallest area of a random crop, as a share of the image
    max_crop_aspect: float = 1.0  # largest factor between a crop's aspect and its image's own
    color_jitter: float = 0.0  # largest relative change of brightness, contrast and saturation
    randaugment_ops: int = 0  # random operations, as in RandAugment
    randaugment_magnitude: float = 0.5  # their strength, 0 to 1
    random_erasing: float = 0.0  # probability that a random rectangle is filled with noise
    mosaic: float = 0.0  # probability that four images share one canvas, for masks and boxes

    def __post_init__(self) -> None:
        if not 0 < self.min_crop_area <= 1:
            raise ValueError(f"min_crop_area must lie in (0, 1], not {self.min_crop_area}")
        if self.max_crop_aspect < 1:
            raise ValueError(f"max_crop_aspect must be at least 1, not {self.max_crop_aspect}")
        for name in ("color_jitter", "randaugment_magnitude", "random_erasing", "mosaic"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {getattr(self, name)}")
        if self.randaugment_ops < 0:
            raise ValueError(f"randaugment_ops must be 0 or more, not {self.randaugment_ops}")


def random_crop(sample: Sample, config: Augment, rng: np.random.Generator) -> Sample:
    """A window of an area uniform in [crop, 1] of the image, its aspect changed log-uniformly.

    With crop 0.08 and crop_aspect 4/3 the inception crop of a square (Szegedy et al., arXiv
    1409.4842, §6); a window that would not fit is made as large as fits.
    """
    if config.min_crop_area == 1 and config.max_crop_aspect == 1:
        return sample
    height, width = sample.size
    side = rng.uniform(config.min_crop_area, 1) ** 0.5
    stretch = np.exp(rng.uniform(-1, 1) * np.log(config.max_crop_aspect) / 2)
    h = int(np.clip(round(height * side * stretch), 1, height))
    w = int(np.clip(round(width * side / stretch), 1, width))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    return sample.crop(int(top), int(left), h, w)


def augment(sample: Sample, config: Augment, rng: np.random.Generator) -> Sample:
    """Symmetry, pixel operations and erasing of a resized image; new arrays or views."""
    sample = _symmetry(sample, config.flip, rng)
    if config.color_jitter:
        sample = sample.with_pixels(_jitter(sample.pixels, config.color_jitter, rng))
    names = (*GEOMETRIC_OPS, *PHOTOMETRIC_OPS)
    for _ in range(config.randaugment_ops):
        name = names[rng.integers(len(names))]
        strength = config.randaugment_magnitude * rng.uniform()
        sign = 1 if rng.uniform() < 0.5 else -1
        if name in GEOMETRIC_OPS:
            matrix = GEOMETRIC_OPS[name](*sample.size, strength * sign)
            sample = sample.affine(matrix, _background(sample.pixels))
        else:
            image = PHOTOMETRIC_OPS[name](Image.fromarray(sample.pixels), strength, sign)
            sample = sample.with_pixels(np.asarray(image))
    if config.random_erasing and rng.uniform() < config.random_erasing:
        sample = sample.with_pixels(_erase(sample.pixels, rng))
    return sample


def _symmetry(sample: Sample, kind: str, rng: np.random.Generator) -> Sample:
    if kind == "none":
        return sample
    if rng.uniform() < 0.5:
        sample = sample.hflip()
    if kind == "dihedral":
        sample = sample.rot90(int(rng.integers(4)))
    return sample


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


def _about_center(height: int, width: int, a: float, b: float, d: float, e: float) -> Affine:
    """A linear map that leaves the middle of the image where it is."""
    y, x = height / 2, width / 2
    return a, b, x - a * x - b * y, d, e, y - d * x - e * y


def _rotation(height: int, width: int, amount: float) -> Affine:
    angle = -np.pi / 2 * amount
    cos, sin = round(float(np.cos(angle)), 15), round(float(np.sin(angle)), 15)
    return _about_center(height, width, cos, sin, -sin, cos)


# Cubuk et al., RandAugment (arXiv 1909.13719), of an image of (height, width) by an amount in
# [-1, 1], or at strength s in [0, 1] and sign ±1.
GEOMETRIC_OPS: dict[str, Callable[[int, int, float], Affine]] = {
    "rotate": _rotation,
    "shear_x": lambda h, w, amount: (1, 0.5 * amount, -0.25 * amount * h, 0, 1, 0),
    "shear_y": lambda h, w, amount: (1, 0, 0, 0.5 * amount, 1, -0.25 * amount * w),
    "translate_x": lambda h, w, amount: (1, 0, 0.5 * amount * w, 0, 1, 0),
    "translate_y": lambda h, w, amount: (1, 0, 0, 0, 1, 0.5 * amount * h),
    "zoom": lambda h, w, amount: _about_center(h, w, 2**amount, 0, 0, 2**amount),
}
PHOTOMETRIC_OPS: dict[str, Callable[[Image.Image, float, int], Image.Image]] = {
    "brightness": lambda im, s, sign: ImageEnhance.Brightness(im).enhance(1 + 0.9 * s * sign),
    "contrast": lambda im, s, sign: ImageEnhance.Contrast(im).enhance(1 + 0.9 * s * sign),
    "saturation": lambda im, s, sign: ImageEnhance.Color(im).enhance(1 + 0.9 * s * sign),
    "sharpness": lambda im, s, sign: ImageEnhance.Sharpness(im).enhance(1 + 0.9 * s * sign),
    "autocontrast": lambda im, s, sign: ImageOps.autocontrast(im),
    "equalize": lambda im, s, sign: ImageOps.equalize(im),
    "posterize": lambda im, s, sign: ImageOps.posterize(im, 8 - round(4 * s)),
    "solarize": lambda im, s, sign: ImageOps.solarize(im, round(255 * (1 - s))),
}
