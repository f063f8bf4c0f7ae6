"""A class or a split without anything to learn from stops a run before its first step, by name."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pairs import tiny_pairs, write_pairs
from patchpack.data.records import BadDataset, list_names
from patchpack.evaluation import data_of, evaluate
from patchpack.loading import load
from patchpack.run import start
from patchpack.train.log import RunLog, read_log
from patchpack.train.loop import TrainingError
from patchpack.visualize.figures import draw_curves
from runs import tiny
from test_detecting import tiny_detector, write_coco


def write_manifest(root: Path, rows: list[tuple[str, str, str]]) -> Path:
    """Write a manifest of (label, split, site) and an image for each row."""
    root.mkdir(parents=True)
    lines = ["path,label,split,site"]
    for number, row in enumerate(rows):
        pixels = np.full((12, 16, 3), 20 * number % 255, np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
        lines.append(",".join((f"{number}.png", *row)))
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root / "manifest.csv"


ROWS = [(label, split, "a") for label in "xy" for split in ("train", "train", "val", "test")]


def test_a_class_without_a_training_image_is_named(tmp_path):
    source = write_manifest(tmp_path / "data", [*ROWS, ("ghost", "train", "b")])
    config = tiny(source, tmp_path / "run", 1)
    config = replace(config, data=replace(config.data, where=("site=a",)))
    with pytest.raises(BadDataset, match="no image of the training split is of the class 'ghost'"):
        start(config, live=False)
    assert not (tmp_path / "run").exists()


def test_validation_images_without_a_label_are_counted(tmp_path, capsys):
    source = write_manifest(tmp_path / "data", [*ROWS, ("", "val", "a"), ("", "test", "a")])
    start(tiny(source, tmp_path / "run", 1), live=False)
    assert "skipped: 1 images of the validation split without a label" in capsys.readouterr().err
    ((_, result),) = evaluate(load(tmp_path / "run"), data_of(tmp_path / "run", split="test"), [16])
    assert result.counts.images == 2
    assert any("1 items are not counted: they have no label" in note for note in result.notes)
    (record, *_) = read_log(tmp_path / "run" / "log.jsonl", "eval")
    assert record["top5"] is None and record["top1"] is not None  # of two classes


def test_a_category_without_a_training_box_is_named(tmp_path):
    pytest.importorskip("faster_coco_eval")
    source = write_coco(tmp_path / "data", {"train": 6, "val": 3, "test": 3})
    content = json.loads(source.read_text())
    splits = {image["id"]: image["split"] for image in content["images"]}
    content["annotations"] = [
        box for box in content["annotations"]
        if box["category_id"] == 5 or splits[box["image_id"]] == "test"
    ]  # fmt: skip
    source.write_text(json.dumps(content))
    with pytest.raises(BadDataset, match="no box of the training split is of 'disc'"):
        start(tiny_detector(source, tmp_path / "run", 1), live=False)


def test_a_validation_split_without_captions_is_named(tmp_path):
    source = write_pairs(tmp_path / "data", {"train": 8, "val": 4})
    lines = [json.loads(line) for line in source.read_text().splitlines()]
    for line in lines:
        line["captions"] = [] if line["split"] == "val" else line["captions"]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = tiny_pairs(source, tmp_path / "run", 1)
    config = replace(config, data=replace(config.data, max_bad_fraction=0.9))
    with pytest.raises(BadDataset, match=r"none of the 4 images of the split 'val' .* has a text"):
        start(config, live=False)


def test_no_weights_are_chosen_by_a_recall_that_cannot_miss(tmp_path):
    """One validation image has no wrong text."""
    source = write_pairs(tmp_path / "data", {"train": 8, "val": 1})
    with pytest.raises(TrainingError, match=r"gives no mean_recall.*are undefined"):
        start(tiny_pairs(source, tmp_path / "run", 1), live=False)


def test_an_undefined_metric_is_null_in_the_log_and_a_gap_in_the_curve(tmp_path, capsys):
    log = RunLog(tmp_path, resume_step=0, resume_fraction=0, live=True)
    log.evaluation(3, {"top1": 0.5, "top5": float("nan")})
    log.close()
    assert "top1 0.5000  top5 –" in capsys.readouterr().err
    evals = read_log(tmp_path / "log.jsonl", "eval")
    assert evals == [{"kind": "eval", "step": 3, "top1": 0.5, "top5": None}]
    train = [{"step": 1, "loss": 1.0, "images_per_s": 3.0}]
    assert draw_curves(train, evals).startswith(b"\x89PNG")


def test_lists_of_names_give_the_number_left_out():
    assert list_names(["a"]) == "'a'"
    assert list_names([str(i) for i in range(1_012)], 2) == "'0', '1' and 1,010 more"
