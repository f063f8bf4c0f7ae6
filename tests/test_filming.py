"""Clips from files to labels: training, evaluating, predicting, and --init from an image model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import patchpack as pp
from conftest import write_folder
from films import CLASSES, film, tiny_clips, write_films, write_frames, write_video
from patchpack.checkpoint import CheckpointError
from patchpack.data.images import BadImage, read_size
from patchpack.data.records import BadDataset
from patchpack.demo.motions import CLASSES as MOTIONS
from patchpack.demo.motions import draw_video as motion
from patchpack.evaluation import data_of, evaluate
from patchpack.inference.measure import view_batches, view_of
from patchpack.inference.model_spec import ModelSpec
from patchpack.model.positions import Factorized, Rotary
from patchpack.run import start
from patchpack.tasks.classification.options import ClassificationEvalOptions
from patchpack.tasks.classification.task import build
from patchpack.tasks.classification.video_predictor import VideoClassificationPredictor
from patchpack.tasks.initialize import best_of_run, initialize
from runs import assert_resumes_exactly, tiny
from test_cli import patchpack


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "films"
    return write_films(folder, {"train": 60, "val": 8, "test": 16})


@pytest.fixture(scope="module")
def run(root, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    config = tiny_clips(root, out, steps=160, eval_every=80, ema=0.0)
    model = replace(config.model, dropout=0.0, drop_path=0.0)
    start(replace(config, model=model), live=False)
    return out


def files(root: Path) -> list[Path]:
    return sorted(p for label in CLASSES for p in (root / "test" / label).iterdir())


def test_it_learns_which_way_and_eval_agrees_with_predict(capsys, run, root):
    status, out, _ = patchpack(capsys, "eval", run, "--budgets", 48, 96, "--json")
    budgets = json.loads(out)["budgets"]
    assert status == 0 and [b["max_tokens"] for b in budgets] == [48, 96]
    assert (
        budgets[1]["top1"] > 0.8 and budgets[0]["gflops_per_image"] < budgets[1]["gflops_per_image"]
    )
    assert read_size(run / "eval-test.png")[1] > 800  # strips of frames
    model = pp.load(run)
    assert isinstance(model, VideoClassificationPredictor)
    found = model.predict(files(root), max_tokens=96)
    right = [f.label == path.parent.name for f, path in zip(found, files(root), strict=True)]
    assert np.mean(right) == pytest.approx(budgets[1]["top1"])


@pytest.mark.parametrize("tokens", [24, 96])
@pytest.mark.parametrize("position", [0.0, 0.5])
def test_eval_and_predict_give_the_model_the_same_patches_of_a_clip(run, root, tokens, position):
    model, data = pp.load(run), data_of(run, split="test")
    paths = [data.index.path(number) for number in range(len(data.index))]
    (predicted,) = model.packs(paths, tokens, start_fraction=position)
    view = view_of(model, tokens, position)
    (evaluated,) = view_batches(model, data.index, view, data.unreadable())
    evaluated = evaluated.select([evaluated.keys.index(key) for key in data.index.keys])
    assert len(paths) == 16 and predicted.lengths == evaluated.lengths
    assert torch.equal(predicted.patches, evaluated.patches)
    assert torch.equal(predicted.coords, evaluated.coords)


def test_suites_and_compare_take_clips(capsys, run, tmp_path):
    """The accuracy of the suites is that of plain eval; a corruption changes every frame."""
    (plain,) = json.loads(patchpack(capsys, "eval", run, "--budgets", 96, "--json")[1])["budgets"]
    status, out, _ = patchpack(
        capsys, "eval", run, "--suite", "cost,calibration,robustness,fewshot", "--budgets", 48, 96,
        "--severities", 1, "--out", tmp_path, "--json",
    )  # fmt: skip
    found = json.loads(out)
    assert status == 0 and len(found["robustness"]["corrupted"]) == 15
    assert found["calibration"]["budgets"]["96"]["top1"] == pytest.approx(plain["top1"])
    assert found["cost"]["points"]["96 tokens"]["top1"] == pytest.approx(plain["top1"])
    status, _, err = patchpack(capsys, "eval", run, "--suite", "cost", "--views", 2)
    assert status == 2 and "--views is not for suites" in err
    copy = shutil.copytree(run, tmp_path / "copy")
    status, out, _ = patchpack(
        capsys, "compare", run, copy, "--budgets", 96, "--out", tmp_path / "compare", "--json"
    )
    assert status == 0 and (tmp_path / "compare").is_dir()


def test_a_clip_is_classified_alone_as_in_company(run, root):
    model = pp.load(run)
    together = model.predict(files(root))
    for path, found in zip(files(root), together, strict=True):
        (alone,) = model.predict([path])
        assert alone.labels == found.labels
        assert alone.probabilities == pytest.approx(found.probabilities, abs=1e-5)


def test_frames_in_memory_are_what_their_folder_is(run, tmp_path):
    frames = film("left", np.random.default_rng(5))
    folder = write_frames(tmp_path / "clip", frames)
    model = pp.load(run)
    on_disk, in_memory, tensor = model.predict([folder, frames, torch.from_numpy(frames)])
    assert on_disk.probabilities == pytest.approx(in_memory.probabilities, abs=1e-6)
    assert on_disk.probabilities == pytest.approx(tensor.probabilities, abs=1e-6)
    assert np.allclose(model.embed([folder]), model.embed([frames]), atol=1e-5)


def test_views_are_places_in_time_whose_logits_are_averaged(run, root, tmp_path):
    long = np.concatenate([film("left", np.random.default_rng(k))[:, :16, :16] for k in range(6)])
    path = write_frames(tmp_path / "long", long)
    model = pp.load(run)
    (one,), (three,) = (model.predict([path], views=v) for v in (1, 3))
    at = [
        torch.cat(
            [model.logits(b) for b in model.packs([path], None, start_fraction=start_fraction)]
        )
        for start_fraction in (1 / 6, 3 / 6, 5 / 6)
    ]
    mean = torch.stack(at).mean(0).softmax(1)[0]
    names = model.spec.classes
    expected = {name: float(p) for name, p in zip(names, mean, strict=True)}
    found = dict(zip(three.labels, three.probabilities, strict=True))
    assert found == pytest.approx(expected, abs=1e-5)
    assert one.probability != pytest.approx(three.probability, abs=1e-4)
    data = data_of(run, split="test")
    options = ClassificationEvalOptions(views=3)
    ((cost, result),) = evaluate(model, data, [96], options)
    found = model.predict(files(root), views=3, max_tokens=96)
    said = [f.label == path.parent.name for f, path in zip(found, files(root), strict=True)]
    assert result.counts.images == 16 and result.counts.top1 == pytest.approx(np.mean(said))
    ((once, _),) = evaluate(model, data, [96])
    assert cost.gflops_per_image == pytest.approx(3 * once.gflops_per_image)


def test_predict_and_embed_take_videos_folders_and_what_cannot_be_read(capsys, run, root, tmp_path):
    (tmp_path / "torn.mp4").write_text("no video")
    good = write_video(tmp_path / "good.mp4", film("right", np.random.default_rng(3)))
    status, out, err = patchpack(
        capsys, "predict", run, tmp_path, root / "test" / "left", "--json", "--views", 2
    )
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 1 and len(lines) == 9 and lines[0]["image"] == str(good)
    assert f"{tmp_path / 'torn.mp4'}: is not a video" in err
    status, out, err = patchpack(capsys, "embed", run, tmp_path, "-o", tmp_path / "v.npz")
    with np.load(tmp_path / "v.npz") as arrays:
        assert arrays["keys"].tolist() == [str(good)] and arrays["vectors"].shape == (1, 16)
    assert status == 1 and "torn.mp4" in err


def test_what_a_model_of_clips_cannot_do_is_said(capsys, run, root, tmp_path):
    for words, message in [
        (("predict", run, tmp_path), "holds no clips"),
        (("predict", run, tmp_path / "away.mp4"), "there is no such file"),
        (("predict", run, root / "test", "--views", "0"), "at least one view"),
        (("eval", run, "--data", tmp_path), "holds no clips"),
    ]:
        status, _, err = patchpack(capsys, *words)
        assert status == 2 and any(part in err for part in message.split("|")), (words, err)
    model = pp.load(run)
    with pytest.raises(ValueError, match="a list of clips"):
        model.predict(str(tmp_path))
    with pytest.raises(BadImage, match="there is no such file"):
        model.predict([tmp_path / "away.mp4"])
    with pytest.raises(ValueError, match="do not fit in 1 tokens"):
        model.predict(files(root)[:1], max_tokens=1)


def test_views_are_for_clips(capsys, tmp_path):
    images = write_folder(tmp_path / "images", {"train": 8, "val": 4, "test": 4})
    start(tiny(images, tmp_path / "run", steps=2), live=False)
    for words in (("eval", tmp_path / "run"), ("predict", tmp_path / "run", images / "test")):
        status, _, err = patchpack(capsys, *words, "--views", 2)
        assert status == 2 and "--views is for video classifiers" in err
    video = write_video(tmp_path / "a.mp4", film("left", np.random.default_rng(0)))
    status, _, err = patchpack(capsys, "predict", tmp_path / "run", video)
    assert status == 2 and "is a video, and this model takes images" in err


def test_a_run_of_clips_resumes_to_the_bit(root, tmp_path):
    assert_resumes_exactly(tiny_clips(root, tmp_path / "x", steps=10), tmp_path)


def test_images_are_no_clips_and_are_refused(tmp_path):
    images = write_folder(tmp_path / "images", {"train": 8, "val": 4})
    for path in (images / "train").rglob("*.png"):
        path.rename(images / "train" / path.name)
    with pytest.raises(BadDataset, match=r"no class labels: expected .*mp4"):
        start(tiny_clips(images, tmp_path / "run"), live=False)


def still(tmp_path: Path, root: Path) -> tuple[list[Path], list[Path]]:
    """Images, and clips of each that stand still."""
    images, clips = [], []
    for path in sorted((root / "val").rglob("*.png"))[:5]:
        pixels = np.array(Image.open(path).convert("RGB"))
        images.append(path)
        clips.append(write_frames(tmp_path / path.stem / "clip", np.repeat(pixels[None], 4, 0)))
    return images, clips


def test_a_model_of_images_becomes_one_of_clips_that_says_the_same_of_still_ones(tmp_path):
    images = write_folder(tmp_path / "images", {"train": 16, "val": 8})
    config = tiny(images, tmp_path / "run", steps=8)
    start(config, live=False)
    before = pp.load(config.out)
    clips = replace(
        tiny_clips(images, tmp_path / "clips"), init=config.out,
        data=replace(config.data, root=images, max_tokens=400),
    )  # fmt: skip
    paths, folders = still(tmp_path / "still", images)
    for how in ("central", "average"):
        spec = ModelSpec(
            model=clips.model,
            task=clips.task,
            classes=before.spec.classes,
            frames=clips.data.frames,
        )
        task = build(spec)
        assert initialize(task, best_of_run(config.out), lambda spec: True, how)
        batch = pp.pack_clips(folders, clips.model.tubelets)
        image_batch = pp.pack(paths, patch_size=4)
        task.eval(), before.model.eval()
        with torch.no_grad():
            found, expected = task(batch), before.model(image_batch)
        # Twice two frames are twice the tokens of the image, all of them equal in pairs.
        assert torch.allclose(found, expected, atol=1e-5)
        assert not torch.allclose(expected[0], expected[1], atol=1e-3)


def test_a_run_of_clips_begins_with_one_of_images_or_says_why_not(root, run, tmp_path):
    images = write_folder(tmp_path / "images", {"train": 16, "val": 8})
    config = tiny(images, tmp_path / "run", steps=4)
    start(config, live=False)
    clips = replace(tiny_clips(root, tmp_path / "clips", steps=2), init=config.out)
    start(clips, live=False)
    assert isinstance(pp.load(clips.out), VideoClassificationPredictor)
    again = replace(tiny_clips(root, tmp_path / "again", steps=2), init=run)
    start(again, live=False)  # of clips, both
    other = replace(
        clips, out=tmp_path / "other",
        model=replace(clips.model, positions=Factorized(coordinates="fractional")),
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"other positions.*give model.positions:factorized"):
        start(other, live=False)
    larger = replace(clips.model, patch_size=8, tubelets=(pp.Tubelet(2, 8, 8),))
    said = r"\(patch_size 4, not 8\): give --model.patch-size 4 --model.tubelets.0.height 4 "
    with pytest.raises(CheckpointError, match=said):
        start(replace(clips, out=tmp_path / "larger", model=larger), live=False)
    more = replace(
        clips, out=tmp_path / "more", init=run, model=replace(clips.model, time_table_size=64)
    )
    with pytest.raises(
        CheckpointError, match=r"cannot be extended to 64.*give --model.time-table-size 32"
    ):
        start(more, live=False)
    rot90 = replace(
        config, out=tmp_path / "turned", model=replace(config.model, positions=Rotary())
    )
    start(rot90, live=False)
    with pytest.raises(CheckpointError, match="positions are rotary, which have no time"):
        start(replace(clips, out=tmp_path / "never", init=rot90.out), live=False)
    with pytest.raises(CheckpointError, match="is a video model, and this model takes images"):
        start(replace(config, out=tmp_path / "back", init=run), live=False)


def test_generated_motions_come_in_twins():
    """They share the moment in the middle, and differ in how they come to it or leave it."""
    assert len(MOTIONS) == 10
    for label, twin in zip(MOTIONS[::2], MOTIONS[1::2], strict=True):
        mine, other = (motion(name, np.random.default_rng(7)) for name in (label, twin))
        assert mine.frames.shape == other.frames.shape and mine.rate == other.rate
        assert mine.frames.shape[1] % 2 == mine.frames.shape[2] % 2 == 0
        a, b = mine.frames.astype(int), other.frames.astype(int)
        apart = np.abs(a - b).mean((1, 2, 3))
        assert apart[len(a) // 2] < 6 < apart.max()  # the middle is shared, the way is not
    again = motion("left", np.random.default_rng(7)).frames
    assert np.array_equal(again, motion("left", np.random.default_rng(7)).frames)
