"""Masks of other values and of colors: what is read and advised, and classes without a pixel."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import patchpack as pp
from patchpack.batch import IGNORE_INDEX
from patchpack.data.annotations.mask_scan import find_mask_problem
from patchpack.data.annotations.mask_values import ForeignValues, MaskEncoding, encode, raw_values
from patchpack.data.annotations.masks import (
    Masks,
    MaskSpec,
    attach_masks,
    read_class_table,
    read_mask,
)
from patchpack.data.index import build_index
from patchpack.data.records import BadDataset
from patchpack.evaluation import data_of, evaluate
from patchpack.metrics.segmentation import ConfusionMatrix, table
from patchpack.run import start
from patchpack.tasks.segmentation.evaluator import SegmentationResult
from patchpack.tasks.segmentation.model import SegmentationConfig
from patchpack.visualize.overlay import palette
from runs import tiny
from test_cli import patchpack

COLORS = np.array([[0, 0, 0], [128, 64, 128], [0, 128, 0]], np.uint8)
NAMES = ["background", "square", "corner"]


def write(root: Path, encoded, names: object, count: int = 12) -> Path:
    """Write scenes of a square with a corner; `encoded` maps class indices to a mask's array."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number in range(count):
        top, left = rng.integers(2, 16, 2)
        labels = np.zeros((40, 56), np.uint8)
        labels[top : top + 20, left : left + 20] = 1
        if len(names) > 2:
            labels[top : top + 6, left : left + 6] = 2
        pixels = np.array([60, 210, 120], np.uint8)[labels]
        Image.fromarray(np.repeat(pixels[..., None], 3, 2)).save(root / f"images/{number:02d}.png")
        Image.fromarray(encoded(labels)).save(root / f"masks/{number:02d}.png")
    (root / "classes.json").write_text(json.dumps(names))
    return root


def numbered_objects(labels: np.ndarray) -> np.ndarray:
    numbers = labels.copy()
    numbers[labels > 0] = 1 + np.arange((labels > 0).sum()) // 30
    return numbers


def config_of(root: Path, out: Path, **task: object):
    return replace(tiny(root, out, 2, ema=0.0), task=SegmentationConfig(**task))


@pytest.mark.parametrize(
    ("encoded", "names", "task", "words"),
    [
        (lambda m: m * 255, NAMES[:2], {}, "masks hold 0 255, for 2 classes; if these are the "
         "classes in order, give --task.mask-values 0 255"),
        (lambda m: m * 255, NAMES[:2], {"ignore_index": 255}, r"the class 'square' \(mask value 1\)"
         ".*if it is a class, give --task.mask-values 0 255 without --task.ignore-index"),
        (lambda m: m * 0, NAMES[:2], {}, "no pixel of the 10 training masks is of the class "
         "'square'"),
        (lambda m: m.clip(max=1), NAMES, {}, "is of the class 'corner'"),
        (lambda m: m + 1, NAMES, {}, "give --task.mask-values 1 2 3"),
        (lambda m: m * 100, NAMES[:2], {"ignore_index": 0}, "masks hold 0 100, for 2 classes; "
         "give the mask value of each of the 2 classes"),
        (lambda m: m.clip(max=1) + 1, NAMES, {}, r"the class 'background' \(mask value 0\)"
         "|cannot be used"),
        (numbered_objects, NAMES[:2], {}, r"different values for 2 classes are numbers of objects "
         r"\(instances\)"),
        (lambda m: COLORS[m], NAMES, {}, "masks hold 000000 008000 804080, for 3 classes; give the "
         "color of each of the 3 classes, in order, with --task.mask-colors"),
        (lambda m: COLORS[m], NAMES, {"mask_colors": ("000000", "804080", "ff0000")},
         "holds 008000, but task.mask-colors is 000000 804080 ff0000"),
        (lambda m: m, NAMES, {"mask_values": (0, 1)}, "2 task.mask-values for 3 classes"),
    ],
)  # fmt: skip
def test_masks_that_do_not_serve_stop_the_run_with_the_right_advice(
    tmp_path, encoded, names, task, words
):
    root = write(tmp_path / "data", encoded, names)
    with pytest.raises(BadDataset, match=words):
        start(config_of(root, tmp_path / "run", **task), live=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("encoded", "names", "task", "mode"),
    [
        (lambda m: m * 255, NAMES[:2], {"mask_values": (0, 255)}, "P"),
        (lambda m: m * 255, {"background": 0, "square": 255}, {}, "P"),
        (lambda m: m.astype(np.uint16) * 300, NAMES, {"mask_values": (0, 300, 600)}, "I;16"),
        (lambda m: COLORS[m], NAMES, {"mask_colors": ("000000", "804080", "#008000")}, "RGB"),
        (lambda m: COLORS[m], dict(zip(NAMES, COLORS.tolist(), strict=True)), {}, "RGB"),
        (lambda m: COLORS[m], {"background": "#000000", "square": "804080", "corner": "008000"}, {},
         "RGB"),
    ],
)  # fmt: skip
def test_train_eval_and_predict_agree_on_mask_values(capsys, tmp_path, encoded, names, task, mode):
    root = write(tmp_path / "data", encoded, names)
    start(config_of(root, tmp_path / "run", **task), live=False)
    model = pp.load(tmp_path / "run")
    assert model.classes == tuple(names)
    ((_, result),) = evaluate(model, data_of(tmp_path / "run", split="test"), [64])
    assert result.counts.confusion.sum(1).min() > 0  # every class occurs in the masks
    image = sorted((root / "images").iterdir())[0]
    status, _, _ = patchpack(
        capsys, "predict", tmp_path / "run", image, "-o", tmp_path / "predicted"
    )
    written = Image.open(tmp_path / "predicted" / image.name)
    encoding = model.spec.task.encoding
    assert status == 0 and written.mode.startswith(mode)
    read = encoding.decode(raw_values(written, encoding), len(names), None)
    assert np.array_equal(read, model.predict([image])[0].mask)


def test_a_mask_of_another_dataset_is_read_by_its_own_classes_json(tmp_path):
    root = write(tmp_path / "data", lambda m: m, NAMES)
    start(config_of(root, tmp_path / "run"), live=False)
    model = pp.load(tmp_path / "run")
    colored = write(
        tmp_path / "other", lambda m: COLORS[m], dict(zip(NAMES, COLORS.tolist(), strict=True))
    )
    results = [
        evaluate(model, data_of(tmp_path / "run", data=data, split="all"), [64])[0].result.counts
        for data in (root, colored)
    ]
    assert torch.equal(results[0].confusion, results[1].confusion)


def test_every_encoding_reads_what_it_writes():
    labels = np.random.default_rng(0).integers(0, 3, (7, 5)).astype(np.uint8)
    for encoding in (
        MaskEncoding.plain,
        MaskEncoding((0, 255, 7)),
        MaskEncoding((0, 256, 65_535)),
        MaskEncoding((0, 0x0000FF, 0x804080), colors=True),
    ):
        image = encode(labels, encoding, palette().ravel().tolist())
        assert np.array_equal(encoding.decode(raw_values(image, encoding), 3, None), labels)


def test_ignored_pixels_of_values_and_colors():
    raw = np.array([[0, 255, 9]])
    decoded = MaskEncoding((0, 255)).decode(raw, 2, 9)
    assert decoded.tolist() == [[0, 1, IGNORE_INDEX]]
    void = MaskEncoding((0, 0x804080), colors=True).decode(np.array([[0, 0xFFFFFF]]), 2, 0xFFFFFF)
    assert void.tolist() == [[0, IGNORE_INDEX]]
    with pytest.raises(ForeignValues, match=r"holds \[9\], but task.mask-values is 0 255"):
        MaskEncoding((0, 255)).decode(raw, 2, None)


def test_a_palette_png_is_read_by_index_or_by_color(tmp_path):
    labels = np.array([[0, 1], [2, 1]], np.uint8)
    image = Image.fromarray(labels).convert("P")
    image.putpalette(COLORS.ravel().tolist())
    image.save(tmp_path / "m.png")
    by_color = MaskEncoding((0, 0x804080, 0x008000), colors=True)
    for encoding in (MaskEncoding.plain, by_color):
        spec = MaskSpec(tmp_path / "m.png", 3, None, encoding)
        assert np.array_equal(read_mask(spec, (2, 2), "x"), labels)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": 1, "b": 1}, "same mask value"), ({"a": -1, "b": 1}, "must lie in 0 to 65535"),
        ({"a": [0, 0], "b": [1, 2, 3]}, "neither a mask value nor a color"),
        ({"a": "red", "b": "000000"}, "written RRGGBB"), ({"a": True, "b": 1}, "neither a mask"),
        ({"a": 0.5, "b": 1}, "neither a mask"), ({"0": "a", "255": "b"}, "write {name: value}"),
    ],
)  # fmt: skip
def test_a_wrong_classes_json_is_refused(tmp_path, content, words):
    (tmp_path / "classes.json").write_text(json.dumps(content))
    with pytest.raises(BadDataset, match=words):
        read_class_table(tmp_path)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="give one"):
        SegmentationConfig(mask_values=(0, 1), mask_colors=("000000", "ffffff"))
    with pytest.raises(ValueError, match="RRGGBB"):
        SegmentationConfig(mask_colors=("black",))
    with pytest.raises(ValueError, match="same mask value"):
        SegmentationConfig(mask_values=(3, 3))


def test_the_scan_stops_when_every_class_has_occurred(tmp_path, monkeypatch):
    root = write(tmp_path / "data", lambda m: m, NAMES, count=200)
    index, _ = attach_masks(build_index(root, require_labels=False), 3, None)
    read = []
    spec = Masks.spec
    monkeypatch.setattr(
        Masks, "spec", lambda self, root, row: read.append(row) or spec(self, root, row)
    )
    assert find_mask_problem(index, NAMES, 0.01) is None and len(read) == 64
    problem = find_mask_problem(index, [*NAMES, "ghost"], 0.01)
    assert "of the 200 training masks is of the class 'ghost'" in problem and len(read) == 264


def test_a_class_without_a_pixel_in_evaluation_is_named():
    confusion = torch.tensor([[5, 0, 0], [1, 2, 0], [0, 0, 0]])
    result = SegmentationResult(ConfusionMatrix(confusion, 1), tuple(NAMES))
    assert result.notes == [
        "mean IoU is over 2 of 3 classes: no pixel is of 'corner', in the masks or predicted"
    ]
    record = table(result.counts, NAMES)
    assert record["mean_iou_classes"] == 2 and np.isnan(record["iou"]["corner"])
    nothing = SegmentationResult(ConfusionMatrix.none(3), tuple(NAMES))
    assert nothing.notes == ["mean IoU is undefined: no pixel has a class"]


def test_a_negative_value_is_advised_to_be_left_out():
    advice = MaskEncoding.plain.advice([-1, 0, 1], 2, None)
    assert advice.startswith("if -1 is a pixel without a class, give --task.ignore-index -1; ")
