"""The fifteen corruptions of ImageNet-C: noise, blur, weather, digital.

Hendrycks & Dietterich (arXiv 1903.12261), §4.1, with the parameters of their published code. Those
are for images of 224 px; here, lengths in pixels scale with an image's side √area, so a severity
has the same effect on small and large images. Two differences: glass blur displaces all pixels at
once instead of in sequence, and frost uses a generated texture instead of photographs.

Each function takes pixels in 0..1 [height, width, 3], a severity 0 to 4 and a generator; the same
generator gives the same image. The caller clips the result to 0..1.
"""

from collections.abc import Callable
from io import BytesIO
from math import ceil, cos, sin

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

Picture = Float[np.ndarray, "height width 3"]
Field = Float[np.ndarray, "height width"]
Rng = np.random.Generator
SIDE = 224  # image side in pixels that the parameters are made for
SEVERITIES = (1, 2, 3, 4, 5)
MIN_FFT_SIZE = 100  # kernels with this many elements or more are applied by FFT


def gaussian_noise(x: Picture, severity: int, rng: Rng) -> Picture:
    return x + rng.normal(0, (0.08, 0.12, 0.18, 0.26, 0.38)[severity], x.shape).astype(np.float32)


def shot_noise(x: Picture, severity: int, rng: Rng) -> Picture:
    photons = (60, 25, 12, 5, 3)[severity]
    return rng.poisson(x * photons).astype(np.float32) / photons


def impulse_noise(x: Picture, severity: int, rng: Rng) -> Picture:
    """Salt-and-pepper noise in each channel."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity]
    draws = rng.random(x.shape, np.float32)
    return np.where(draws < share / 2, 0, np.where(draws > 1 - share / 2, 1, x)).astype(np.float32)


def defocus_blur(x: Picture, severity: int, rng: Rng) -> Picture:
    """Blur with a disk kernel."""
    return _convolve(x, _disk((3, 4, 6, 8, 10)[severity] * _scale(x)))


def glass_blur(x: Picture, severity: int, rng: Rng) -> Picture:
    sigma, shift, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity]
    x = _gaussian(x, sigma * _scale(x))
    height, width = x.shape[:2]
    y, z = np.mgrid[:height, :width]
    max_shift = max(1.0, shift * _scale(x))
    for _ in range(rounds):
        shifts = rng.uniform(-max_shift, max_shift, (2, height, width))
        dy, dx = np.rint(shifts).astype(np.int64)
        x = x[(y + dy).clip(0, height - 1), (z + dx).clip(0, width - 1)]
    return _gaussian(x, sigma * _scale(x))


def motion_blur(x: Picture, severity: int, rng: Rng) -> Picture:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity]
    angle = np.radians(rng.uniform(-45, 45))
    return _convolve(x, _line(radius * _scale(x), sigma * _scale(x), angle))


def zoom_blur(x: Picture, severity: int, rng: Rng) -> Picture:
    """Average the image and enlargements of its center."""
    limit, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.33, 0.03))[severity]
    zooms = np.arange(1, limit, step)
    return (x + sum(_zoom(x, float(zoom)) for zoom in zooms)) / (len(zooms) + 1)


def snow(x: Picture, severity: int, rng: Rng) -> Picture:
    mean, std, zoom, threshold, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7), (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity]  # fmt: skip
    height, width = x.shape[:2]
    flakes = rng.normal(mean, std, (height, width)).astype(np.float32)
    flakes = _zoom(flakes[..., None], max(1.0, zoom * _scale(x)))
    flakes = np.where(flakes < threshold, 0, flakes)
    angle = np.radians(rng.uniform(-135, -45))
    flakes = _convolve(flakes, _line(radius * _scale(x), sigma * _scale(x), angle)).clip(0, 1)
    gray = (x @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    whitened = kept * x + (1 - kept) * np.maximum(x, gray * 1.5 + 0.5)
    return whitened + flakes + flakes[::-1, ::-1]


def frost(x: Picture, severity: int, rng: Rng) -> Picture:
    kept, ice = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity]
    texture = _plasma(x.shape, rng, 1.6) * 0.6 + _plasma(x.shape, rng, 1.2) * 0.4
    crystals = ((texture - 0.45) * 4).clip(0, 1)[..., None]
    return kept * x + ice * crystals * np.array([0.85, 0.93, 1.0], np.float32)


def fog(x: Picture, severity: int, rng: Rng) -> Picture:
    density, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[severity]
    brightest = x.max()
    foggy = x + density * _plasma(x.shape, rng, decay)[..., None]
    return foggy * brightest / (brightest + density)


def brightness(x: Picture, severity: int, rng: Rng) -> Picture:
    """Raise the value of HSV, which scales all channels by the same factor."""
    value = x.max(2, keepdims=True)
    raised = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[severity]).clip(0, 1)
    return np.where(value > 0, x * raised / np.maximum(value, 1e-6), raised).astype(np.float32)


def contrast(x: Picture, severity: int, rng: Rng) -> Picture:
    mean = x.mean((0, 1), keepdims=True)
    return (x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[severity] + mean


def elastic_transform(x: Picture, severity: int, rng: Rng) -> Picture:
    """Apply a random affine map, then a smooth random displacement."""
    affine, smoothness, displacement = (
        (0.16, 0.7, 0.46),
        (0.32, 0.08, 4.1),
        (0.03, 0.01, 0.81),
        (0.03, 0.01, 1.1),
        (0.03, 0.01, 2.0),
    )[severity]  # matrix change; sigma as a fraction of the side; standard deviation in pixels
    height, width = x.shape[:2]
    y, z = np.mgrid[:height, :width].astype(np.float32)
    matrix = (np.eye(2) + rng.uniform(-affine, affine, (2, 2))).astype(np.float32)
    center = np.array([height / 2, width / 2], np.float32)
    coordinates = (np.stack([y, z], -1) - center) @ matrix.T + center
    field = rng.uniform(-1, 1, (height, width, 2)).astype(np.float32)
    field = _gaussian(field, smoothness * (height * width) ** 0.5)
    field -= field.mean((0, 1))
    scale = displacement * _scale(x) / max(1e-9, float(field.std()))
    return _sample(x, coordinates + field * scale)


def pixelate(x: Picture, severity: int, rng: Rng) -> Picture:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity]
    height, width = x.shape[:2]
    image = Image.fromarray(_bytes(x))
    size = max(1, round(width * share)), max(1, round(height * share))
    small = image.resize(size, Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST), np.float32) / 255


def jpeg_compression(x: Picture, severity: int, rng: Rng) -> Picture:
    stream = BytesIO()
    Image.fromarray(_bytes(x)).save(stream, "JPEG", quality=(25, 18, 15, 10, 7)[severity])
    return np.asarray(Image.open(stream), np.float32) / 255


CORRUPTIONS: dict[str, Callable[[Picture, int, Rng], Picture]] = {
    f.__name__.replace("_", " "): f
    for f in (
        gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur,
        zoom_blur, snow, frost, fog, brightness, contrast, elastic_transform, pixelate,
        jpeg_compression,
    )
}  # fmt: skip


def _scale(x: np.ndarray) -> float:
    """Return the image's side √area relative to SIDE."""
    return (x.shape[0] * x.shape[1]) ** 0.5 / SIDE


def _bytes(x: Picture) -> np.ndarray:
    return np.rint(x.clip(0, 1) * 255).astype(np.uint8)


def _to_planes(x: np.ndarray) -> Float[Tensor, "channel 1 height width"]:
    return torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1), np.float32))[:, None]


def _from_planes(planes: Float[Tensor, "channel 1 height width"]) -> np.ndarray:
    return planes[:, 0].numpy().transpose(1, 2, 0)


def _convolve(x: np.ndarray, kernel: Field) -> np.ndarray:
    """Convolve each channel with a kernel of odd sides, with replicated edges."""
    ry, rx = kernel.shape[0] // 2, kernel.shape[1] // 2
    planes = F.pad(_to_planes(x), (rx, rx, ry, ry), mode="replicate")
    weight = torch.from_numpy(np.ascontiguousarray(kernel, np.float32))
    if weight.numel() < MIN_FFT_SIZE:
        return _from_planes(F.conv2d(planes, weight[None, None]))
    size = planes.shape[-2:]
    spectrum = torch.fft.rfft2(planes) * torch.fft.rfft2(weight, size).conj()
    height, width = x.shape[:2]
    return _from_planes(torch.fft.irfft2(spectrum, size)[..., :height, :width])


def _gaussian(x: np.ndarray, sigma: float) -> np.ndarray:
    """Blur with a separable Gaussian, truncated at three sigmas."""
    if sigma < 0.2:
        return x
    radius = max(1, ceil(3 * sigma))
    line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    line /= line.sum()
    return _convolve(_convolve(x, line[:, None]), line[None, :])


def _disk(radius: float) -> Field:
    """Return a disk kernel with a soft edge."""
    r = max(1, ceil(radius))
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    disk = (radius + 0.5 - np.hypot(y, x)).clip(0, 1)
    return disk / disk.sum()


def _line(radius: float, sigma: float, angle: float) -> Field:
    """Return a motion kernel: a line from the center that fades like a Gaussian."""
    r = max(1, ceil(radius))
    kernel = np.zeros((2 * r + 1, 2 * r + 1), np.float32)
    distances = np.linspace(0, max(radius, 0.5), 4 * r + 1)
    weights = np.exp(-0.5 * (distances / max(sigma, 0.3)) ** 2)
    rows = np.rint(r + distances * sin(angle)).astype(int)
    columns = np.rint(r + distances * cos(angle)).astype(int)
    np.add.at(kernel, (rows, columns), weights)
    return kernel / kernel.sum()


def _zoom(x: np.ndarray, factor: float) -> np.ndarray:
    """Enlarge the center of an image to the image's size."""
    height, width = x.shape[:2]
    h, w = max(1, ceil(height / factor)), max(1, ceil(width / factor))
    top, left = (height - h) // 2, (width - w) // 2
    center = _to_planes(x[top : top + h, left : left + w])
    return _from_planes(
        F.interpolate(center, (height, width), mode="bilinear", align_corners=False)
    )


def _sample(x: Picture, coordinates: Float[np.ndarray, "height width 2"]) -> Picture:
    """Sample the image at (y, x) coordinates, bilinear, with reflected borders."""
    height, width = x.shape[:2]
    scaled = (coordinates[..., ::-1] + 0.5) / np.array([width, height], np.float32) * 2 - 1
    grid = torch.from_numpy(np.ascontiguousarray(scaled, np.float32))[None]
    planes = _to_planes(x)[:, 0][None]
    sampled = F.grid_sample(planes, grid, padding_mode="reflection", align_corners=False)
    return sampled[0].numpy().transpose(1, 2, 0)


def _plasma(shape: tuple[int, ...], rng: Rng, decay: float) -> Field:
    """Return a cloud in 0..1: noise summed over scales, each `decay` times weaker than the last."""
    height, width = shape[:2]
    cloud = np.zeros((height, width), np.float32)
    cells, strength = 2, 1.0
    while cells <= max(height, width):
        h, w = max(2, round(cells * height / max(height, width))), cells
        noise = torch.from_numpy(rng.random((1, 1, max(2, h), w), np.float32))
        upsampled = F.interpolate(noise, (height, width), mode="bicubic", align_corners=True)
        cloud += strength * upsampled[0, 0].numpy()
        cells, strength = cells * 2, strength / decay
    cloud -= cloud.min()
    return cloud / max(float(cloud.max()), 1e-6)
