"""Packs do not depend on the number of threads or processes, or on where a run resumes."""

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import write_folder
from patchpack.data.config import PackingConfig
from patchpack.data.images import decode
from patchpack.data.index import build_index
from patchpack.data.loader import LoaderConfig, load_epoch, load_forever
from patchpack.data.packing.dropping import BetaDrop
from patchpack.data.packing.plan import ItemSizes, make_plan
from patchpack.data.packing.resolution import Native
from patchpack.data.patchify import patchify
from patchpack.data.preprocess import load_image
from patchpack.data.spec import ImageSource, ImageSpec, PackSpec, Preprocessing
from patchpack.data.transforms.augment import Augment, random_crop
from patchpack.data.transforms.sample import Sample

PREPROCESSING = Preprocessing(
    patch_size=4, seed=3, augment=Augment(flip="dihedral", randaugment_ops=1, min_crop_area=0.5)
)


@pytest.fixture
def index(folder, tmp_path):
    return build_index(folder, cache_dir=tmp_path / "cache").split("train")


def plan_of(index, epoch=0, world_size=1):
    packing = PackingConfig(
        patch_size=4, max_tokens=150, resolution=Native(), dropping=BetaDrop(mean=0.3, max=0.6)
    )
    sizes = ItemSizes(index.heights, index.widths)
    return make_plan(sizes, packing, seed=3, epoch=epoch, world_size=world_size)


def equal_packs(a, b) -> bool:
    return (
        a.batch.keys == b.batch.keys
        and torch.equal(a.batch.patches, b.batch.patches)
        and torch.equal(a.batch.coords, b.batch.coords)
        and (a.epoch, a.step) == (b.epoch, b.step)
    )


def load(index, config, start=(0, 0)):
    return load_forever(index, lambda e: plan_of(index, e), PREPROCESSING, config, start=start)


def test_packs_match_the_plan(index):
    plan = plan_of(index)
    packs = list(load_epoch(index, plan, PREPROCESSING, LoaderConfig()))
    assert len(packs) == plan.num_steps
    keys = [key for pack in packs for key in pack.batch.keys]
    assert sorted(keys) == sorted(index.keys)
    for step, pack in enumerate(packs):
        expected = plan.pack(step)
        assert pack.batch.lengths == tuple(expected.kept.tolist())
        assert pack.batch.num_tokens <= 150 and pack.batch.patches.dtype == torch.uint8
        labels = [index.labels[i] for i in expected.images]
        assert pack.batch.targets["label"].tolist() == labels


@pytest.mark.parametrize(
    "config",
    [
        LoaderConfig(workers=1),
        LoaderConfig(workers=3, prefetch=7),
        LoaderConfig(workers=2, worker_type="processes"),
    ],
    ids=str,
)
def test_workers_change_nothing(index, config):
    steps = plan_of(index).num_steps + 3
    foreground = list(islice(load(index, LoaderConfig(workers=0)), steps))
    background = list(islice(load(index, config), steps))
    assert all(equal_packs(a, b) for a, b in zip(foreground, background, strict=True))
    assert background[-1].epoch == 1


def test_resuming_gives_the_same_packs(index):
    packs = list(islice(load(index, LoaderConfig()), plan_of(index).num_steps + 4))
    for number in (1, 5, len(packs) - 2):
        before = packs[number - 1]
        rest = load(index, LoaderConfig(), start=(before.epoch, before.step + 1))
        assert all(equal_packs(a, b) for a, b in zip(packs[number:], rest, strict=False))


def test_ranks_split_the_images(index):
    plan = plan_of(index, world_size=2)
    ranks = [list(load_epoch(index, plan, PREPROCESSING, LoaderConfig(), rank=r)) for r in (0, 1)]
    assert len(ranks[0]) == len(ranks[1])
    keys = [key for packs in ranks for pack in packs for key in pack.batch.keys]
    assert sorted(keys) == sorted(index.keys)


def test_an_unreadable_image_is_skipped_and_reported(index):
    path = index.path(7)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    packs = list(load_epoch(index, plan_of(index), PREPROCESSING, LoaderConfig()))
    unreadable = [error for pack in packs for error in pack.unreadable]
    assert [error.key for error in unreadable] == [index.keys[7]]
    assert "damaged" in str(unreadable[0])
    keys = [key for pack in packs for key in pack.batch.keys]
    assert sorted(keys) == sorted(set(index.keys) - {index.keys[7]})


def test_a_pack_of_unreadable_images_is_empty(tmp_path):
    root = write_folder(tmp_path / "images", {"train": 1})
    index = build_index(root, cache_dir=tmp_path / "cache")
    for number in range(len(index)):
        index.path(number).write_bytes(b"")
    (pack,) = load_epoch(index, plan_of(index), PREPROCESSING, LoaderConfig())
    assert pack.batch.num_images == 0 and len(pack.unreadable) == 3


def test_a_small_crop_disables_scaled_decoding(tmp_path):
    """A JPEG is decoded at a fraction of its size only if the smallest crop stays large enough."""
    noise = np.random.default_rng(0).integers(0, 256, (640, 640, 3), np.uint8)
    Image.fromarray(noise).save(path := tmp_path / "a.jpg", quality=95)
    source = ImageSource(path=path, key="a.jpg")
    image = ImageSpec(source=source, row=0, grid=(16, 16), kept=256)
    preprocessing = Preprocessing(patch_size=4, augment=Augment(min_crop_area=0.01))
    spec = PackSpec(images=(image,), preprocessing=preprocessing, epoch=0, step=0)
    rng = np.random.default_rng([0, 0, 0, 1])
    crop = random_crop(Sample(decode(path, key="a.jpg")), preprocessing.augment, rng)
    expected = patchify(crop.resize((64, 64)).pixels, 4).patches
    assert torch.equal(load_image(image, spec).patches, expected)


def test_dropped_tokens_differ_between_epochs(index):
    kept = []
    for epoch in (0, 1):
        packs = load_epoch(
            index, plan_of(index, epoch), Preprocessing(patch_size=4), LoaderConfig()
        )
        pairs = ((p.batch.keys, p.batch.lengths) for p in packs)
        kept.append({key: n for keys, ns in pairs for key, n in zip(keys, ns, strict=True)})
    assert kept[0].keys() == kept[1].keys() and kept[0] != kept[1]
    assert np.mean(list(kept[0].values())) > 1
