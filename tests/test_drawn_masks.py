"""Masks drawn from outlines: equal to pycocotools' annToMask, and to LabelMe's shape_to_mask."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from exports import coco, labelme, scenes, write_json, yolo, yolo_polygon_lines
from patchpack.batch import IGNORE_INDEX
from patchpack.data.annotations.boxes import attach_boxes
from patchpack.data.annotations.drawn_masks import outline_classes
from patchpack.data.annotations.masks import Masks, attach_drawn_masks
from patchpack.data.images import BadImage
from patchpack.data.index import Index, build_index
from patchpack.train.items import fingerprint
from test_cli import patchpack

# pycocotools 2.0.11 decodes with an array protocol that NumPy 2 warns about
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def masks_of(index: Index) -> dict[str, np.ndarray]:
    annotation = index.annotation(Masks)
    return {
        Path(key).name: annotation.item(row, 0, 0, index.root)
        .read((int(index.heights[row]), int(index.widths[row])), key)
        .values
        for row, key in enumerate(index.keys)
    }


def draw(source: Path, classes: tuple[str, ...] = (), ignore_index: int | None = None):
    index = build_index(source, require_labels=False)
    index, errors, _ = attach_drawn_masks(index, classes or outline_classes(index), ignore_index)
    return index, errors


def random_coco(root: Path, seed: int, edit=lambda content: None) -> Path:
    """Polygons of several rings that reach outside, and both kinds of run lengths, overlapping."""
    from pycocotools import mask as library

    rng = np.random.default_rng(seed)
    items = scenes(5, 2, 1, seed)
    content = coco(items)
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for number, item in enumerate(content["annotations"]):
        height, width = sizes[item["image_id"]]
        corners = int(rng.integers(3, 9))
        rings = [
            (rng.uniform(-0.1, 1.1, (corners, 2)) * (width, height)).ravel().tolist()
            for _ in range(int(rng.integers(1, 4)))
        ]
        runs = library.merge(library.frPyObjects(rings, height, width))
        bitmap = library.decode(runs).ravel("F")
        edges = np.flatnonzero(np.diff(bitmap, prepend=0)).tolist()
        counts = np.diff([0, *edges, bitmap.size]).tolist()
        plain = {"size": [height, width], "counts": counts}
        packed = {"size": [height, width], "counts": runs["counts"].decode()}
        item["segmentation"] = (rings, packed, plain)[number % 3]
    edit(content)
    for scene in items:
        scene.write(root / scene.name)
    return write_json(root / "instances.json", content)


@pytest.mark.parametrize("seed", range(4))
def test_masks_are_those_of_pycocotools(tmp_path, seed):
    from pycocotools.coco import COCO

    path = random_coco(tmp_path, seed)
    with contextlib.redirect_stdout(io.StringIO()):
        library = COCO(str(path))
    index, errors = draw(path)
    assert not errors and index.annotation(Masks).num_classes == 3
    drawn = masks_of(index)
    label = {3: 1, 90: 2}
    for image in library.imgs.values():
        expected = np.zeros((image["height"], image["width"]), np.uint8)
        parts = [
            (library.annToMask(item), label[item["category_id"]])
            for item in library.imgToAnns[image["id"]]
        ]
        for bitmap, value in sorted(parts, key=lambda part: -int(part[0].sum())):
            expected[bitmap == 1] = value
        np.testing.assert_array_equal(drawn[image["file_name"]], expected)


def test_a_small_object_lies_on_top_whatever_its_position_in_the_file(tmp_path):
    def nested(content):
        sizes = [i for i in content["images"] if i["id"] == content["annotations"][0]["image_id"]]
        sides = [0, 0, sizes[0]["width"], 0, sizes[0]["width"], sizes[0]["height"], 0, 24]
        content["annotations"][0]["segmentation"] = [[5, 5, 12, 5, 12, 12, 5, 12]]
        content["annotations"][1]["segmentation"] = [sides]

    for order in (1, -1):

        def edit(content, order=order):
            nested(content)
            content["annotations"] = content["annotations"][:2][::order]

        index, _ = draw(random_coco(tmp_path / str(order), 0, edit))
        mask = masks_of(index)["train0.png"]
        assert mask[8, 8] == 1 and mask[1, 3] == 2


def labelme_reference(shapes: list[dict], size: tuple[int, int]) -> np.ndarray:
    """labelme.utils.shape_to_mask of each shape: Pillow's polygon, outline included."""
    values = np.zeros(size, np.uint8)
    bitmaps = []
    for shape in shapes:
        image = Image.fromarray(np.zeros(size, np.uint8))
        pen = ImageDraw.Draw(image)
        points = [tuple(point) for point in shape["points"]]
        if shape["shape_type"] == "rectangle":
            pen.rectangle(points, outline=1, fill=1)
        elif shape["shape_type"] == "circle":
            (cx, cy), (px, py) = points
            d = ((cx - px) ** 2 + (cy - py) ** 2) ** 0.5
            pen.ellipse((cx - d, cy - d, cx + d, cy + d), outline=1, fill=1)
        else:
            pen.polygon(points, outline=1, fill=1)
        bitmaps.append((np.array(image), {"bolt": 1, "nut": 2, "__ignore__": 255}[shape["label"]]))
    for bitmap, value in sorted(bitmaps, key=lambda part: -int(part[0].sum())):
        values[bitmap == 1] = value
    return values


def test_masks_are_those_of_labelme(tmp_path):
    rng = np.random.default_rng(0)
    items = scenes(5, 2, 1)
    labelme(tmp_path, items)
    expected = {}
    for scene in items:
        path = tmp_path / scene.split / f"{Path(scene.name).stem}.json"
        content = json.loads(path.read_text())
        for kind, count in (("polygon", 7), ("rectangle", 2), ("circle", 2)):
            points = np.sort(rng.uniform(1, 23, (count, 2)), axis=0) if count == 2 else None
            points = rng.uniform(0, 24, (count, 2)) if points is None else points
            label = ("bolt", "nut", "__ignore__")[int(rng.integers(3))]
            content["shapes"].append(
                {"label": label, "shape_type": kind, "points": points.tolist()}
            )
        for shape in content["shapes"]:
            if shape["shape_type"] == "rectangle":
                shape["points"] = np.sort(shape["points"], axis=0).tolist()
        path.write_text(json.dumps(content))
        expected[scene.name] = labelme_reference(content["shapes"], scene.size)
    index, errors = draw(tmp_path)
    assert not errors and any((mask == IGNORE_INDEX).any() for mask in expected.values())
    for name, mask in masks_of(index).items():
        np.testing.assert_array_equal(mask, expected[name])
    with_boxes, issues = attach_boxes(build_index(tmp_path, require_labels=False), (), 0.0)
    assert with_boxes.annotations["boxes"].classes == ("bolt", "nut")
    assert not issues.skipped


def test_masks_of_yolo_polygons_cover_their_boxes(tmp_path):
    items = scenes()
    drawn = masks_of(draw(yolo(tmp_path, items, yolo_polygon_lines))[0])
    for scene in items:
        expected = np.zeros(scene.size, np.uint8)
        areas = [(bottom - top) * (right - left) for top, left, bottom, right, _ in scene.boxes]
        for number in np.argsort(-np.array(areas, int), kind="stable"):
            top, left, bottom, right, label = scene.boxes[number]
            expected[top:bottom, left:right] = label + 1
        assert (drawn[scene.name] != expected).mean() < 0.01


def test_an_image_whose_mask_would_lack_an_object_is_skipped_by_name(tmp_path):
    def edit(content):
        content["annotations"][0]["segmentation"] = []
        content["annotations"][3]["segmentation"] = [[1, 2, 3]]
        content["annotations"][6]["segmentation"] = {"size": [5, 5], "counts": [9]}
        content["annotations"][9]["category_id"] = 55

    _, errors = draw(random_coco(tmp_path, 0, edit))
    assert [str(error) for error in errors] == [
        "train0.png: annotation 1: has a box, but no outline",
        "train1.png: annotation 4: its polygon has 3 numbers, not 3 or more pairs",
        "train2.png: annotation 7: its runs cover 9 pixels, not 5 x 5",
        "train3.png: annotation 10 has no listed class",
    ]
    _, errors = draw(random_coco(tmp_path, 0), ("background", "bolt"))
    assert all("is of the class 'nut', which is not a class" in str(e) for e in errors)


@pytest.mark.parametrize(
    ("segmentation", "problem"),
    [
        ({"size": [24, 24], "counts": "zz\x7f~"}, "runs"),
        ({"size": [24, 24], "counts": "€"}, "runs"),
        ({"size": [2**40, 2**40], "counts": "0"}, "runs"),
        ([[1e5, 1, -1e5, 9, 1e5, 20] * 99], "long"),
        ([[1, 2, float("nan"), 4, 5, 6]], "impossible"),
        ([[1, 2, 1e300, 4, 5, 6]], "impossible"),
        ({"size": [24, 24], "counts": None}, "no counts"), ("abc", "neither polygons nor runs"),
        ([["a", 1, 2, 3, 4, 5]], "not a list of numbers"), ([5], "not a list of numbers"),
    ],
)  # fmt: skip
def test_hostile_outlines_are_refused_by_name(tmp_path, segmentation, problem):
    def edit(content):
        content["annotations"][0]["segmentation"] = segmentation

    index, errors = draw(random_coco(tmp_path, 0, edit))
    if not errors:
        with pytest.raises(BadImage) as caught:
            masks_of(index)
        errors = [caught.value]
    assert problem in str(errors[0]) and "train0.png: annotation 1" in str(errors[0])


def test_a_segmenter_is_trained_on_polygons_and_evaluated(tmp_path, capsys):
    source = random_coco(tmp_path / "data", 0)
    words = ("--preset", "navit_ti16", "--model.patch-size", "8", "--model.depth", "1",
             "--model.dim", "32", "--model.num-heads", "2", "--model.mlp-dim", "64",
             "--train.steps", "2", "--train.eval-every", "2", "--data.loader.workers", "1",
             "--data.augment.flip", "dihedral", "task:segmentation-config")  # fmt: skip
    status, _, err = patchpack(capsys, "train", source, "--out", tmp_path / "run", *words)
    assert status == 0, err
    task = json.loads((tmp_path / "run" / "config.json").read_text())["task"]
    assert task["classes"] in ([], ["background", "bolt", "nut"])
    for extra in ((), ("--sliding-window",)):
        status, out, err = patchpack(capsys, "eval", tmp_path / "run", "--json", *extra)
        assert status == 0 and 0 < json.loads(out)["budgets"][0]["mean_iou"] < 1, err


def test_boxes_alone_train_no_segmenter(tmp_path, capsys):
    source = random_coco(tmp_path, 0, lambda c: [a.pop("segmentation") for a in c["annotations"]])
    words = ("train", source, "--out", tmp_path / "run", "task:segmentation-config")
    status, _, err = patchpack(capsys, *words)
    assert status == 2 and "no mask for any image" in err and "detection-config" in err


def test_ignored_background_and_the_fingerprint(tmp_path):
    path = random_coco(tmp_path, 0)
    index, _ = draw(path)
    ignored, _ = draw(path, ignore_index=0)
    for mask, other in zip(masks_of(index).values(), masks_of(ignored).values(), strict=True):
        np.testing.assert_array_equal(np.where(mask == 0, IGNORE_INDEX, mask), other)
    moved, _ = draw(random_coco(tmp_path, 0, lambda c: c["annotations"][0].update(
        segmentation=[[1, 1, 9, 1, 9, 9]])))  # fmt: skip
    assert fingerprint(index) != fingerprint(moved)
    assert fingerprint(index) == fingerprint(draw(random_coco(tmp_path, 0))[0])


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    import sys

    path = random_coco(tmp_path, 0)
    monkeypatch.setitem(sys.modules, "faster_coco_eval.core", None)
    with pytest.raises(ImportError, match=r"outlines .* pip install 'patchpack\[detection\]'"):
        draw(path)
