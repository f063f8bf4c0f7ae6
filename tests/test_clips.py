"""Clips on disk: headers, frames where they are asked for, sampling, index, plan and loader."""

import struct
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from films import film, tiny_clips, write_films, write_frames, write_video
from patchpack.batch import PackedClips, Tubelet
from patchpack.data.config import PackingConfig
from patchpack.data.images import BadImage
from patchpack.data.index import build_index
from patchpack.data.loader import LoaderConfig, load_epoch, load_pack
from patchpack.data.packing.dropping import ConstantDrop
from patchpack.data.packing.plan import ItemSizes, make_plan
from patchpack.data.packing.resolution import Native, SampledArea
from patchpack.data.records import CLIPS, BadDataset
from patchpack.data.spec import Preprocessing, pack_spec
from patchpack.data.transforms.augment import Augment
from patchpack.data.video.decode import decode_frames, read_header
from patchpack.data.video.frame_sampling import (
    Clips,
    ClipSampling,
    FixedFps,
    StridedFrames,
    UniformFrames,
    frame_numbers,
    view_positions,
)
from patchpack.data.video.pack import pack_clips

TUBELETS = (Tubelet(2, 4, 4),)
SEVERAL = (Tubelet(2, 4, 4), Tubelet(4, 8, 4), Tubelet(1, 8, 8))
CONTAINERS = {
    ".mp4": "libx264", ".mkv": "libx264", ".avi": "mpeg4", ".webm": "libvpx-vp9",
    ".m2ts": "libx264", ".mpg": "mpeg2video",
}  # fmt: skip


def ramp(length: int = 60) -> np.ndarray:
    """Frames that tell their number by their brightness: four times it."""
    return np.stack([np.full((32, 48, 3), 4 * k, np.uint8) for k in range(length)])


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_films(tmp_path_factory.mktemp("data") / "films", {"train": 18, "val": 6})


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_frames_are_those_asked_for_in_every_container(tmp_path, suffix):
    """Also where seconds lie between them, and no index says where a seek should go."""
    path = write_video(tmp_path / f"a{suffix}", ramp(), rate=25, codec=CONTAINERS[suffix])
    header = read_header(path)
    assert header == (32, 48, 60, Fraction(25))
    for numbers in ([0, 1, 2], [5], [0, 59], [45, 46, 58], [0, 20, 40, 59], [33, 33, 34]):
        found = [frame.mean() for frame in decode_frames(path, numbers, header.rate, key="a")]
        assert np.abs(np.array(found) - 4 * np.array(numbers)).max() < 4.5
        assert found == sorted(found)


def test_far_frames_are_sought_and_near_ones_decoded_to_the_same_pixels(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", ramp(), rate=10)
    every = list(decode_frames(path, range(60), 10, key="a"))
    sought: list[float] = []
    whole = av.container.InputContainer.seek

    class Counting:
        def __init__(self, container):
            self.container, self.streams = container, container.streams
            self.format = container.format

        def __enter__(self):
            return self

        def __exit__(self, *rest):
            self.container.close()

        def decode(self, stream):
            return self.container.decode(stream)

        def seek(self, place, **more):
            sought.append(place)
            return whole(self.container, place, **more)

    opened = av.open
    monkeypatch.setattr(av, "open", lambda path, **options: Counting(opened(path, **options)))
    numbers = [3, 31, 32, 59, 80]
    found = list(decode_frames(path, numbers, 10, key="a"))
    assert len(sought) == 3  # to 31, to 59, and for what lies beyond the end
    assert all(np.array_equal(f, every[min(n, 59)]) for f, n in zip(found, numbers, strict=True))


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "libx264"), (".webm", "libvpx-vp9")])
def test_a_clip_of_changing_rate_is_sampled_evenly_in_time(tmp_path, suffix, codec):
    """Its own times say how long it is, where its file tells another rate."""
    path = tmp_path / f"a{suffix}"
    time_table_size = [0, 1, 2, 3, 10, 11, 12, 19]  # tenths of a second at which the frames begin
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        for number, time in enumerate(time_table_size):
            frame = av.VideoFrame.from_ndarray(ramp()[4 * number], format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = [round(f.mean() / 16) for f in decode_frames(path, [0, 5, 9, 12, 18, 19], 10, key="a")]
    assert found == [0, 3, 3, 6, 6, 7]  # what is shown at 0.05 s, 0.55 s, …
    header = read_header(path)
    assert header.frames / header.rate == pytest.approx(1.9 * 8 / 7, rel=0.01)
    ends = decode_frames(path, [0, header.frames - 1], header.rate, key="a")
    assert [round(f.mean() / 16) for f in ends] == [1, 7]  # at 0.14 and 2.04 s


def test_a_phone_s_video_stands_upright(tmp_path):
    """A bright corner at the top left of what is to be turned clockwise: at the top right."""
    frames = np.zeros((5, 32, 48, 3), np.uint8)
    frames[:, :12, :12] = 255
    path = write_video(tmp_path / "a.mp4", frames)
    data = bytearray(path.read_bytes())
    header = data.find(b"tkhd") + 4  # its matrix follows 40 bytes of other things
    for place, value in enumerate((0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)):
        struct.pack_into(">i", data, header + 40 + 4 * place, value)
    path.write_bytes(data)
    header = read_header(path)
    (found,) = decode_frames(path, [2], header.rate, key="a")
    assert header[:2] == found.shape[:2] == (48, 32)
    assert found[:12, -12:].mean() > 200 and found[:12, :12].mean() < 50 > found[-12:, :12].mean()


def test_pixels_that_are_not_square_and_clocks_that_do_not_begin_at_zero(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(ramp()[4 * number], format="rgb24")
            frame.pts, frame.time_base = 70 + number, Fraction(1, 10)  # from the seventh second on
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    header = read_header(path)
    assert header[:3] == (32, 96, 10)
    found = [round(f.mean() / 16) for f in decode_frames(path, [0, 4, 9], header.rate, key="a")]
    assert found == [0, 4, 9]


def test_folders_of_frames_are_clips_in_the_order_of_their_numbers(tmp_path):
    folder = write_frames(tmp_path / "walk", ramp(12))
    assert read_header(folder) == (32, 48, 12, Fraction(25))
    found = [f.mean() / 4 for f in decode_frames(folder, [0, 2, 9, 10, 11, 40], 25, key="a")]
    assert found == [0, 2, 9, 10, 11, 11]


def test_whatever_is_wrong_with_a_clip_is_said_by_its_name(tmp_path):
    video = write_video(tmp_path / "whole.mp4", ramp())
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:1500])
    (tmp_path / "none").mkdir()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        samples = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile whole.mp4\n")
    Image.fromarray(ramp()[0]).save(tmp_path / "image.png")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "._f.png").touch()
    write_frames(tmp_path / "torn", ramp(3))
    (tmp_path / "torn" / "frame2.png").write_bytes(b"x")
    with pytest.raises(BadImage, match=r"^clip: its frame frame2\.png is not an image"):
        list(decode_frames(tmp_path / "torn", [0, 2], 10, key="clip"))
    for name, reason in {
        "list.mp4": "is not a video", "image.png": "is an image, not a clip",
        "hidden": "has no frames", "text.mp4": "is not a video",
        "empty.mp4": "is not a video", "cut.mp4": "is not a video",
        "none": "has no frames", "sound.mp4": "has no frames", "away.mp4": "there is no such file",
    }.items():  # fmt: skip
        with pytest.raises(BadImage, match=reason):
            read_header(tmp_path / name)
        with pytest.raises(BadImage, match=f"^clip: {reason}"):
            list(decode_frames(tmp_path / name, [0], 10, key="clip"))


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_file_that_is_damaged_in_its_middle_is_shown_as_far_as_it_goes(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)
    path = write_video(tmp_path / f"a{suffix}", noise, codec=CONTAINERS[suffix])
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 10] = bytes(len(data) // 10)
    path.write_bytes(data)
    found = list(decode_frames(path, [0, 10, 39], 10, key="a"))
    assert len(found) == 3 and not np.array_equal(found[0], found[1])


def test_a_torn_file_shows_the_last_frame_that_is_left(tmp_path):
    path = write_video(tmp_path / "a.mkv", ramp())
    torn = tmp_path / "torn.mkv"
    torn.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    first, *rest = (f.mean() for f in decode_frames(torn, [0, 57, 58, 59], 10, key="a"))
    assert first < 4 and len({round(x) for x in rest}) == 1 and 40 < rest[0] < 200


def test_without_pyav_videos_say_what_to_install_and_folders_are_read(tmp_path):
    write_frames(tmp_path / "walk", ramp(3))
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from patchpack.data.video.decode import read_header\n"
        f"print(read_header({str(tmp_path / 'walk')!r}).frames)\n"
        f"try: read_header({str(tmp_path / 'a.mp4')!r})\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("3\nvideos are read with PyAV: pip install 'patchpack[video]'")


@given(
    st.integers(1, 400),
    st.floats(1, 120),
    st.sampled_from(
        [UniformFrames(frames=9), FixedFps(rate=7.5, frames=12), StridedFrames(step=3, frames=5)]
    ),
    st.integers(1, 4),
    st.floats(0, 0.999),
)
def test_sampled_frames_exist_ascend_and_are_whole_tubelets(length, rate, rule, unit, place):
    clips = Clips(np.array([length]), np.array([rate]))
    clip_sampling = ClipSampling(rule, (Tubelet(unit, 4, 4),))
    shown = clip_sampling.of(clips)
    count, step = int(shown.counts[0]), float(shown.steps[0])
    assert count % unit == 0 and unit <= count <= max(clip_sampling.most, unit)
    numbers = frame_numbers(length, count, step, place)
    assert len(numbers) == count and 0 <= numbers[0] and numbers[-1] < length
    assert (np.diff(numbers) >= 0).all()
    if length >= count * max(1.0, step):
        assert (np.diff(numbers) > 0).all()  # nothing is shown twice where there is enough


def test_rules_sample_as_they_say():
    lengths, rates = np.array([100, 50, 10, 1]), np.array([25.0, 50.0, 10.0, 10.0])
    spread = UniformFrames(frames=8).draw(lengths, rates, 2)
    assert spread.counts.tolist() == [8, 8, 8, 2] and spread.steps[:3].tolist() == [
        12.5,
        6.25,
        1.25,
    ]
    at_rate = FixedFps(rate=5, frames=16).draw(lengths, rates, 1)
    assert at_rate.counts.tolist() == [16, 5, 5, 1] and at_rate.steps.tolist() == [5, 10, 2, 2]
    every = StridedFrames(step=4, frames=16).draw(lengths, rates, 2)
    assert every.counts.tolist() == [16, 12, 2, 2]
    assert frame_numbers(100, 4, 25.0, 0.5).tolist() == [12, 37, 62, 87]  # the middle of each part
    assert frame_numbers(100, 4, 5.0, 0.0).tolist() == [0, 5, 10, 15]
    assert frame_numbers(100, 4, 5.0, 0.999)[-1] == 99
    assert frame_numbers(3, 4, 1.0, 0.5).tolist() == [0, 1, 2, 2]  # a short one repeats its last
    assert view_positions(2) == [0.25, 0.75]
    for wrong in (
        lambda: view_positions(0),
        lambda: UniformFrames(frames=0),
        lambda: StridedFrames(step=10**30),
        lambda: FixedFps(rate=0),
    ):
        with pytest.raises(
            ValueError, match=r"at least|more than|must lie between 1 and 1,000,000"
        ):
            wrong()


def test_an_index_of_clips_knows_lengths_rates_and_classes(root, tmp_path):
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


def test_clips_without_classes_and_in_manifests_are_found(tmp_path):
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


def test_a_picture_beside_videos_is_no_clip(tmp_path):
    """Nor is the folder that it lies in: classes keep their videos, and their folders of frames."""
    for label in ("left", "right"):
        write_video(tmp_path / "data" / label / "a.mp4", ramp(4))
        write_frames(tmp_path / "data" / label / "b", ramp(4))
        Image.fromarray(ramp()[0]).save(tmp_path / "data" / label / "poster.jpg")
    (tmp_path / "data" / "left" / "b" / "notes").mkdir()
    (tmp_path / "data" / "left" / "b" / "notes" / "a.txt").touch()
    index = build_index(tmp_path / "data", media_type=CLIPS)
    assert index.keys == ("left/a.mp4", "left/b", "right/a.mp4", "right/b")
    assert index.classes == ("left", "right")


def test_frames_of_another_size_under_the_same_names_are_noticed(tmp_path):
    for number in range(3):
        write_frames(tmp_path / "data" / f"{number}", ramp(4))
    assert set(build_index(tmp_path / "data", media_type=CLIPS).heights) == {32}
    Image.fromarray(ramp()[0].transpose(1, 0, 2)).save(tmp_path / "data" / "1" / "frame0.png")
    assert build_index(tmp_path / "data", media_type=CLIPS).heights.tolist() == [32, 48, 32]


def test_unreadable_clips_are_named_and_too_many_stop(root, tmp_path):
    copied = tmp_path / "films"
    write_films(copied, {"train": 12, "val": 4})
    (copied / "train" / "left" / "zero").mkdir()
    (copied / "train" / "left" / "torn.mp4").write_bytes(b"no video")
    index = build_index(copied, media_type=CLIPS, max_bad_fraction=0.2)
    assert len(index) == 16 and [key for key, _ in index.bad] == ["train/left/torn.mp4"]
    with pytest.raises(BadDataset, match=r"1 of 17 clips cannot be used .*torn\.mp4: is not a vid"):
        build_index(copied, media_type=CLIPS)


def plan_of(index, clip_sampling: ClipSampling, **more):
    sizes = ItemSizes(index.heights, index.widths, frames=clip_sampling.of(index.clips))
    epoch, usual = more.pop("epoch", 0), dict(
        patch_size=4, max_tokens=300, resolution=Native(), dropping=ConstantDrop(rate=0.3),
        max_side=16,
    )  # fmt: skip
    return make_plan(sizes, PackingConfig(**(usual | more)), seed=3, epoch=epoch)


@pytest.mark.parametrize("tubelets", [TUBELETS, SEVERAL])
@pytest.mark.parametrize(
    "rule", [UniformFrames(frames=6), FixedFps(rate=10, frames=8), StridedFrames(step=2)]
)
def test_the_tokens_that_were_planned_are_loaded(root, rule, tubelets):
    index = build_index(root, media_type=CLIPS)
    clip_sampling = ClipSampling(rule, tubelets, None)
    plan = plan_of(index, clip_sampling, resolution=SampledArea(low=8, high=24), max_tokens=800)
    preprocessing = Preprocessing(
        patch_size=4,
        augment=Augment(flip="dihedral", min_crop_area=0.5),
        seed=3,
        clip_sampling=clip_sampling,
    )
    seen = []
    for step, loaded in enumerate(load_epoch(index, plan, preprocessing, LoaderConfig(workers=0))):
        pack, batch = plan.pack(step), loaded.batch
        assert isinstance(batch, PackedClips) and not loaded.unreadable
        square = all(shape.height == shape.width for shape in tubelets)
        for planned, found in zip(pack.kept.tolist(), batch.lengths, strict=True):
            assert found == planned if square else found <= planned
        assert batch.num_tokens <= 800
        seen += batch.keys
    assert sorted(seen) == sorted(index.keys)


def test_packs_do_not_depend_on_who_loads_them(root):
    index = build_index(root, media_type=CLIPS)
    clip_sampling = ClipSampling(FixedFps(rate=10, frames=8), TUBELETS, None)
    plan = plan_of(index, clip_sampling, epoch=1)
    preprocessing = Preprocessing(
        patch_size=4,
        augment=Augment(min_crop_area=0.5, random_erasing=0.5),
        seed=3,
        clip_sampling=clip_sampling,
    )
    tokens_per_tubelet = [LoaderConfig(workers=0), LoaderConfig(workers=2, worker_type="processes")]
    packs = [
        [p.batch for p in load_epoch(index, plan, preprocessing, kind)]
        for kind in tokens_per_tubelet
    ]
    for mine, other in zip(*packs, strict=True):
        assert mine.keys == other.keys and torch.equal(mine.patches, other.patches)
        assert (
            torch.equal(mine.coords, other.coords)
            and mine.tokens_per_tubelet == other.tokens_per_tubelet
        )


def test_all_frames_are_treated_with_the_same_numbers(tmp_path):
    """A clip that stands still does so after every augmentation."""
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
        alone = batch.select([clip])
        frames = alone.patches.view(6, -1, 48)
        assert all(torch.equal(frame, frames[0]) for frame in frames)
    assert not torch.equal(batch.select([0]).patches, batch.select([1]).patches)


def test_places_in_time_are_drawn_anew_and_are_the_middle_in_evaluation(root):
    index = build_index(root, media_type=CLIPS)
    rule = StridedFrames(step=1, frames=4)

    def first_frames(epoch: int, place: float | None) -> list[int]:
        clip_sampling = ClipSampling(rule, TUBELETS, place)
        plan = plan_of(index, clip_sampling, max_tokens=10**4)
        preprocessing = Preprocessing(patch_size=4, seed=3, clip_sampling=clip_sampling)
        spec = pack_spec(index, plan, preprocessing, epoch=epoch, step=0, rank=0)
        return [clip.frames[0] for clip in spec.images]

    assert first_frames(0, None) != first_frames(1, None)
    lengths = sorted(index.clips.lengths)
    assert first_frames(0, 0.5) == first_frames(1, 0.5)
    assert sorted(first_frames(0, 0.5)) == [(length - 3) // 2 for length in lengths]


def test_tokens_are_dropped_anew_each_epoch_in_space_and_time(root):
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
    assert any(len(set(counts)) > 1 for counts in frames)  # not the same places of every frame


def test_a_pack_that_lost_all_its_clips_is_empty(root, tmp_path):
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


def test_clips_that_cannot_fit_say_what_to_change(root):
    index = build_index(root, media_type=CLIPS)
    with pytest.raises(ValueError, match="32 frames have no room in 15 tokens: 16 is the"):
        plan_of(index, ClipSampling(StridedFrames(step=1), TUBELETS), max_tokens=15)
    with pytest.raises(ValueError, match="cannot be shown images"):
        ClipSampling(StridedFrames(step=1), TUBELETS).of(None)


def test_files_are_packed_as_their_frames_are(tmp_path):
    frames = film("right", np.random.default_rng(1))
    folder = write_frames(tmp_path / "a", frames)
    in_memory, on_disk = (pack_clips([clip], TUBELETS) for clip in (frames, folder))
    assert torch.equal(in_memory.patches, on_disk.patches)
    some = pack_clips([folder], TUBELETS, frames=UniformFrames(frames=4))
    assert some.grids[0, 0] == 2
    height, width = frames.shape[1:3]
    assert some.grids[0, 1:].tolist() == [height // 4, width // 4]


def test_a_run_of_clips_needs_a_classifier(tmp_path):
    from patchpack.tasks.segmentation.model import SegmentationConfig

    with pytest.raises(ValueError, match="clips are classified only"):
        replace(tiny_clips(tmp_path, tmp_path), task=SegmentationConfig())
