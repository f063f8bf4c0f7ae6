"""Segmentation from files to masks: training, evaluating, predicting, and whatever is wrong."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import patchpack as pp
from patchpack.batch import IGNORE_INDEX
from patchpack.data.annotations.masks import (
    UNREAD,
    Mask,
    Masks,
    MaskSpec,
    attach_masks,
    read_classes,
    read_mask,
)
from patchpack.data.images import BadImage, read_size
from patchpack.data.index import build_index
from patchpack.data.preprocess import read_sample
from patchpack.data.records import BadDataset
from patchpack.data.spec import ImageSource
from patchpack.data.transforms.sample import Sample
from patchpack.evaluation import data_of, evaluate
from patchpack.metrics.segmentation import ConfusionMatrix, count_pixels
from patchpack.run import start
from patchpack.tasks.detection.model import DetectionConfig
from patchpack.tasks.segmentation.model import MaskTransformer, SegmentationConfig
from patchpack.tasks.segmentation.options import SegmentationOptions
from patchpack.tasks.segmentation.predictor import SegmentationPredictor
from patchpack.tasks.segmentation.sliding_window import windows
from runs import assert_resumes_exactly, final_tensors
from scenes import CLASSES, tiny_segmenter, write_scenes
from test_cli import patchpack
from test_detecting import write_coco


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    return write_scenes(folder, {"training": 40, "val": 8, "test": 10})


@pytest.fixture(scope="module")
def run(root, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    config = tiny_segmenter(root, out, steps=120, dice_weight=0.5)
    model = replace(config.model, dropout=0.0, drop_path=0.0)
    start(replace(config, model=model, train=replace(config.train, eval_every=60)), live=False)
    return out


def test_it_learns_and_eval_agrees_with_counting_by_hand(capsys, run, root):
    status, out, _ = patchpack(capsys, "eval", run, "--budgets", 64, 144, "--json")
    budgets = json.loads(out)["budgets"]
    assert status == 0 and [b["max_tokens"] for b in budgets] == [64, 144]
    assert read_size(run / "eval-test.png")[1] > 1000  # six images side by side
    assert budgets[1]["mean_iou"] > 0.6 and list(budgets[1]["iou"]) == list(CLASSES)
    images = sorted((root / "images" / "test").iterdir())
    found = pp.load(run).predict(images, max_tokens=144)
    truth = [np.array(Image.open(root / "masks" / "test" / p.name)) for p in images]
    right = sum((f.mask == t).sum() for f, t in zip(found, truth, strict=True))
    assert right / sum(t.size for t in truth) == pytest.approx(budgets[1]["pixel_accuracy"])
    for label, name in enumerate(CLASSES):
        both = sum(((f.mask == label) & (t == label)).sum() for f, t in zip(found, truth, strict=1))
        any_ = sum(((f.mask == label) | (t == label)).sum() for f, t in zip(found, truth, strict=1))
        assert budgets[1]["iou"][name] == pytest.approx(both / any_)


def test_an_image_is_segmented_alone_as_in_company(run, root):
    images = sorted((root / "images" / "test").iterdir())
    model = pp.load(run)
    together = model.predict(images)
    for image, found in zip(images, together, strict=True):
        assert np.array_equal(model.predict([image])[0].mask, found.mask)
        assert found.mask.shape == np.array(Image.open(image)).shape[:2]
        assert sum(found.shares.values()) == pytest.approx(1)


def test_predict_writes_masks_that_hold_the_classes(capsys, run, root, tmp_path):
    images = sorted((root / "images" / "test").iterdir())[:2]
    other = tmp_path / images[0].name
    other.write_bytes(images[0].read_bytes())
    words = ("predict", run, *images, other, images[1], "-o", tmp_path / "masks")
    status, out, _ = patchpack(capsys, *words)
    names = sorted(p.name for p in (tmp_path / "masks").iterdir())
    assert status == 0 and names == ["000-2.png", "000.png", "001.png"]
    assert "ground" in out and "→" in out
    written = Image.open(tmp_path / "masks" / "001.png")
    assert written.mode == "P"
    assert np.array_equal(np.array(written), pp.load(run).predict(images)[1].mask)


def test_windows_cover_the_image_and_agree_with_one_pass_where_it_fits(capsys, run, root):
    model = pp.load(run)
    image = np.array(Image.open(root / "images" / "test" / "000.png"))
    whole = model.predict([image], max_tokens=4096)[0].mask
    assert np.array_equal(
        model.predict([image], max_tokens=4096, sliding_window=True)[0].mask, whole
    )
    large = np.tile(image, (3, 4, 1))
    found = model.predict([large], max_tokens=100, sliding_window=True)[0].mask
    assert found.shape == large.shape[:2]
    assert (found == np.tile(whole, (3, 4))).mean() > 0.85
    assert np.array_equal(found, by_hand(model, large, 100))
    status, out, _ = patchpack(
        capsys, "eval", run, "--sliding-window", "--budgets", 36, "--json"
    )  # fmt: skip
    assert status == 0 and json.loads(out)["budgets"][0]["images"] == 10


def by_hand(model: SegmentationPredictor, image: np.ndarray, tokens: int) -> np.ndarray:
    """The likeliest class by the sums of what every window says alone."""
    total = torch.zeros(len(model.classes), *image.shape[:2])
    for p in windows(image.shape[:2], model.spec.model.patch_size, tokens):
        place = np.s_[p.top : p.top + p.height, p.left : p.left + p.width]
        batch = pp.pack([image[place]], patch_size=model.spec.model.patch_size, max_tokens=tokens)
        with torch.inference_mode():
            total[:, *place] += model.model.upsampled_logits(batch, [(p.height, p.width)])[0]
    return total.argmax(0).numpy()


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (100, 37), (16, 900), (500, 333)])
@pytest.mark.parametrize("tokens", [1, 16, 100])
def test_windows_are_within_the_budget_and_leave_no_pixel_out(size, tokens):
    parts = windows(size, 8, tokens)
    seen = np.zeros(size, int)
    for part in parts:
        assert -(-part.height // 8) * -(-part.width // 8) <= tokens
        seen[part.top : part.top + part.height, part.left : part.left + part.width] += 1
    assert seen.min() >= 1


@pytest.mark.parametrize("size", [(100, 37), (16, 900), (500, 333)])
def test_neighbouring_windows_share_a_quarter(size):
    parts = windows(size, 8, 16)
    for low, side in ((0, 2), (1, 3)):
        ends = sorted({(part[low], part[low] + part[side]) for part in parts})
        for (_, end), (begin, _) in itertools.pairwise(ends):
            assert end - begin >= 0.25 * parts[0][side] - 1


def test_cost_counts_the_operations_of_the_forward_passes(run):
    model, data = pp.load(run), data_of(run, split="test")
    shown: list[int] = []
    forward = model.model.forward

    def counting(batch, *more):
        shown.append(model.model.flops(batch.lengths))
        return forward(batch, *more)

    model.model.forward = counting
    for sliding_window in (False, True):
        shown.clear()
        options = SegmentationOptions(sliding_window=sliding_window)
        ((cost, _),) = evaluate(model, data, [36], options)
        assert cost.gflops_per_image == pytest.approx(sum(shown) / 10 / 1e9)


def test_masks_match_their_images_and_the_classes_of_the_model(run, root, tmp_path):
    """JPEGs are decoded whole where there is a mask; an image without one counts as bad; another
    classes.json is refused."""
    path = save(tmp_path / "a.jpg", np.zeros((640, 480, 3), np.uint8))
    mask = save(tmp_path / "a.png", np.zeros((640, 480), np.uint8))
    annotations = {"masks": Mask(UNREAD, MaskSpec(mask, 3, None))}
    source = ImageSource(path=path, key="a", annotations=annotations)
    assert read_sample(source, (16, 12)).size == (640, 480)
    assert read_sample(replace(source, annotations={}), (16, 12)).size < (640, 480)
    pixels = np.arange(35, dtype=np.uint8).reshape(5, 7)
    sample = Sample(np.repeat(pixels[..., None], 3, 2), {"masks": Mask(pixels)}).crop(1, 2, 3, 4)
    values = sample.annotations["masks"].values
    assert np.array_equal(values, sample.pixels[..., 0]) and values[0, 0] == 9

    copy = write_scenes(tmp_path / "some", {"train": 5, "test": 6})
    (copy / "masks" / "test" / "003.png").unlink()
    data = data_of(run, data=copy, split="test", max_bad_fraction=0.5)
    ((cost, result),) = evaluate(pp.load(run), data, [36])
    assert result.counts.images == 5 and cost.unreadable == ("images/test/003.png: has no mask",)
    with pytest.raises(BadDataset, match="has no mask"):
        evaluate(pp.load(run), replace(data, max_bad_fraction=0.01), [36])


def test_masks_with_other_class_indices_raise(capsys, run, tmp_path):
    copy = write_scenes(tmp_path / "some", {"train": 5, "test": 6})
    (copy / "classes.json").write_text('["box", "ground", "disc"]')
    status, _, err = patchpack(capsys, "eval", run, "--data", copy)
    assert status == 2 and "has the classes box, ground, disc, the model ground, box, disc" in err


def test_exif_orientation_applies_to_masks(tmp_path):
    values = np.array([[0, 1, 2], [2, 2, 1]], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its left side
    Image.fromarray(values).save(tmp_path / "m.png", exif=exif)
    found = read_mask(MaskSpec(tmp_path / "m.png", 3, None), (3, 2), "x")
    assert np.array_equal(found, np.rot90(values, -1))


def test_classes_that_nothing_can_be_told_of_are_said(root, tmp_path, capsys):
    config = tiny_segmenter(root, tmp_path / "run", steps=1, ignore_index=0)
    start(config, live=False)
    assert "task.ignore_index is the class 'ground'" in capsys.readouterr().err
    copy = write_scenes(tmp_path / "some", {"train": 5, "val": 2})
    for mask in copy.glob("masks/val/*.png"):
        save(mask, np.full(read_size(mask), 7, np.uint8))
    with pytest.raises(BadDataset, match=r"no pixel of the masks of .*/some has a class"):
        start(tiny_segmenter(copy, tmp_path / "out", steps=1, ignore_index=7), live=False)


def test_resuming_gives_the_same_bits(root, tmp_path):
    assert_resumes_exactly(tiny_segmenter(root, tmp_path, steps=8, dice_weight=0.3), tmp_path)


def test_a_run_begins_with_the_head_only_where_it_answers_the_same(root, run, tmp_path):
    """With another decoder, or a detector's weights, the trunk alone comes along."""
    config = replace(tiny_segmenter(root, tmp_path / "same", steps=1), init=run)
    config = replace(config, optim=replace(config.optim, lr=1e-12))
    other = replace(
        config, out=tmp_path / "other", task=SegmentationConfig(decoder=MaskTransformer(depth=1))
    )
    boxes = write_coco(tmp_path / "coco", {"train": 8, "val": 2})
    third = replace(
        config, out=tmp_path / "boxes", data=replace(config.data, root=boxes),
        task=DetectionConfig(classes=CLASSES[1:]),
    )  # fmt: skip
    before = pp.load(run).model.state_dict()
    for each in (config, other, third):
        start(each, live=False)
        after = final_tensors(each.out)
        name = "backbone.encoder.blocks.0.mlp.up.weight"
        torch.testing.assert_close(after[f"model/{name}"], before[name])
    torch.testing.assert_close(
        final_tensors(config.out)["model/head.weight"], before["head.weight"]
    )


def test_counts_are_those_of_scikit_learn():
    from sklearn.metrics import confusion_matrix, jaccard_score

    rng = np.random.default_rng(0)
    truth, found = rng.integers(0, 4, (2, 30, 20))
    truth[:5] = IGNORE_INDEX
    counts = count_pixels(torch.from_numpy(found), torch.from_numpy(truth), 5, IGNORE_INDEX)
    known = truth != IGNORE_INDEX
    expected = confusion_matrix(truth[known], found[known], labels=range(5))
    assert counts.confusion.tolist() == expected.tolist()
    iou = jaccard_score(truth[known], found[known], labels=range(4), average=None)
    assert counts.iou[:4].tolist() == pytest.approx(iou.tolist())
    assert counts.iou[4].isnan() and counts.mean_iou == pytest.approx(iou.mean())
    nothing = ConfusionMatrix.none(3)
    assert np.isnan([nothing.mean_iou, nothing.pixel_accuracy]).all()


def save(path: Path, values: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(path)
    return path


@pytest.mark.parametrize(
    ("values", "mode", "reason"),
    [
        (
            np.full((4, 6), 9, np.uint8),
            None,
            r"holds \[9\], but classes are numbered 0 to 2.*task.ignore",
        ),
        (np.zeros((6, 4), np.uint8), None, r"is \(6, 4\) pixels, the image, upright, \(4, 6\)"),
        (np.arange(72, dtype=np.uint8).reshape(4, 6, 3), None, "has mode RGB, not one channel"),
    ],
)
def test_an_invalid_mask_raises_bad_image(tmp_path, values, mode, reason):
    path = save(tmp_path / "mask.png", values, mode)
    with pytest.raises(BadImage, match=f"a.png: its mask {reason}"):
        read_mask(MaskSpec(path, 3, None), (4, 6), "a.png")


def test_all_file_modes_give_the_same_class_indices(tmp_path):
    values = np.array([[0, 1, 2], [2, 2, 7]], np.uint8)
    palette = Image.fromarray(values).convert("P")
    palette.putpalette([9, 9, 9] * 256)
    palette.save(tmp_path / "p.png")
    save(tmp_path / "l.png", values)
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "i16.png")
    for name in ("p.png", "l.png", "i16.png"):
        found = read_mask(MaskSpec(tmp_path / name, 3, 7), (2, 3), "x")
        assert found.tolist() == [[0, 1, 2], [2, 2, IGNORE_INDEX]] and found.dtype == np.uint8
    (tmp_path / "empty.png").write_bytes(b"")
    for wrong in ("empty.png", "absent.png"):
        with pytest.raises(BadImage, match=f"x: its mask {wrong}"):
            read_mask(MaskSpec(tmp_path / wrong, 3, 7), (2, 3), "x")


def test_images_without_masks_are_listed_and_limited(root, tmp_path):
    index = build_index(root, require_labels=False)
    masked, without_mask = attach_masks(index, 3, None)
    assert len(masked) == 58 and not without_mask
    assert masked.annotation(Masks).keys[0].startswith("masks/")
    assert {"train", "val", "test"} == set(index.splits)
    copy = write_scenes(tmp_path / "some", {"train": 5, "val": 2})
    (copy / "masks" / "train" / "002.png").unlink()
    masked, without_mask = attach_masks(build_index(copy, require_labels=False), 3, None)
    assert [error.key for error in without_mask] == ["images/train/002.png"] and len(masked) == 6
    with pytest.raises(BadDataset, match=r"1 of 7 images cannot be used.*002.png: has no mask"):
        start(tiny_segmenter(copy, tmp_path / "out"), live=False)
    (copy / "masks" / "train" / "001.png").write_bytes(b"no mask")
    config = tiny_segmenter(copy, tmp_path / "out")
    allowed = replace(config, data=replace(config.data, max_bad_fraction=0.6))
    start(allowed, live=False)
    log = (tmp_path / "out" / "log.jsonl").read_text()
    assert "has no mask" in log and "001.png" in log


def test_data_without_masks_or_names_say_what_is_expected(folder, tmp_path):
    task = {"classes": ("a", "b")}
    with pytest.raises(BadDataset, match="no mask for any image: expected a manifest with a col"):
        start(tiny_segmenter(folder, tmp_path / "out", **task), live=False)
    copy = write_scenes(tmp_path / "some", {"train": 5, "val": 2})
    for text, words in (
        ("{", "not JSON"), ('{"1": "a"}', "number its names 0, 1, 2"), ("[]", "must hold names"),
        ('["a", 3]', "must hold names"), ("7", "must be a list"),
        ('["a", "a"]', "duplicate names"), ("[" * 200_000, "not JSON"),
        ('{"0": "a", "00": "b", "1": "c"}', "number its names"),
    ):  # fmt: skip
        (copy / "classes.json").write_text(text)
        with pytest.raises(BadDataset, match=words):
            read_classes(copy)
    (copy / "classes.json").unlink()
    with pytest.raises(BadDataset, match=r"task\.classes"):
        read_classes(copy)
    with pytest.raises(BadDataset, match="may have 2 to 255 classes, not 1"):
        start(tiny_segmenter(copy, tmp_path / "out", classes=("a",)), live=False)
    with pytest.raises(BadDataset, match="2 class_weights for 3 classes: ground"):
        (copy / "classes.json").write_text('["ground", "box", "disc"]')
        start(tiny_segmenter(copy, tmp_path / "out", class_weights=(1.0, 2.0)), live=False)


def test_what_is_not_for_segmenters_is_refused(capsys, run, root, tmp_path):
    image = root / "images" / "test" / "000.png"
    for words, said in (
        (("eval", run, "--suite", "cost"), "is a segmenter"),
        (("search", run, root, "x"), "is a segmenter: it does not embed texts"),
        (("eval", run, "--split", "nothing"), "no split 'nothing'"),
        (("predict", run, image, "-o", image), "is a file: name a folder"),
        (("predict", run, image, "--labels", "cat"), "--labels is for contrastive, detection"),
        (("predict", run, image, "--score-threshold", "0.5"), "--score-threshold is for detection"),
        (("predict", run, image, "-o", image / "masks"), "is a file: name a folder"),
        (("predict", run, image, "-o", image.parent), "000.png exists, and is not overwritten"),
        (("eval", run, "--views", "2"), "--views is for classification"),
        (("eval", run, "--attributes", "age"), "--attributes needs --suite"),
        (("eval", run, "--severities", "1"), "--severities needs --suite"),
        (
            ("predict", run, image, "--sliding-window", "--max-tokens", 0),
            "max_tokens must be at least 1",
        ),
        (("train", root), "to train on its masks, add task:segmentation-config"),
    ):
        status, _, err = patchpack(capsys, *words)
        assert status == 2 and said in err
    assert pp.load(run).embed([image]).shape == (1, 16)
    status, out, _ = patchpack(capsys, "embed", run, root, "-o", tmp_path / "v.npz", "--json")
    assert status == 0 and json.loads(out)["shape"] == [58, 16]  # of images, and not of masks
    (tmp_path / "000.png").symlink_to(tmp_path / "away.png")
    status, _, err = patchpack(capsys, "predict", run, image, "-o", tmp_path)
    assert status == 2 and "000.png exists, and is not overwritten" in err


def test_eval_names_unreadable_images(run, tmp_path):
    copy = write_scenes(tmp_path / "some", {"test": 6})
    (copy / "images" / "test" / "003.png").write_bytes(
        (copy / "images" / "test" / "003.png").read_bytes()[:90]
    )
    data = data_of(run, split="test", data=copy, max_bad_fraction=0.5)
    for sliding_window in (False, True):
        options = SegmentationOptions(sliding_window=sliding_window)
        ((cost, result),) = evaluate(pp.load(run), data, (64,), options)
        assert result.counts.images == 5 and "003.png" in cost.unreadable[0]
