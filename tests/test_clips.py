"""Clips from disk to packs: index, plan, loader and `pack_clips`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from films import film, ramp, tiny_clips, write_films, write_frames, write_video
from patchpack.batch import PackedClips, Tubelet
from patchpack.data.config import PackingConfig
from patchpack.data.index import build_index
from patchpack.data.loader import LoaderConfig, load_epoch, load_pack
from patchpack.data.packing.dropping import ConstantDrop
from patchpack.data.packing.plan import ItemSizes, make_plan
from patchpack.data.packing.resolution import Native, SampledArea
from patchpack.data.records import CLIPS, BadDataset
from patchpack.data.spec import Preprocessing, pack_spec
from patchpack.data.transforms.augment import Augment
from patchpack.data.video.decode import read_header
from patchpack.data.video.frame_sampling import (
    ClipSampling,
    FixedFps,
    StridedFrames,
    UniformFrames,
)
from patchpack.data.video.pack import pack_clips

TUBELETS = (Tubelet(2, 4, 4),)
SEVERAL = (Tubelet(2, 4, 4), Tubelet(4, 8, 4), Tubelet(1, 8, 8))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_films(tmp_path_factory.mktemp("data") / "films", {"train": 18, "val": 6})


def test_an_index_of_clips_has_lengths_rates_and_classes(root, tmp_path):
    index = build_index(root, media_type=CLIPS, cache_dir=tmp_path)
    assert index.classes == ("left", "right") and len(index) == 24 and index.clips is not None
    for number in (0, 5, 11):
        header = read_header(index.path(number))
        assert (index.heights[number], index.widths[number]) == header[:2]
        assert index.clips.lengths[number] == header.frames
        assert index.clips.rates[number] == header.rate
    cached = build_index(root, media_type=CLIPS, cache_dir=tmp_path)
    assert np.array_equal(cached.clips.lengths, index.clips.lengths) and cached.keys == index.keys
    folders = [key for key in index.keys if not key.endswith(".mp4")]
    assert len(folders) == 8 and all(key.count("/") == 2 for key in folders)
    assert index.split("val").clips.lengths.shape == (6,)


def test_clips_without_classes_and_in_manifests_are_indexed(tmp_path):
    frames = film("left", np.random.default_rng(0))
    write_video(tmp_path / "a.mp4", frames)
    write_frames(tmp_path / "b", frames)
    index = build_index(tmp_path, media_type=CLIPS)
    assert index.keys == ("a.mp4", "b") and not index.classes and set(index.splits) == {"all"}
    manifest = tmp_path / "all.csv"
    manifest.write_text("path,label,split\na.mp4,x,train\nb,y,train\n")
    assert build_index(manifest, media_type=CLIPS, max_bad_fraction=0).classes == ("x", "y")
    (tmp_path / "none").mkdir()
    with pytest.raises(BadDataset, match=r"holds no clips: expected .*\*\.mp4"):
        build_index(tmp_path / "none", media_type=CLIPS)


def test_an_image_next_to_videos_is_not_a_clip(tmp_path):
    """Its folder is not a clip either; classes keep their videos and folders of frames."""
    for label in ("left", "right"):
        write_video(tmp_path / "data" / label / "a.mp4", ramp(4))
        write_frames(tmp_path / "data" / label / "b", ramp(4))
        Image.fromarray(ramp()[0]).save(tmp_path / "data" / label / "poster.jpg")
    (tmp_path / "data" / "left" / "b" / "notes").mkdir()
    (tmp_path / "data" / "left" / "b" / "notes" / "a.txt").touch()
    index = build_index(tmp_path / "data", media_type=CLIPS)
    assert index.keys == ("left/a.mp4", "left/b", "right/a.mp4", "right/b")
    assert index.classes == ("left", "right")


def test_frames_that_change_under_the_same_name_are_indexed_again(tmp_path):
    for number in range(3):
        write_frames(tmp_path / "data" / f"{number}", ramp(4))
    assert set(build_index(tmp_path / "data", media_type=CLIPS).heights) == {32}
    Image.fromarray(ramp()[0].transpose(1, 0, 2)).save(tmp_path / "data" / "1" / "frame0.png")
    assert build_index(tmp_path / "data", media_type=CLIPS).heights.tolist() == [32, 48, 32]


def test_unreadable_clips_are_listed_and_too_many_raise(root, tmp_path):
    copied = tmp_path / "films"
    write_films(copied, {"train": 12, "val": 4})
    (copied / "train" / "left" / "zero").mkdir()
    (copied / "train" / "left" / "torn.mp4").write_bytes(b"no video")
    index = build_index(copied, media_type=CLIPS, max_bad_fraction=0.2)
    assert len(index) == 16 and [key for key, _ in index.bad] == ["train/left/torn.mp4"]
    with pytest.raises(BadDataset, match=r"1 of 17 clips cannot be used .*torn\.mp4: is not a vid"):
        build_index(copied, media_type=CLIPS)


def plan_of(index, clip_sampling: ClipSampling, *, epoch: int = 0, **changes):
    options = dict(
        patch_size=4, max_tokens=300, max_side=16, resolution=Native(),
        dropping=ConstantDrop(rate=0.3),
    )  # fmt: skip
    sizes = ItemSizes(index.heights, index.widths, frames=clip_sampling.sample(index.clips))
    return make_plan(sizes, PackingConfig(**(options | changes)), seed=3, epoch=epoch)


@pytest.mark.parametrize("tubelets", [TUBELETS, SEVERAL])
@pytest.mark.parametrize(
    "rule", [UniformFrames(frames=6), FixedFps(rate=10, frames=8), StridedFrames(step=2)]
)
def test_loaded_packs_have_the_planned_tokens(root, rule, tubelets):
    index = build_index(root, media_type=CLIPS)
    clip_sampling = ClipSampling(rule, tubelets, None)
    plan = plan_of(index, clip_sampling, resolution=SampledArea(low=8, high=24), max_tokens=800)
    preprocessing = Preprocessing(
        patch_size=4,
        augment=Augment(flip="dihedral", min_crop_area=0.5),
        seed=3,
        clip_sampling=clip_sampling,
    )
    keys = []
    for step, loaded in enumerate(load_epoch(index, plan, preprocessing, LoaderConfig(workers=0))):
        pack, batch = plan.pack(step), loaded.batch
        assert isinstance(batch, PackedClips) and not loaded.unreadable
        square = all(shape.height == shape.width for shape in tubelets)
        for planned, loaded_tokens in zip(pack.kept.tolist(), batch.lengths, strict=True):
            assert loaded_tokens == planned if square else loaded_tokens <= planned
        assert batch.num_tokens <= 800
        keys += batch.keys
    assert sorted(keys) == sorted(index.keys)


def test_packs_do_not_depend_on_the_workers(root):
    index = build_index(root, media_type=CLIPS)
    clip_sampling = ClipSampling(FixedFps(rate=10, frames=8), TUBELETS, None)
    plan = plan_of(index, clip_sampling, epoch=1)
    preprocessing = Preprocessing(
        patch_size=4,
        augment=Augment(min_crop_area=0.5, random_erasing=0.5),
        seed=3,
        clip_sampling=clip_sampling,
    )
    configs = [LoaderConfig(workers=0), LoaderConfig(workers=2, worker_type="processes")]
    packs = [
        [pack.batch for pack in load_epoch(index, plan, preprocessing, config)]
        for config in configs
    ]
    for a, b in zip(*packs, strict=True):
        assert a.keys == b.keys and a.tokens_per_tubelet == b.tokens_per_tubelet
        assert torch.equal(a.patches, b.patches) and torch.equal(a.coords, b.coords)


def test_all_frames_of_a_clip_get_the_same_augmentation(tmp_path):
    """A static clip stays static under every augmentation."""
    still = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 24, 32, 3), np.uint8), 6, 0)
    write_frames(tmp_path / "still", still)
    write_frames(tmp_path / "twin", still)
    index = build_index(tmp_path, media_type=CLIPS)
    clip_sampling = ClipSampling(UniformFrames(frames=6), (Tubelet(1, 4, 4),), None)
    plan = plan_of(index, clip_sampling, dropping=ConstantDrop(rate=0), max_tokens=2000)
    preprocessing = Preprocessing(
        patch_size=4,
        seed=1,
        clip_sampling=clip_sampling,
        augment=Augment(
            flip="dihedral",
            min_crop_area=0.3,
            color_jitter=0.4,
            randaugment_ops=3,
            random_erasing=1.0,
        ),
    )
    batch = load_pack(pack_spec(index, plan, preprocessing, epoch=0, step=0, rank=0)).batch
    for clip in range(2):
        frames = batch.select([clip]).patches.view(6, -1, 48)
        assert all(torch.equal(frame, frames[0]) for frame in frames)
    assert not torch.equal(batch.select([0]).patches, batch.select([1]).patches)


def test_clip_starts_are_random_in_training_and_centered_in_evaluation(root):
    index = build_index(root, media_type=CLIPS)
    rule = StridedFrames(step=1, frames=4)

    def first_frames(epoch: int, start_fraction: float | None) -> list[int]:
        clip_sampling = ClipSampling(rule, TUBELETS, start_fraction)
        plan = plan_of(index, clip_sampling, max_tokens=10**4)
        preprocessing = Preprocessing(patch_size=4, seed=3, clip_sampling=clip_sampling)
        spec = pack_spec(index, plan, preprocessing, epoch=epoch, step=0, rank=0)
        return [clip.frames[0] for clip in spec.images]

    assert first_frames(0, None) != first_frames(1, None)
    lengths = sorted(index.clips.lengths)
    assert first_frames(0, 0.5) == first_frames(1, 0.5)
    assert sorted(first_frames(0, 0.5)) == [(length - 3) // 2 for length in lengths]


def test_dropped_tokens_differ_between_epochs_and_frames(root):
    index = build_index(root, media_type=CLIPS)
    clip_sampling = ClipSampling(StridedFrames(step=1, frames=4), TUBELETS)
    preprocessing = Preprocessing(patch_size=4, clip_sampling=clip_sampling)

    def kept(epoch: int) -> dict[str, torch.Tensor]:
        plan = plan_of(index, clip_sampling, max_tokens=10**4, epoch=epoch)
        batch = load_pack(pack_spec(index, plan, preprocessing, epoch=epoch, step=0, rank=0)).batch
        parts = batch.coords.split(list(batch.lengths))
        return dict(zip(batch.keys, parts, strict=True))

    first, second = kept(0), kept(1)
    assert all(not torch.equal(first[key], second[key]) for key in first)
    frames = [coords[:, 0].bincount().tolist() for coords in first.values()]
    assert any(len(set(counts)) > 1 for counts in frames)  # frames keep different numbers of tokens


def test_a_pack_of_unreadable_clips_is_empty(root, tmp_path):
    index = build_index(root, media_type=CLIPS)
    clip_sampling = ClipSampling(UniformFrames(frames=4), SEVERAL)
    plan = plan_of(index, clip_sampling, max_tokens=2000)
    spec = pack_spec(
        replace(index, root=tmp_path),
        plan,
        Preprocessing(patch_size=4, clip_sampling=clip_sampling),
        epoch=0,
        step=0,
        rank=0,
    )
    loaded = load_pack(spec)
    assert loaded.batch.num_images == 0 and len(loaded.unreadable) == len(spec.images)
    assert loaded.batch.patches.shape == (0, 4 * 8 * 4 * 3)


def test_clips_that_cannot_fit_raise(root):
    index = build_index(root, media_type=CLIPS)
    with pytest.raises(ValueError, match="32 frames do not fit in 15 tokens: use at least 16"):
        plan_of(index, ClipSampling(StridedFrames(step=1), TUBELETS), max_tokens=15)
    with pytest.raises(ValueError, match="needs clips, but the dataset has images"):
        ClipSampling(StridedFrames(step=1), TUBELETS).sample(None)


def test_clips_in_memory_and_on_disk_pack_equally(tmp_path):
    frames = film("right", np.random.default_rng(1))
    folder = write_frames(tmp_path / "a", frames)
    in_memory, on_disk = (pack_clips([clip], TUBELETS) for clip in (frames, folder))
    assert torch.equal(in_memory.patches, on_disk.patches)
    pack = pack_clips([folder], TUBELETS, frames=UniformFrames(frames=4))
    assert pack.grids[0, 0] == 2
    height, width = frames.shape[1:3]
    assert pack.grids[0, 1:].tolist() == [height // 4, width // 4]


def test_a_video_run_needs_the_classification_task(tmp_path):
    from patchpack.tasks.segmentation.model import SegmentationConfig

    with pytest.raises(ValueError, match="clips are for task:classification-config"):
        replace(tiny_clips(tmp_path, tmp_path), task=SegmentationConfig())
