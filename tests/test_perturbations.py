"""Perturbations: sizes as planned, deterministic, stronger with each severity."""

import numpy as np
import pytest

from patchpack.data.transforms.corruptions import CORRUPTIONS
from patchpack.data.transforms.perturbations import AspectChange, CenterCrop, Corrupt, Downsample


def photograph(height: int = 60, width: int = 80) -> np.ndarray:
    """Return an image with gradients, edges and texture."""
    y, x = np.mgrid[:height, :width]
    base = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1)
    base[height // 4 : height // 2, width // 4 : width // 2] = (230, 60, 40)
    noise = np.random.default_rng(0).integers(0, 20, (height, width, 3))
    return (base * 0.9 + noise).clip(0, 255).astype(np.uint8)


PERTURBATIONS = [
    CenterCrop(0.75),
    AspectChange(2.0),
    AspectChange(0.5),
    Downsample(20),
    Corrupt("fog", 3),
]


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda p: p.name)
@pytest.mark.parametrize("shape", [(60, 80), (1, 1), (3, 200)], ids=str)
def test_images_have_the_planned_sizes(perturbation, shape):
    image = photograph(*shape)
    result = perturbation(image, np.random.default_rng(0))
    height, width = perturbation.sizes(np.array([shape[0]]), np.array([shape[1]]))
    assert result.shape == (height[0], width[0], 3) and result.dtype == np.uint8


def test_a_center_crop_is_the_center():
    image = photograph(8, 12)
    assert (CenterCrop(0.5)(image, None) == image[2:6, 3:9]).all()


def test_aspect_change_keeps_the_area():
    assert AspectChange(4.0).sizes(np.array([100]), np.array([50])) == (
        np.array([50]),
        np.array([100]),
    )


def test_downsampling_removes_detail_and_keeps_small_images():
    image = photograph(64, 64)
    blurred = Downsample(8)(image, None)
    before, after = (np.diff(x.astype(int), axis=1).std() for x in (image, blurred))
    assert after < 0.7 * before
    assert Downsample(64)(image, None) is image


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_are_deterministic_and_grow_with_severity(kind):
    image = photograph(192, 256)
    results = [Corrupt(kind, s)(image, np.random.default_rng(7)) for s in range(1, 6)]
    repeated = Corrupt(kind, 3)(image, np.random.default_rng(7))
    assert (repeated == results[2]).all()
    errors = [float(np.abs(result.astype(float) - image).mean()) for result in results]
    assert errors[0] > 0.3
    if kind != "elastic transform":  # its first two severities use other parameters
        assert errors[4] > errors[0]


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (40, 5)], ids=str)
def test_corruptions_take_images_of_any_shape(kind, shape):
    for severity in (1, 5):
        result = Corrupt(kind, severity)(photograph(*shape), np.random.default_rng(0))
        assert result.shape == (*shape, 3)


def test_all_fifteen_corruptions_exist():
    assert len(CORRUPTIONS) == 15
    with pytest.raises(ValueError, match="no corruption 'rain' of severity 1"):
        Corrupt("rain", 1)
    with pytest.raises(ValueError, match="of severity 6"):
        Corrupt("fog", 6)


def test_strength_scales_with_image_size():
    """A small and a large image are blurred by the same fraction of their size."""
    small, large = photograph(40, 40), photograph(40, 40).repeat(4, 0).repeat(4, 1)
    rng = np.random.default_rng
    blurred_small = Corrupt("defocus blur", 5)(small, rng(0)).astype(float)
    blurred_large = Corrupt("defocus blur", 5)(large, rng(0)).astype(float)
    shrunk = blurred_large.reshape(40, 4, 40, 4, 3).mean((1, 3))
    assert np.abs(shrunk - blurred_small).mean() < 0.25 * np.abs(blurred_small - small).mean()
