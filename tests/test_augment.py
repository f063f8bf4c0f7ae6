"""Augmentation changes pixels as configured, never the number of tokens, reproducibly."""

import numpy as np
import pytest

from patchpack.batch import IGNORE_INDEX
from patchpack.data.annotations.boxes import Boxes
from patchpack.data.annotations.masks import Mask
from patchpack.data.transforms.augment import (
    GEOMETRIC_OPS,
    PHOTOMETRIC_OPS,
    Augment,
    augment,
    random_crop,
)
from patchpack.data.transforms.mosaic import mosaic
from patchpack.data.transforms.sample import Sample

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)
WHOLE = Sample(PIXELS)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_off_by_default():
    assert augment(WHOLE, Augment(), rng()) is WHOLE
    assert random_crop(WHOLE, Augment(), rng()) is WHOLE


def test_flip_is_left_right():
    results = {
        augment(WHOLE, Augment(flip="horizontal"), rng(s)).pixels.tobytes() for s in range(20)
    }
    assert results == {PIXELS.tobytes(), PIXELS[:, ::-1].tobytes()}


def test_color_jitter_changes_brightness_contrast_and_saturation_in_order():
    pixels, max_change = 64 + PIXELS // 2, 0.3
    luma = np.array([0.299, 0.587, 0.114])
    for seed in range(5):
        brightness, contrast, saturation = 1 + rng(seed).uniform(-max_change, max_change, 3)
        bright = brightness * pixels
        gray = (bright @ luma).mean()
        contrasted = gray + contrast * (bright - gray)
        pixel_gray = (contrasted @ luma)[..., None]
        expected = (pixel_gray + saturation * (contrasted - pixel_gray)).clip(0, 255)
        result = augment(Sample(pixels), Augment(color_jitter=max_change), rng(seed)).pixels
        assert np.abs(result - expected).max() <= 1.2  # the mean is rounded, and so is the result


def test_dihedral_gives_all_eight_symmetries():
    config = Augment(flip="dihedral")
    results = [augment(WHOLE, config, rng(s)).pixels for s in range(60)]
    assert len({(r.shape, r.tobytes()) for r in results}) == 8
    assert {r.shape for r in results} == {(24, 36, 3), (36, 24, 3)}


def test_a_crop_keeps_the_aspect_ratio():
    image = np.zeros((400, 100, 3), np.uint8)
    for seed in range(20):
        h, w = random_crop(Sample(image), Augment(min_crop_area=0.25), rng(seed)).size
        assert abs(h / w - 4) < 0.1 and h * w >= 0.24 * image.size / 3


def test_an_inception_crop_changes_area_and_aspect():
    image = np.zeros((300, 300, 3), np.uint8)
    config = Augment(min_crop_area=0.08, max_crop_aspect=4 / 3)
    sizes = np.array([random_crop(Sample(image), config, rng(s)).size for s in range(2000)])
    areas, aspects = sizes.prod(1) / 300**2, sizes[:, 0] / sizes[:, 1]
    assert 0.07 < areas.min() < 0.12 and 0.95 < areas.max() <= 1
    assert areas.mean() == pytest.approx(0.54, abs=0.03)
    assert 0.74 < aspects.min() < 0.77 and 1.3 < aspects.max() < 1.35
    assert np.log(aspects).mean() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("name", [*GEOMETRIC_OPS, *PHOTOMETRIC_OPS])
def test_every_operation_runs_and_keeps_the_size(name, monkeypatch):
    for table, ops in (("GEOMETRIC_OPS", GEOMETRIC_OPS), ("PHOTOMETRIC_OPS", PHOTOMETRIC_OPS)):
        single = {name: ops[name]} if name in ops else {}
        monkeypatch.setattr(f"patchpack.data.transforms.augment.{table}", single)
    config = Augment(randaugment_ops=1, randaugment_magnitude=1.0)
    results = [augment(WHOLE, config, rng(s)).pixels for s in range(3)]
    assert all(r.shape == PIXELS.shape and r.dtype == np.uint8 for r in results)
    assert any(not np.array_equal(r, PIXELS) for r in results) or name == "autocontrast"


def test_an_image_one_pixel_high_works_with_all_augmentation():
    thin = Sample(PIXELS[:1, :9])
    config = Augment(
        flip="dihedral",
        color_jitter=0.5,
        randaugment_ops=4,
        randaugment_magnitude=1.0,
        random_erasing=1.0,
    )
    for seed in range(30):
        assert augment(thin, config, rng(seed)).pixels.size == thin.pixels.size


def test_the_same_generator_gives_the_same_image():
    config = Augment(flip="dihedral", color_jitter=0.4, randaugment_ops=2, random_erasing=0.5)
    first, second, other = (augment(WHOLE, config, rng(seed)).pixels for seed in (5, 5, 6))
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_erasing_changes_a_rectangle_and_not_the_input():
    before = PIXELS.copy()
    erased = augment(WHOLE, Augment(random_erasing=1.0), rng()).pixels
    changed = (erased != PIXELS).any(-1).mean()
    assert 0.01 < changed < 0.5 and np.array_equal(PIXELS, before)


@pytest.mark.parametrize("name", GEOMETRIC_OPS)
def test_a_mask_moves_with_its_pixels(name, monkeypatch):
    """Every class has a unique color, so pixels and mask can be compared."""
    monkeypatch.setattr(
        "patchpack.data.transforms.augment.GEOMETRIC_OPS", {name: GEOMETRIC_OPS[name]}
    )
    monkeypatch.setattr("patchpack.data.transforms.augment.PHOTOMETRIC_OPS", {})
    mask = np.kron(np.arange(12).reshape(3, 4) % 5, np.ones((20, 15))).astype(np.uint8)
    before = Sample(np.repeat(40 * mask[..., None], 3, 2), {"masks": Mask(mask)})
    config = Augment(
        flip="dihedral", min_crop_area=0.5, randaugment_ops=1, randaugment_magnitude=1.0
    )
    for seed in range(12):
        after = augment(random_crop(before, config, rng(seed)).resize((48, 64)), config, rng(seed))
        values = after.annotations["masks"].values
        assert values.shape == after.size
        inside = values != IGNORE_INDEX
        colors = after.pixels[..., 0].astype(float)
        same = np.abs(colors - 40.0 * values)[inside] < 20
        assert inside.mean() > 0.15 and same.mean() > 0.9  # only the pixels have smooth edges


@pytest.mark.parametrize(
    "settings",
    [
        {"min_crop_area": 0},
        {"min_crop_area": 2},
        {"max_crop_aspect": 0.5},
        {"random_erasing": -1},
        {"randaugment_ops": -1},
    ],
)
def test_invalid_settings_raise(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Augment(**settings)


def test_a_mosaic_shows_four_images_with_masks_and_boxes():
    """Each image has a unique color and class, and a box around a white square."""
    samples = []
    for label, (h, w) in enumerate(((40, 60), (90, 30), (50, 50), (20, 80))):
        pixels = np.full((h, w, 3), 40 * label, np.uint8)
        pixels[h // 2 - 3 : h // 2 + 3, w // 2 - 3 : w // 2 + 3] = 255
        box = np.array([[h // 2 - 3, w // 2 - 3, h // 2 + 3, w // 2 + 3]], np.float32)
        mask = Mask(np.full((h, w), label, np.uint8))
        samples.append(Sample(pixels, {"masks": mask, "boxes": Boxes(box, np.array([label]))}))
    for seed in range(8):
        canvas = mosaic(samples, (64, 48), rng(seed))
        mask, boxes = canvas.annotations["masks"].values, canvas.annotations["boxes"]
        assert canvas.size == (64, 48) and set(np.unique(mask)) == {0, 1, 2, 3}
        matching = np.abs(canvas.pixels[..., 0].astype(int) - 40 * mask) < 12
        assert matching.mean() > 0.7
        for (top, left, bottom, right), label in zip(
            boxes.boxes.round().astype(int), boxes.labels, strict=True
        ):
            inside = canvas.pixels[top:bottom, left:right, 0]
            assert (inside > 140).mean() > 0.5
            assert (mask[top:bottom, left:right] == label).all()
    plain = mosaic([Sample(s.pixels) for s in samples], (64, 48), rng(0))
    assert not plain.annotations
