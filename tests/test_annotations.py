"""A new kind of annotation needs one class: it moves with its image and reaches the batch."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchpack.data.annotations.captions import build_captions
from patchpack.data.config import DataConfig, InputSpec, LoaderConfig
from patchpack.data.index import Index, build_index
from patchpack.data.packing.resolution import FitTokens
from patchpack.data.pipeline import EvalView, evaluation_batches, training_batches
from patchpack.data.transforms.augment import Augment
from patchpack.data.transforms.mosaic import mosaic
from patchpack.data.transforms.sample import Sample
from patchpack.train.items import fingerprint

INPUT = InputSpec(patch_size=8)


@dataclass(frozen=True, eq=False)
class Point:
    """The (y, x) of a point in one image, or of several in a mosaic; those outside are dropped."""

    yx: np.ndarray
    in_pixels = True

    def read(self, size, key):
        return self

    def crop(self, top, left, height, width):
        return Point(self.yx - [top, left]).within((height, width))

    def resize(self, before, after):
        return Point(self.yx * np.divide(after, before))

    def hflip(self, size):
        return Point(np.stack([self.yx[:, 0], size[1] - self.yx[:, 1]], 1))

    def rot90(self, k, size):
        point = self
        for side in (size[1], size[0], size[1], size[0])[: k % 4]:
            point = Point(np.stack([side - point.yx[:, 1], point.yx[:, 0]], 1))
        return point

    def affine(self, matrix, inverse, size):
        a, b, c, d, e, f = inverse
        y, x = self.yx.T
        return Point(np.stack([d * x + e * y + f, a * x + b * y + c], 1)).within(size)

    def merge(self, parts, offsets, size):
        return Point(np.concatenate([p.yx + o for p, o in zip(parts, offsets, strict=True)]))

    def attach(self, patches, size, original):
        point = original or self
        targets = {"points": torch.from_numpy(point.yx), "size": torch.tensor(size)}
        return replace(patches, targets=patches.targets | targets)

    def within(self, size):
        return Point(self.yx[((self.yx >= 0) & (self.yx <= size)).all(1)])


@dataclass(frozen=True, eq=False)
class Points:
    """A point in each image of an index."""

    yx: np.ndarray
    name = "points"

    def select(self, rows):
        return Points(self.yx[rows])

    def item(self, row, seed, epoch, root):
        return Point(self.yx[row : row + 1])

    def stream_lengths(self, seed, epoch):
        return None

    def digest(self, hash):
        hash.update(self.yx.astype("<f8").tobytes())

    def files(self) -> tuple[str, ...]:
        return ()


def draw(size: tuple[int, int], y: int, x: int) -> np.ndarray:
    """A bright disc on black, around (y, x)."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    disc = (rows - y) ** 2 + (columns - x) ** 2 < 4**2
    return np.repeat(255 * disc[..., None], 3, 2).astype(np.uint8)


def disc_center(pixels: np.ndarray) -> np.ndarray:
    y, x = np.nonzero(pixels[..., 0] > 127)
    return np.array([y.mean() + 0.5, x.mean() + 0.5])


@pytest.fixture
def index(tmp_path) -> Index:
    """Images of a disc whose center is annotated."""
    rng, points = np.random.default_rng(0), []
    for number in range(12):
        size = rng.integers(48, 80, 2)
        y, x = rng.integers(12, size - 12)
        Image.fromarray(draw(size, y, x)).save(tmp_path / f"{number:02d}.png")
        points.append((y, x))
    return build_index(tmp_path).with_annotation(Points(np.array(points, np.float64)))


def test_an_annotation_moves_with_its_image():
    pixels = draw((40, 60), 17, 25)
    sample = Sample(pixels, {"points": Point(np.array([[17.0, 25.0]]))})
    for moved in (
        sample.crop(5, 15, 30, 35), sample.resize((80, 30)), sample.hflip(), sample.rot90(1),
        sample.rot90(2), sample.rot90(3), sample.rot90(1).hflip().resize((64, 64)),
        sample.affine((0.5, 0, 12, 0, 0.5, 5), (0,) * 3),
        sample.affine((1, 0.2, -3, 0.1, 1, -2), (0,) * 3),
    ):  # fmt: skip
        (yx,) = moved.annotations["points"].yx
        assert yx == pytest.approx(disc_center(moved.pixels), abs=1)
    assert len(sample.crop(0, 0, 10, 60).annotations["points"].yx) == 0


def test_a_mosaic_combines_annotations():
    corners = [(10, 10), (10, 50), (30, 10), (30, 50)]
    samples = [
        Sample(draw((40, 60), *yx), {"points": Point(np.array([yx], float))}) for yx in corners
    ]
    for seed in range(8):
        canvas = mosaic(samples, (64, 96), np.random.default_rng(seed))
        points = canvas.annotations["points"].yx
        assert len(points) >= 1
        for y, x in points.astype(int).clip(1, (62, 94)):
            assert canvas.pixels[y - 1 : y + 2, x - 1 : x + 2].max() > 127


@pytest.mark.parametrize("worker_type", ["threads", "processes"])
def test_an_annotation_reaches_the_batch(index, worker_type):
    data = DataConfig(
        max_tokens=400,
        augment=Augment(flip="dihedral", randaugment_ops=1, min_crop_area=0.7),
        loader=LoaderConfig(workers=1, worker_type=worker_type),
        trim_to_fill=False,
    )
    batch = next(training_batches(index, data, INPUT, seed=0)).batch
    images = batch.patches.split(list(batch.lengths))
    targets = zip(images, batch.grids.tolist(), batch.targets["points"], strict=True)
    for patches, (h, w), points in targets:
        pixels = patches.view(h, w, 8, 8, 3).permute(0, 2, 1, 3, 4).reshape(8 * h, 8 * w, 3)
        for y, x in points.long().clamp(max=torch.tensor([8 * h - 1, 8 * w - 1])).tolist():
            assert pixels[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4].max() > 100
    assert sum(map(len, batch.targets["points"])) >= batch.num_images / 2


def test_evaluation_attaches_annotations_at_the_original_size(index):
    view = EvalView(tokens=9, resolution=FitTokens(tokens=9))
    packs = list(evaluation_batches(index, INPUT, view, max_tokens=100))
    rows = {key: row for row, key in enumerate(index.keys)}
    for pack in packs:
        for key, points in zip(pack.batch.keys, pack.batch.targets["points"], strict=True):
            assert points.tolist() == [index.annotation(Points).yx[rows[key]].tolist()]


def test_an_index_carries_its_annotations(index):
    points = index.annotation(Points)
    assert index.select([3, 1]).annotation(Points).yx.tolist() == points.yx[[3, 1]].tolist()
    moved = index.with_annotation(Points(points.yx + 1))
    assert fingerprint(index) == fingerprint(index.with_annotation(Points(points.yx)))
    assert fingerprint(index) != fingerprint(moved)
    assert moved.annotations.keys() == {"points"}
    with pytest.raises(ValueError, match="has no points"):
        replace(index, annotations={}).annotation(Points)


def test_texts_have_one_stream_and_no_mosaic(index):
    captions = build_captions([[n] for n in range(12)], [1] * 12)
    index = index.with_annotation(captions)
    view = EvalView(tokens=9, resolution=FitTokens(tokens=9))
    assert next(evaluation_batches(index, INPUT, view, max_tokens=100)).batch.texts is None
    data = DataConfig(loader=LoaderConfig(workers=0))
    assert next(training_batches(index, data, INPUT, seed=0)).batch.texts is not None
    mosaics = replace(data, augment=Augment(mosaic=1.0))
    with pytest.raises(ValueError, match="captions cannot be combined in a mosaic"):
        next(training_batches(index, mosaics, INPUT, seed=0))
    two_streams = replace(index, annotations={**index.annotations, "translations": captions})
    with pytest.raises(ValueError, match="one text stream, not those of captions and translations"):
        next(training_batches(two_streams, data, INPUT, seed=0))


def test_pixels_of_another_size_do_not_fit_annotations():
    sample = Sample(draw((40, 60), 17, 25), {"points": Point(np.array([[17.0, 25.0]]))})
    with pytest.raises(ValueError, match="annotations of"):
        sample.with_pixels(draw((20, 60), 9, 25))


def test_the_root_is_that_of_the_index(index, tmp_path):
    seen: list[Path] = []

    class Rooted(Points):
        def item(self, row, seed, epoch, root):
            seen.append(root)
            return super().item(row, seed, epoch, root)

    rooted = index.with_annotation(Rooted(index.annotation(Points).yx))
    next(training_batches(rooted, DataConfig(loader=LoaderConfig(workers=0)), INPUT, seed=0))
    assert set(seen) == {tmp_path}
