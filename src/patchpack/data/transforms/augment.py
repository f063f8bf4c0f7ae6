"""Augmentation for small datasets; all off by default, as in the paper.

It runs in the worker, on a single image, from that image's own random generator, so it does not
depend on packing, workers or resuming. It never changes the number of tokens: a crop is resized to
the grid planned for the whole image, and a 90° rotation swaps the sides of the grid.

Order: crop (in source pixels) → resize to the grid → flip → pixel operations → random erasing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from patchpack.data.images import Pixels
from patchpack.data.transforms.sample import Affine, Sample

LUMA = np.array([0.299, 0.587, 0.114])  # weights of red, green, blue (ITU-R BT.601)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Augmentation of training images; the defaults change nothing."""

    # horizontal: random left-right flip; dihedral: random flip and rotation by multiples of 90°
    flip: Literal["none", "horizontal", "dihedral"] = "none"
    min_crop_area: float = 1.0  # minimum area of a random crop, as a fraction of the image area
    # maximum factor by which a random crop changes the image's aspect ratio; 1: no change
    max_crop_aspect: float = 1.0
    # maximum relative change of brightness, contrast and saturation, 0 to 1
    color_jitter: float = 0.0
    randaugment_ops: int = 0  # number of random RandAugment operations per image
    randaugment_magnitude: float = 0.5  # maximum strength of RandAugment operations, 0 to 1
    random_erasing: float = 0.0  # probability of filling a random rectangle with noise
    mosaic: float = 0.0  # probability of a mosaic of four images, for masks and boxes

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
    """Crop a random window, its area uniform in [min_crop_area, 1], its aspect log-uniform.

    min_crop_area 0.08 and max_crop_aspect 4/3 give the Inception crop of a square (Szegedy et al.,
    arXiv 1409.4842, §6). Sides are clipped to the image.
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
    """Apply flips, pixel operations and erasing to a resized image; return new arrays or views."""
    sample = _flip(sample, config.flip, rng)
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


def _flip(sample: Sample, flip: str, rng: np.random.Generator) -> Sample:
    if flip == "none":
        return sample
    if rng.uniform() < 0.5:
        sample = sample.hflip()
    if flip == "dihedral":
        sample = sample.rot90(int(rng.integers(4)))
    return sample


def _jitter(pixels: Pixels, max_change: float, rng: np.random.Generator) -> Pixels:
    """Change brightness, contrast (about the mean luma) and saturation, in this order.

    Each is linear in the colors, so all three form one matrix, without rounding in between.
    """
    brightness, contrast, saturation = 1 + rng.uniform(-max_change, max_change, 3)
    image = Image.fromarray(pixels)
    mean = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    gray = float(LUMA @ mean) * brightness
    colors = saturation * np.eye(3) + (1 - saturation) * LUMA
    matrix = np.column_stack([contrast * brightness * colors, np.full(3, (1 - contrast) * gray)])
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
    """Return the mean color of the four corners, the fill color of geometric operations."""
    corners = pixels[:: max(1, len(pixels) - 1), :: max(1, pixels.shape[1] - 1)]
    return tuple(int(c) for c in corners.reshape(-1, pixels.shape[2]).mean(0))


def _about_center(height: int, width: int, a: float, b: float, d: float, e: float) -> Affine:
    """Return the linear map that fixes the center of the image."""
    y, x = height / 2, width / 2
    return a, b, x - a * x - b * y, d, e, y - d * x - e * y


def _rotation(height: int, width: int, amount: float) -> Affine:
    angle = -np.pi / 2 * amount
    cos, sin = round(float(np.cos(angle)), 15), round(float(np.sin(angle)), 15)
    return _about_center(height, width, cos, sin, -sin, cos)


# RandAugment (Cubuk et al., arXiv 1909.13719). Geometric operations take the image's height and
# width and an amount in [-1, 1]; photometric ones take a strength s in [0, 1] and a sign ±1.
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
