"""Detection from COCO files to boxes: training, evaluation, prediction, and invalid data."""

import contextlib
import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import patchpack as pp
from patchpack.data.annotations.boxes import BoxAnnotations, Boxes, attach_boxes
from patchpack.data.config import PackingConfig
from patchpack.data.images import read_size
from patchpack.data.index import build_index
from patchpack.data.loader import load_pack
from patchpack.data.packing.plan import ItemSizes, make_plan
from patchpack.data.packing.resolution import Native
from patchpack.data.records import BadDataset
from patchpack.data.spec import Preprocessing, pack_spec
from patchpack.data.transforms.augment import Augment
from patchpack.data.transforms.sample import Sample
from patchpack.evaluation import data_of, evaluate
from patchpack.metrics.detection import Detections, average_precision
from patchpack.run import start
from patchpack.tasks.classification.model import ClassificationConfig
from patchpack.tasks.detection.evaluator import DetectionEvaluator
from patchpack.tasks.detection.model import DetectionConfig
from patchpack.tasks.detection.report import draw_detections
from runs import assert_resumes_exactly, tiny
from scenes import draw
from test_cli import patchpack


def write_coco(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Write boxes.json with the bounding boxes of the box and the disc of every scene."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    content = {"images": [], "annotations": [],
               "categories": [{"id": 5, "name": "box"}, {"id": 9, "name": "disc"}]}  # fmt: skip
    for split, count in counts.items():
        for _ in range(count):
            pixels, mask = draw(rng)
            number = len(content["images"])
            name = f"{split}{number:03d}.png"
            Image.fromarray(pixels).save(root / "images" / name)
            content["images"].append({"id": number, "file_name": name, "split": split})
            for value, category in ((1, 5), (2, 9)):
                y, x = np.nonzero(mask == value)
                if len(y):
                    box = [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
                    content["annotations"].append(
                        {"id": len(content["annotations"]), "image_id": number,
                         "category_id": category, "bbox": list(map(int, box))}
                    )  # fmt: skip
    (root / "boxes.json").write_text(json.dumps(content))
    return root / "boxes.json"


def tiny_detector(source: Path, out: Path, steps: int = 8, **task: object):
    config = tiny(source, out, steps, ema=0.0)
    model = replace(config.model, dropout=0.0, drop_path=0.0)
    return replace(config, model=model, task=DetectionConfig(**task))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "coco"
    return write_coco(root, {"train": 60, "val": 10, "test": 12})


@pytest.fixture(scope="module")
def run(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    config = tiny_detector(source, out, steps=250)
    start(replace(config, train=replace(config.train, eval_every=125)), live=False)
    return out


def test_it_learns_to_find_objects(capsys, run):
    status, out, _ = patchpack(capsys, "eval", run, "--budgets", 36, 144, "--json")
    budgets = json.loads(out)["budgets"]
    assert status == 0 and budgets[1]["images"] == 12 and budgets[1]["objects"] > 18
    assert budgets[1]["ap50"] > 0.4 and set(budgets[1]["per_class"]) == {"box", "disc"}
    status, out, _ = patchpack(capsys, "eval", run)
    assert status == 0 and "AP50" in out and "…" not in out
    assert read_size(run / "eval-test.png")[1] > 1000  # six images side by side


def test_an_image_has_the_same_boxes_alone_as_in_company(run, source):
    images = sorted((source.parent / "images").glob("test*.png"))
    model = pp.load(run)
    together = model.predict(images, score_threshold=0.1)
    for image, found in zip(images, together, strict=True):
        (alone,) = model.predict([image], score_threshold=0.1)
        assert [b.label for b in alone] == [b.label for b in found] and found
        for a, b in zip(alone, found, strict=True):
            assert (a.score, a.top, a.right) == pytest.approx((b.score, b.top, b.right), abs=1e-3)
        height, width = np.array(Image.open(image)).shape[:2]
        assert all(0 <= b.top <= b.bottom <= height and b.right <= width for b in found)


def test_predict_writes_a_coco_file_that_can_be_read_again(capsys, run, source, tmp_path):
    images = sorted((source.parent / "images").glob("test*.png"))[:3]
    words = ("predict", run, *images, "--score-threshold", "0.2", "-o", tmp_path / "found.json")
    status, out, _ = patchpack(capsys, *words)
    assert status == 0 and "found" in out and "px" in out
    index = build_index(tmp_path / "found.json", require_labels=False)
    again, issues = attach_boxes(index, (), 0.0)
    shown = pp.load(run).predict(images, score_threshold=0.2)
    assert not issues.counts and len(again) == 3
    for located, boxes in zip(again.annotation(BoxAnnotations).images, shown, strict=True):
        to_corners = [[b.top, b.left, b.bottom, b.right] for b in boxes]
        np.testing.assert_allclose(located.boxes, to_corners, atol=1e-3)
    status, _, err = patchpack(capsys, *words)
    assert status == 2 and "found.json exists, and is not overwritten" in err
    words = (*words[:-1], tmp_path / "below" / "again.json")
    status, out, _ = patchpack(capsys, *words, "--json")
    assert build_index(words[-1], require_labels=False).path(0).samefile(images[0])
    assert [len(json.loads(line)["boxes"]) for line in out.splitlines()] == list(map(len, shown))


@pytest.mark.parametrize("most", [100, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_average_precision_is_that_of_pycocotools(source, tmp_path, seed, most):
    """Of the file as it is, with areas of what is in the boxes, and with crowds."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(seed)
    content = json.loads(source.read_text())
    content["info"] = {}
    for number, item in enumerate(content["annotations"]):
        area = item["bbox"][2] * item["bbox"][3]
        item |= {"area": area * float(rng.uniform(8, 40)), "iscrowd": int(number % 9 == 0)}
    path = source.with_name(f"areas{seed}{most}.json")
    path.write_text(json.dumps(content))
    index, _ = attach_boxes(build_index(path, require_labels=False), (), 0.0)
    numbers = {f"images/{image['file_name']}": image["id"] for image in content["images"]}
    found, results = {}, []
    annotations = index.annotation(BoxAnnotations)
    for number, key in enumerate(index.keys):
        single, crowd = annotations.images[number], annotations.crowds[number]
        truth, labels = (np.concatenate([getattr(single, name), getattr(crowd, name)])
                         for name in ("boxes", "labels"))  # fmt: skip
        boxes = np.repeat(truth, 3, 0) + rng.normal(0, 2, (3 * len(truth), 4)).astype(np.float32)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        labels = np.where(rng.random(len(boxes)) < 0.8, np.repeat(labels, 3), 1)
        order = rng.permutation(len(boxes))
        scores = np.sort(rng.random(len(boxes)))[::-1]
        found[key] = Detections(boxes[order], scores, labels[order])
        results += [
            {"image_id": numbers[key], "category_id": (5, 9)[label], "score": float(score),
             "bbox": [float(x) for x in (left, top, right - left, bottom - top)]}
            for (top, left, bottom, right), score, label
            in zip(boxes[order], scores, labels[order], strict=True)
        ]  # fmt: skip
    ours = average_precision(index, found, most)
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(path))
        keep_original_masks = COCOeval(known, known.loadRes(results), "bbox")
        keep_original_masks.params.maxDets = [1, 2, most]
        keep_original_masks.evaluate()
        keep_original_masks.accumulate()
    precision = keep_original_masks.eval["precision"][..., -1]  # [IoU, recall, class, area]

    def mean(values: np.ndarray) -> float | None:
        return float(values[values > -1].mean()) if (values > -1).any() else None

    whole = precision[:, :, :, 0]
    expected = [mean(x) for x in (whole, whole[0], whole[5], *np.moveaxis(precision, 3, 0)[1:])]
    mine = [ours.ap, ours.ap50, ours.ap75, ours.ap_small, ours.ap_medium, ours.ap_large]
    mine += ours.per_class.values()
    expected += [mean(whole[:, :, 0]), mean(whole[:, :, 1])]
    for a, b in zip(mine, expected, strict=True):
        assert a == b if b is None else a == pytest.approx(b, abs=1e-6)
    assert 0.05 < ours.ap < 0.95 and ours.ap_medium is not None and ours.images == 82


def test_average_precision_of_nothing(source):
    index, _ = attach_boxes(build_index(source, require_labels=False), (), 0.0)
    nothing = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    found = average_precision(index, dict.fromkeys(index.keys, nothing))
    assert found.ap == 0 and found.per_class == {"box": 0, "disc": 0}
    blank = replace(
        index.annotation(BoxAnnotations), areas=(np.zeros(0),) * len(index),
        images=(Boxes(np.zeros((0, 4)), np.zeros(0, int)),) * len(index),
    )  # fmt: skip
    blank = index.with_annotation(blank)
    assert average_precision(blank, dict.fromkeys(index.keys, nothing)).ap is None


def test_boxes_move_with_their_pixels():
    """A bright rectangle on black stays inside its box under all transforms."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[10:20, 30:50] = 255
    boxes = Boxes(np.array([[10, 30, 20, 50]], np.float32), np.array([3]))
    sample = Sample(pixels, {"boxes": boxes})

    def around(sample: Sample) -> list[float]:
        y, x = np.nonzero(sample.pixels[..., 0] > 127)
        return [y.min(), x.min(), y.max() + 1, x.max() + 1]

    for moved in (
        sample.crop(5, 20, 30, 35), sample.resize((80, 30)), sample.hflip(), sample.rot90(1),
        sample.rot90(2), sample.rot90(3), sample.rot90(1).hflip().resize((64, 64)),
        sample.affine((0.5, 0, 12, 0, 0.5, 5), (0,) * 3),
        sample.affine((1, 0, 8, 0, 1, -6), (0,) * 3),
    ):  # fmt: skip
        boxes = moved.annotations["boxes"]
        assert boxes.boxes[0].tolist() == pytest.approx(around(moved), abs=1.01)
        assert boxes.labels.tolist() == [3]
    assert len(sample.crop(0, 0, 9, 60).annotations["boxes"].labels) == 0  # outside
    assert len(sample.crop(0, 0, 12, 60).annotations["boxes"].labels) == 0  # less than MIN_VISIBLE
    assert sample.crop(0, 0, 15, 60).annotations["boxes"].boxes.tolist() == [[10, 30, 15, 50]]


def plan_of(index, max_tokens: int, epoch: int = 0):
    packing = PackingConfig(patch_size=4, max_tokens=max_tokens, resolution=Native())
    return make_plan(ItemSizes(index.heights, index.widths), packing, seed=0, epoch=epoch)


def change(source: Path, path: Path, edit) -> Path:
    content = json.loads(source.read_text())
    edit(content)
    for image in content["images"]:
        image["file_name"] = str(source.parent / "images" / image["file_name"])
    path.write_text(json.dumps(content))
    return path


def test_unusable_boxes_are_counted_listed_and_limited(capsys, source, tmp_path):
    def edit(content):
        wrong = content["annotations"]
        wrong[0]["bbox"] = [500, 500, 3, 3]  # outside
        wrong[1]["bbox"] = [1, 1, 0, 5]  # of no area
        wrong[2]["bbox"] = [-5, -5, 20, 20]  # reaches out
        wrong[3]["category_id"] = 77
        wrong[4]["bbox"] = ["a", 1, 2]
        wrong[7]["bbox"] = [0, 0, 10**400, 5]
        wrong[8]["bbox"] = "1299"
        wrong[9]["category_id"] = [1]
        wrong[5]["iscrowd"] = 1
        wrong[6]["image_id"] = 12345

    path = change(source, tmp_path / "boxes.json", edit)
    with pytest.raises(BadDataset, match="1 are of images that are not listed: ids 12345"):
        build_index(path, require_labels=False)
    read = build_index(path, require_labels=False, max_bad_fraction=0.1)
    index, issues = attach_boxes(read, (), 0.1)
    assert sorted(issues.counts.values()) == [1, 2, 2, 3] and issues.skipped == 7
    (note,) = issues.messages()
    assert "2 have no area" in note and "1 reach outside" in note and "train000.png" in note
    annotations = index.annotation(BoxAnnotations)
    total = sum(len(boxes.labels) for boxes in annotations.images)
    assert [len(crowd.labels) for crowd in annotations.crowds].count(1) == 1
    assert total == issues.boxes - 7 - 1 and all((o.boxes >= 0).all() for o in annotations.images)
    with pytest.raises(BadDataset, match=r"7 of \d+ boxes cannot be used \(max_bad_fraction is 0"):
        attach_boxes(read, (), 0.01)
    config = tiny_detector(path, tmp_path / "out", steps=2)
    start(replace(config, data=replace(config.data, max_bad_fraction=0.1)), live=False)
    assert "reach outside" in capsys.readouterr().err


def test_duplicate_and_unlisted_images_of_a_coco_file_are_skipped(source, tmp_path):
    """Their boxes go to no other image; different spellings of a path are the same file."""

    def edit(content):
        images = content["images"]
        images[1]["id"] = images[0]["id"]
        images[2]["file_name"] = images[3]["file_name"]
        images.append(images[4] | {"id": 999, "file_name": f"../images/{images[4]['file_name']}"})
        del images[5]["id"]
        images[6]["id"] = ["a"]

    path = change(source, tmp_path / "boxes.json", edit)
    index = build_index(path, require_labels=False, max_bad_fraction=0.2)
    first = dict(index.bad)
    assert sorted(reason.split(": ")[0].split("/")[0].strip() for reason in first.values()) == [
        "6 are of images that are not listed", "has no id", "has no id", "has the id 0 of",
        "is listed already", "is listed already",
    ]  # fmt: skip
    assert len(set(index.keys)) == len(index) == 83 - 5
    index, _ = attach_boxes(index, (), 0.0)
    truth, _ = attach_boxes(build_index(source, require_labels=False), (), 0.0)
    truth_images, images = (i.annotation(BoxAnnotations).images for i in (truth, index))
    boxes = {Path(k).name: o.boxes for k, o in zip(truth.keys, truth_images, strict=True)}
    for key, image_boxes in zip(index.keys, images, strict=True):
        if Path(key).name != "train003.png":  # listed first with the id of another
            assert np.array_equal(image_boxes.boxes, boxes[Path(key).name])


def test_images_of_another_size_than_their_annotations_are_skipped(source, tmp_path):
    def edit(content):
        for image in content["images"]:
            height, width = read_size(source.parent / "images" / image["file_name"])
            image |= {"height": height, "width": width}
        content["images"][0]["height"] *= 2

    path = change(source, tmp_path / "boxes.json", edit)
    index, issues = attach_boxes(build_index(path, require_labels=False), (), 0.0)
    (error,) = issues.images
    assert len(index) == 81 and error.key.endswith("train000.png") and "but its boxes" in str(error)

    def halved(content):
        for image in content["images"]:
            height, width = read_size(source.parent / "images" / image["file_name"])
            image |= {"height": float(2 * height), "width": str(2 * width)}

    other = change(source, tmp_path / "other.json", halved)
    with pytest.raises(BadDataset, match=r"boxes are of .* px, and so with every image"):
        attach_boxes(build_index(other, require_labels=False), (), 1.0)
    with pytest.raises(BadDataset, match=r"1 of 82 images cannot be used .* but its boxes are of"):
        start(tiny_detector(path, tmp_path / "out"), live=False)


@pytest.mark.parametrize("split", ["train", "val"])
def test_splits_without_boxes_or_with_unknown_ones_are_refused(source, tmp_path, split):
    def bare(content):
        numbers = {image["id"] for image in content["images"] if image["split"] == split}
        content["annotations"] = [
            a for a in content["annotations"] if a["image_id"] not in numbers
        ]  # fmt: skip

    path = change(source, tmp_path / "bare.json", bare)
    with pytest.raises(
        BadDataset, match=f"no image of the {'training' if split == 'train' else ''}"
    ):
        start(tiny_detector(path, tmp_path / "out"), live=False)

    def only_boxes(content):
        numbers = {image["id"] for image in content["images"] if image["split"] == "train"}
        for item in content["annotations"]:
            if item["image_id"] in numbers:
                item["category_id"] = 5

    path = change(source, tmp_path / "some.json", only_boxes)
    with pytest.raises(BadDataset, match="no box of the training split is of 'disc'"):
        start(tiny_detector(path, tmp_path / "out"), live=False)


def test_an_unreadable_image_does_not_harm_the_mosaics_of_others(source, tmp_path):
    copy = tmp_path / "coco"
    shutil.copytree(source.parent / "images", copy / "images")
    (copy / "boxes.json").write_text(source.read_text())
    index = attach_boxes(build_index(copy / "boxes.json", require_labels=False), (), 0.0)[0].split(
        "val"
    )
    (copy / "images" / "val060.png").write_bytes(b"torn")
    for epoch in range(4):
        plan = plan_of(index, 4000, epoch)
        preprocessing = Preprocessing(patch_size=4, augment=Augment(mosaic=1.0))
        loaded = load_pack(pack_spec(index, plan, preprocessing, epoch=epoch, step=0, rank=0))
        assert [Path(error.key).name for error in loaded.unreadable] == ["val060.png"]
        assert loaded.batch.num_images == len(index) - 1


def test_a_picture_of_hundreds_of_classes_is_drawn(source):
    index, _ = attach_boxes(build_index(source, require_labels=False), (), 0.0)
    boxes = Detections(np.array([[0, 0, 5, 5]], np.float32), np.array([0.9]), np.array([300]))
    assert draw_detections(DetectionEvaluator(index), dict.fromkeys(index.keys, boxes)).width > 500


@pytest.mark.parametrize("missing", ["scipy", "faster_coco_eval"])
def test_a_missing_extra_is_told_before_training(source, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setitem(sys.modules, f"{missing}.optimize", None)
    with pytest.raises(ImportError, match=r"pip install 'patchpack\[detection\]'"):
        start(tiny_detector(source, tmp_path / "out"), live=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"), ("[]", "no list of images"), ('{"images": [3]}', "no list of images"),
        ('{"images": [], "annotations": {}}', "no list of annotations"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "has no file_name"),
        ('{"images": [], "annotations": [], "categories": []}', "holds no images"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1}]}',
         "the category 1 is 'a' and '1'"),
    ],
)  # fmt: skip
def test_invalid_coco_files(tmp_path, content, message):
    (tmp_path / "boxes.json").write_text(content)
    with pytest.raises(BadDataset, match=message):
        build_index(tmp_path / "boxes.json", require_labels=False)


def test_folders_of_coco_files_and_manifests_with_objects(source, folder, tmp_path):
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    content = json.loads(source.read_text())
    for split, name in (("train", "train2017"), ("val", "val2017")):
        images = [i for i in content["images"] if i["split"] == split]
        (root / name).mkdir()
        for image in images:
            data = (source.parent / "images" / image["file_name"]).read_bytes()
            (root / name / image["file_name"]).write_bytes(data)
        numbers = {i["id"] for i in images}
        kept = content | {
            "images": [{k: v for k, v in i.items() if k != "split"} for i in images],
            "annotations": [a for a in content["annotations"] if a["image_id"] in numbers],
        }
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(kept))
    (root / "train.json").write_text("{}")  # of something else
    index, _ = attach_boxes(build_index(root, require_labels=False), (), 0.0)
    assert (index.splits.count("train"), index.splits.count("val")) == (60, 10)
    assert index.annotation(BoxAnnotations).classes == ("box", "disc")
    name = next((folder / "train").rglob("*.png")).relative_to(folder)
    cell = '[{"bbox": [1, 2, 5, 4], "category": "thing"}]'
    (folder / "m.jsonl").write_text(
        json.dumps({"path": str(name), "objects": json.loads(cell)}) + "\n"
    )
    index, _ = attach_boxes(build_index(folder / "m.jsonl", require_labels=False), (), 0.0)
    assert index.annotation(BoxAnnotations).images[0].boxes.tolist() == [[2, 1, 6, 6]]
    with pytest.raises(BadDataset, match="no box for any image: expected a COCO file"):
        start(tiny_detector(folder, tmp_path / "out"), live=False)


def test_resuming_gives_the_same_bits(source, tmp_path):
    assert_resumes_exactly(tiny_detector(source, tmp_path, steps=8), tmp_path)


def test_mosaics_are_trained_on_and_only_where_they_make_sense(source, tmp_path):
    config = tiny_detector(source, tmp_path / "run", steps=3)
    mosaics = replace(config.data, augment=Augment(mosaic=1.0))
    spec = pack_spec(
        index := attach_boxes(build_index(source, require_labels=False), (), 0.0)[0],
        plan_of(index, 200),
        Preprocessing(patch_size=4, augment=mosaics.augment), epoch=0, step=0, rank=0,
    )  # fmt: skip
    plain = replace(spec, images=tuple(replace(image, mosaic_sources=()) for image in spec.images))
    counts = [[len(boxes) for boxes in load_pack(s).batch.targets["boxes"]] for s in (spec, plain)]
    assert sum(counts[0]) > 1.5 * sum(counts[1])
    assert load_pack(spec).batch.lengths == load_pack(plain).batch.lengths
    start(replace(config, data=mosaics), live=False)
    with pytest.raises(ValueError, match="mosaic is for task:detection-config"):
        replace(config, data=mosaics, task=ClassificationConfig())


def test_what_is_not_for_detectors_is_refused(capsys, run, source):
    image = next((source.parent / "images").glob("test*.png"))
    for words, said in (
        (("eval", run, "--suite", "cost"), "is a detector"),
        (("eval", run, "--sliding-window"), "--sliding-window is for segmentation"),
        (("predict", run, image, "--score-threshold", "2"), r"score_threshold must lie in [0, 1]"),
        (("predict", run, image, "-o", source.parent), "is a folder: name the COCO file"),
        (("eval", run, "--data", source.parent / "images"), "no box for any image"),
        (("eval", run, "--templates", source), "--templates is for contrastive"),
        (("train", source), "to train on its boxes, add task:detection-config"),
    ):
        status, _, err = patchpack(capsys, *words)
        assert status == 2 and said in err
    data = data_of(run, split="test")
    ((_, result),) = evaluate(pp.load(run), data, (64,))
    assert len(result.detections) == 12
