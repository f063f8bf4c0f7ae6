"""Images changed on purpose: sizes as promised, the same each time, worse with each severity."""

import numpy as np
import pytest

from patchpack.data.transforms.corruptions import CORRUPTIONS
from patchpack.data.transforms.perturbations import AspectChange, CenterCrop, Corrupt, Downsample


def photograph(height: int = 60, width: int = 80) -> np.ndarray:
    """A scene of gradients, edges and texture."""
    y, x = np.mgrid[:height, :width]
    base = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1)
    base[height // 4 : height // 2, width // 4 : width // 2] = (230, 60, 40)
    noise = np.random.default_rng(0).integers(0, 20, (height, width, 3))
    return (base * 0.9 + noise).clip(0, 255).astype(np.uint8)


ALTERATIONS = [
    CenterCrop(0.75),
    AspectChange(2.0),
    AspectChange(0.5),
    Downsample(20),
    Corrupt("fog", 3),
]


@pytest.mark.parametrize("alter", ALTERATIONS, ids=lambda a: a.name)
@pytest.mark.parametrize("shape", [(60, 80), (1, 1), (3, 200)], ids=str)
def test_sizes_are_those_that_plans_were_told(alter, shape):
    image = photograph(*shape)
    found = alter(image, np.random.default_rng(0))
    height, width = alter.sizes(np.array([shape[0]]), np.array([shape[1]]))
    assert found.shape == (height[0], width[0], 3) and found.dtype == np.uint8


def test_a_crop_is_the_middle():
    image = photograph(8, 12)
    assert (CenterCrop(0.5)(image, None) == image[2:6, 3:9]).all()


def test_stretching_keeps_the_area():
    assert AspectChange(4.0).sizes(np.array([100]), np.array([50])) == (
        np.array([50]),
        np.array([100]),
    )


def test_detail_is_lost_and_small_images_stay():
    image = photograph(64, 64)
    blurred = Downsample(8)(image, None)
    before, after = (np.diff(x.astype(int), axis=1).std() for x in (image, blurred))
    assert after < 0.7 * before
    assert Downsample(64)(image, None) is image


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_repeat_and_grow(kind):
    image = photograph(192, 256)
    found = [Corrupt(kind, s)(image, np.random.default_rng(7)) for s in range(1, 6)]
    again = Corrupt(kind, 3)(image, np.random.default_rng(7))
    assert (again == found[2]).all()
    away = [float(np.abs(f.astype(float) - image).mean()) for f in found]
    assert away[0] > 0.3
    if kind != "elastic transform":  # its first two severities are of another sort than the others
        assert away[4] > away[0]


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (40, 5)], ids=str)
def test_corruptions_take_images_of_any_shape(kind, shape):
    for severity in (1, 5):
        found = Corrupt(kind, severity)(photograph(*shape), np.random.default_rng(0))
        assert found.shape == (*shape, 3)


def test_there_are_fifteen_as_published():
    assert len(CORRUPTIONS) == 15
    with pytest.raises(ValueError, match="no corruption 'rain' of severity 1"):
        Corrupt("rain", 1)
    with pytest.raises(ValueError, match="of severity 6"):
        Corrupt("fog", 6)


def test_strength_follows_size():
    """The same share of an image is blurred in a small one and in a large one."""
    small, large = photograph(40, 40), photograph(40, 40).repeat(4, 0).repeat(4, 1)
    rng = np.random.default_rng
    few = Corrupt("defocus blur", 5)(small, rng(0)).astype(float)
    many = Corrupt("defocus blur", 5)(large, rng(0)).astype(float)
    shrunk = many.reshape(40, 4, 40, 4, 3).mean((1, 3))
    assert np.abs(shrunk - few).mean() < 0.25 * np.abs(few - small).mean()
