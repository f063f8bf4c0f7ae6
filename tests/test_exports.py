"""Exports of annotation tools, read as they are: the same boxes, classes and splits from each."""

import contextlib
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exports import (
    NAMES,
    WRITERS,
    by_split,
    coco,
    cvat_coco,
    labelme,
    roboflow_coco,
    scenes,
    voc,
    write_json,
    yolo,
    yolo_polygon_lines,
)
from patchpack.data.annotations.boxes import BoxAnnotations, attach_boxes
from patchpack.data.annotations.objects import parsed_objects
from patchpack.data.index import Index, build_index
from patchpack.data.records import BadDataset
from patchpack.data.sources.voc import parse_xml
from test_cli import patchpack


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def read(source: Path, fraction: float = 0.0) -> tuple[Index, list[str]]:
    index = build_index(source, require_labels=False, max_bad_fraction=fraction)
    index, issues = attach_boxes(index, (), fraction)
    return index, issues.messages()


def boxes_by_name(index: Index) -> dict[str, list[tuple[float, ...]]]:
    """The boxes and labels of each image, by its name without the prefix of an upload."""
    annotation = index.annotation(BoxAnnotations)
    return {
        re.sub(r"^[0-9a-f]{8}-", "", Path(key).name): [
            (*map(float, box), int(label))
            for box, label in zip(item.boxes, item.labels, strict=True)
        ]
        for key, item in zip(index.keys, annotation.images, strict=True)
    }


@pytest.mark.parametrize("name", WRITERS)
def test_every_export_gives_the_same_boxes(tmp_path, name):
    items = scenes()
    index, _ = read(WRITERS[name](tmp_path / "data", items))
    assert index.annotation(BoxAnnotations).classes == NAMES
    found = boxes_by_name(index)
    assert sorted(found) == sorted(scene.name for scene in items)
    for scene in items:
        np.testing.assert_allclose(
            np.reshape(found[scene.name], (-1, 5)), np.reshape(scene.boxes, (-1, 5)), atol=1e-4
        )
    if name not in ("cvat-coco", "cvat-yolo", "label-studio-coco", "label-studio-json"):
        splits = dict(zip((Path(key).name for key in index.keys), index.splits, strict=True))
        assert splits == {scene.name: scene.split for scene in items}


@pytest.mark.parametrize("name", WRITERS)
def test_inspect_counts_what_an_export_holds(tmp_path, capsys, name):
    source = WRITERS[name](tmp_path / "data", scenes())
    status, out, _ = patchpack(capsys, "inspect", source, "--json")
    record = json.loads(out)
    assert status == 0 and record["images"] == 12 and record["boxes"] == 27
    assert record["box_classes"] == {"bolt": 9, "nut": 18} and record["images_with_boxes"] == 9
    kind = "Label Studio" if name == "label-studio-json" else name.split("-")[-1]
    kind = "COCO" if "coco" in name else "Pascal VOC" if "voc" in name else kind
    splits = 2 if name == "cvat-yolo" else 3
    assert record["source"].lower() == kind.lower() and len(record["splits"]) == splits
    status, out, _ = patchpack(capsys, "inspect", source)
    assert f"source: {record['source']}, {splits} splits, 2 classes" in out.replace("\n", " ")
    assert ("no object has the category 'parts' (id 0): no class" in out) == ("coco" in name)


@pytest.mark.parametrize("name", ["roboflow-yolo", "voc", "labelme", "cvat-coco-subsets"])
def test_an_export_is_trained_on_and_evaluated_as_it_is(tmp_path, capsys, name):
    source = WRITERS[name](tmp_path / "data", scenes())
    words = ("--preset", "navit_ti16", "--model.patch-size", "8", "--model.depth", "1",
             "--model.dim", "32", "--model.num-heads", "2", "--model.mlp-dim", "64",
             "--train.steps", "2", "--train.eval-every", "2", "--data.loader.workers", "0",
             "task:detection-config")  # fmt: skip
    status, _, err = patchpack(capsys, "train", source, "--out", tmp_path / "run", *words)
    assert status == 0, err
    status, out, err = patchpack(capsys, "eval", tmp_path / "run", "--json")
    assert status == 0 and json.loads(out)["budgets"][0]["images"] == 3, err


JUNK = (
    None,
    True,
    [],
    {},
    "",
    -1,
    1e308,
    float("nan"),
    10**400,
    "x",
    [[]],
    "\ud800",
    "../..",
    "\0",
)


def damage(rng: random.Random, data: bytes, suffix: str) -> bytes:
    """Replace values of JSON, or bytes of other files."""
    if suffix == ".json":
        content = json.loads(data)
        nodes = [content]
        for node in nodes:  # grows during the loop
            children = node.values() if isinstance(node, dict) else node
            nodes += [child for child in children if isinstance(child, dict | list) and child]
        for node in rng.choices(nodes, k=2):
            if node:
                key = rng.choice([*node]) if isinstance(node, dict) else rng.randrange(len(node))
                node[key] = rng.choice(JUNK)
        return json.dumps(content).encode()
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.randint(0, 3)) + data[start + rng.randint(0, 9) :]


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_exports_are_read_or_refused(tmp_path, name):
    """No other error, and no box that is not finite, or outside its image."""
    source = WRITERS[name](tmp_path / "data", scenes(2, 1, 1))
    rng = random.Random(name)
    files = [p for p in sorted(tmp_path.rglob("*.*")) if p.suffix in (".json", ".xml", ".txt")]
    for _ in range(12):
        path = rng.choice(files)
        original = path.read_bytes()
        path.write_bytes(damage(rng, original, path.suffix))
        with contextlib.suppress(BadDataset):
            index, _ = read(source, 1.0)
            for row, item in enumerate(index.annotation(BoxAnnotations).images):
                limit = np.tile([index.heights[row], index.widths[row]], 2)
                assert ((item.boxes >= 0) & (item.boxes <= limit)).all()
        path.write_bytes(original)


def test_two_formats_in_one_folder_are_refused_and_each_can_be_chosen(tmp_path):
    items = scenes()
    root = yolo(tmp_path / "data", items)
    path = write_json(root / "annotations" / "instances_default.json", coco(items[:4]))
    with pytest.raises(BadDataset, match=r"holds COCO \(.*\) and YOLO \(.*give the file of one"):
        build_index(root, require_labels=False)
    for scene in items[:4]:
        scene.write(root / "images" / "default" / scene.name)
    assert len(read(path)[0]) == 4 and len(read(root / "data.yaml")[0]) == 12
    mixed = yolo(tmp_path / "mixed", items)
    (mixed / "masks").mkdir()
    with pytest.raises(BadDataset, match=r"holds YOLO \(.*\) and masks"):
        build_index(mixed, require_labels=False)


def test_folders_of_classes_with_other_files_stay_folders(tmp_path, folder):
    for name in ("result.json", "train/notes.json", "train/readme.xml", "labels.txt"):
        (folder / name).write_text('{"note": 1}')
    assert len(build_index(folder).classes) > 1


# COCO


def with_coco(root: Path, edit, items=None) -> Path:
    items = items or scenes()
    content = coco(items)
    edit(content)
    for scene in items:
        scene.write(root / scene.name)
    return write_json(root / "boxes.json", content)


def test_boxes_of_segmentations_are_those_of_pycocotools(tmp_path):
    """Without a bbox, polygons and both kinds of run lengths give it."""
    from pycocotools import mask as library

    items = scenes()
    sizes = {1000 + 7 * n: scene.size for n, scene in enumerate(items)}

    def edit(content):
        for number, item in enumerate(content["annotations"]):
            left, top, width, height = item.pop("bbox")
            bitmap = np.zeros(sizes[item["image_id"]], np.uint8, "F")
            bitmap[top : top + height, left : left + width] = 1
            runs = library.encode(bitmap)
            counts = np.diff(np.flatnonzero(np.diff(bitmap.ravel("F"), prepend=0, append=2)))
            start = np.flatnonzero(bitmap.ravel("F"))[0]
            plain = {"size": [*bitmap.shape], "counts": [int(start), *map(int, counts)]}
            if sum(plain["counts"]) > bitmap.size:
                plain["counts"] = plain["counts"][:-1]
            packed = {"size": runs["size"], "counts": runs["counts"].decode()}
            item["segmentation"] = (item["segmentation"], packed, plain)[number % 3]

    index, _ = read(with_coco(tmp_path, edit, items))
    for scene in items:
        expected = np.reshape([box for box in scene.boxes], (-1, 5))
        np.testing.assert_array_equal(
            np.reshape(boxes_by_name(index)[scene.name], (-1, 5)), expected
        )


def test_boxes_in_shares_of_the_image_are_converted_with_a_message(tmp_path):
    items = scenes()
    sizes = {1000 + 7 * n: scene.size for n, scene in enumerate(items)}

    def shares(content):
        for item in content["annotations"]:
            height, width = sizes[item["image_id"]]
            x, y, w, h = item["bbox"]
            item["bbox"] = [x / width, y / height, w / width, h / height]
            del item["segmentation"]

    index, messages = read(with_coco(tmp_path / "shares", shares, items))
    assert any("27 boxes of the COCO annotations boxes.json lie in 0..1" in m for m in messages)
    for scene in items:
        np.testing.assert_allclose(
            np.reshape(boxes_by_name(index)[scene.name], (-1, 5)),
            np.reshape(scene.boxes, (-1, 5)), atol=1e-4,
        )  # fmt: skip

    def centers(content):
        shares(content)
        for item in content["annotations"]:
            x, y, w, h = item["bbox"]
            item["bbox"] = [x + w / 2, y + h / 2, w, h]

    with pytest.raises(BadDataset, match="some reach outside their images as shares"):
        read(with_coco(tmp_path / "centers", centers, items))

    def mixed(content):
        first = content["annotations"][:3]
        shares({"annotations": first})

    with pytest.raises(BadDataset, match=r"3 of 27 boxes cannot be used .* in the first pixel"):
        read(with_coco(tmp_path / "mixed", mixed, items))


def test_shares_in_a_manifest_are_converted_too(tmp_path):
    scene = scenes()[0]
    scene.write(tmp_path / scene.name)
    objects = [{"bbox": [0.25, 0.5, 0.5, 0.25], "category": "bolt"}]
    (tmp_path / "m.jsonl").write_text(json.dumps({"path": scene.name, "objects": objects}) + "\n")
    index, messages = read(tmp_path / "m.jsonl")
    height, width = scene.size
    expected = [height / 2, width / 4, 0.75 * height, 0.75 * width]
    assert boxes_by_name(index)[scene.name][0][:4] == pytest.approx(expected, abs=1e-4)
    assert "lie in 0..1" in messages[0]


def test_categories_with_one_name_are_refused_unless_one_has_no_object(tmp_path):
    def unused(content):
        content["categories"][0]["name"] = "bolt"  # the root category of Roboflow

    index, _ = read(with_coco(tmp_path / "unused", unused))
    assert index.annotation(BoxAnnotations).classes == NAMES
    assert parsed_objects(index)[0].catalog.ids == {"bolt": 3, "nut": 90}

    def used(content):
        content["categories"][1]["name"] = "nut"

    with pytest.raises(BadDataset, match="the categories 3 and 90 are both 'nut'"):
        read(with_coco(tmp_path / "used", used))

    def repeated(content):
        content["categories"].append(content["categories"][1])
        content["annotations"].append(content["annotations"][0])

    index, messages = read(with_coco(tmp_path / "repeated", repeated))
    assert any("1 boxes repeat another" in message for message in messages)


def test_a_wrong_box_is_named_with_its_annotation(tmp_path):
    def edit(content):
        wrong = content["annotations"]
        for number, box in enumerate(
            ([1, 2, float("nan"), 3], [5, 5, -2, 4], "1 2 3 4", [True] * 4)
        ):
            wrong[number]["bbox"] = box
        wrong[4]["category_id"] = [7]

    with pytest.raises(BadDataset) as caught:
        read(with_coco(tmp_path, edit))
    message = str(caught.value)
    assert "5 of 27 boxes cannot be used" in message and "annotation 1: its bbox is not" in message
    assert "annotation 3: its bbox is not a list of 4 numbers" in message


def test_an_image_turned_by_its_orientation_is_skipped_by_name(tmp_path):
    items = scenes()
    path = with_coco(tmp_path, lambda content: None, items)
    scene = next(s for s in items if s.size[0] != s.size[1])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene.pixels).save(tmp_path / scene.name, exif=exif)
    _, issues = attach_boxes(build_index(path, require_labels=False), (), 0.0)
    (error,) = issues.images
    assert error.key == scene.name and "before its orientation is applied" in error.reason


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, "[1, 2]", '{"images": {}}', "null", '"x"', '{"images": [[]]}', "", "\x00" * 9],
)
def test_hostile_json_is_refused_by_name(tmp_path, capsys, content):
    (tmp_path / "a.json").write_text(content)
    status, _, err = patchpack(capsys, "inspect", tmp_path / "a.json")
    assert status == 2 and "a.json" in err and "Traceback" not in err


def test_names_of_other_machines_are_resolved(tmp_path):
    items = scenes(4, 1, 1)

    def edit(content):
        for image, form in zip(content["images"], (
            "C:\\data\\{}", "/home/x/{}", "../../media/upload/1/0123abcd-{}",
            "/data/local-files/?d=photos%2F{}", "https://x.org/photos/{}?v=1", "{}",
        ), strict=True):  # fmt: skip
            image["file_name"] = form.format(image["file_name"])

    index, _ = read(with_coco(tmp_path, edit, items))
    assert sorted(index.keys) == sorted(scene.name for scene in items)


def test_boxes_that_are_skipped_are_counted_by_train_and_eval(tmp_path, capsys):
    items = scenes()

    def edit(content):
        for image, scene in zip(content["images"], items, strict=True):
            image["split"] = scene.split
        content["annotations"][-1]["bbox"] = [1, 2, 3]

    source = with_coco(tmp_path / "data", edit, items)
    words = ("--preset", "navit_ti16", "--model.depth", "1", "--model.dim", "32",
             "--model.num-heads", "2", "--train.steps", "1", "--data.loader.workers", "0",
             "--data.max-bad-fraction", "0.5", "task:detection-config")  # fmt: skip
    status, _, err = patchpack(capsys, "train", source, "--out", tmp_path / "run", *words)
    assert status == 0 and "of 27 boxes 1 are invalid and are skipped: test1.png" in err
    status, out, _ = patchpack(capsys, "eval", tmp_path / "run")
    assert "of 6 boxes 1 are invalid and are skipped: test1.png (annotation 27" in out
    _, out, _ = patchpack(capsys, "eval", tmp_path / "run", "--json")
    assert len(json.loads(out)["data_notes"]) == 2


# YOLO


def ultralytics_boxes(text: str, height: int, width: int) -> np.ndarray:
    """(top, left, bottom, right) by the formula of ultralytics.utils.ops.xywhn2xyxy."""
    rows = np.array([line.split() for line in text.splitlines()], np.float64)
    _, x, y, w, h = rows.T
    sides = [height * (y - h / 2), width * (x - w / 2), height * (y + h / 2), width * (x + w / 2)]
    return np.stack(sides, 1)


def test_yolo_boxes_are_those_of_the_formula_of_ultralytics(tmp_path):
    rng = np.random.default_rng(3)
    scene = scenes()[0]
    centers, sides = rng.uniform(0.3, 0.7, (50, 2)), rng.uniform(0.1, 0.5, (50, 2))
    text = "".join(f"1 {x} {y} {w} {h}\n" for (x, y), (w, h) in zip(centers, sides, strict=True))
    scene.write(tmp_path / "images" / "train" / scene.name)
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "train0.txt").write_text(text)
    index, messages = read(tmp_path)
    expected = ultralytics_boxes(text, *scene.size)
    np.testing.assert_allclose(
        [box[:4] for box in boxes_by_name(index)[scene.name]], expected, atol=1e-4
    )
    assert any("named by number" in message for message in messages)


def test_yolo_polygons_give_boxes_and_outlines(tmp_path):
    items = scenes()
    index, _ = read(yolo(tmp_path, items, yolo_polygon_lines))
    for scene in items:
        np.testing.assert_allclose(
            np.reshape(boxes_by_name(index)[scene.name], (-1, 5)),
            np.reshape(scene.boxes, (-1, 5)), atol=1e-4,
        )  # fmt: skip
    assert all(not isinstance(r, str) for item in parsed_objects(index) for r in item.regions)


@pytest.mark.parametrize(
    ("yaml", "problem"),
    [
        ("train: images/train\nval: images/val\nnames: [bolt, nut]\n", None),
        ("train: [images/train]\nval: images\\val\nnames: {0: bolt, 1: nut}\n", None),
        ("train: train.txt\nval: ./images/val\nnames: ['bolt', 'nut']\n", None),
        (
            "train: images/train\nval: images/val\nnames: [bolt]\nnc: 2\n",
            "nc is 2, but there are 1",
        ),
        ("train: images/train\nval: images/val\nnames: {0: bolt, 2: nut}\n", "without gaps"),
        ("train: images/train\nval: images/val\nnames: [a, a]\n", "two classes have the same name"),
        ("train: images/nowhere\nval: images/val\nnames: [bolt, nut]\n", "no folder of images"),
        ("train: 5\nnames: [a]\n", "train must be a path"),
        ("names: [bolt, nut]\n", "names no images"),
        ("a: &a [x]\nnames: *a\n", "YAML aliases"),
        ("names: !!python/object/apply:os.system ['true']\n", "is not YAML"),
        ("names: [bolt\n", "is not YAML"),
        ("- names\n", "it has no keys"),
        ("names: " + "[" * 5000, "is not YAML"),
    ],
)
def test_data_yaml_in_its_forms(tmp_path, yaml, problem):
    items = scenes(4, 2, 1)
    root = yolo(tmp_path, items)
    (root / "data.yaml").write_text(yaml)
    lines = [f"./images/train/{s.name}\n" for s in by_split(items)["train"]]
    (root / "train.txt").write_text("".join(lines))
    if problem:
        with pytest.raises(BadDataset, match=problem):
            read(root)
        return
    index, _ = read(root)
    assert (index.splits.count("train"), index.splits.count("val")) == (4, 2)
    assert index.annotation(BoxAnnotations).classes == NAMES


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.5 0.5 0.2", "expected `class cx cy"), ("0 12 30 5 5", "not in 0..1"),
        ("0 0.5 0.5 nan 0.1", "expected"), ("0.5 0.5 0.5 0.1 0.1", "expected"),
        ("a b c d e", "expected"), ("2 0.5 0.5 0.1 0.1", "class 2, and there are 2 names"),
        ("-1 0.5 0.5 0.1 0.1", "expected"), ("0 0.5 0.5 0.1 0.1 0.9", "6 numbers"),
        ("0 0.5 0.5 0 0.1", "have no area"), ("0 0.5 0.5 -0.1 0.1", "not in 0..1"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named_by_file_and_line(tmp_path, line, reason):
    root = yolo(tmp_path, scenes())
    path = root / "labels" / "train" / "train0.txt"
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(BadDataset, match=r"1 of 28 boxes cannot be used") as caught:
        read(root)
    assert "train0.txt line 5" in str(caught.value) and reason in str(caught.value)


def test_missing_and_repeated_labels_are_counted(tmp_path):
    root = yolo(tmp_path, scenes())
    path = root / "labels" / "train" / "train0.txt"
    path.write_text(path.read_text() * 2)
    (root / "labels" / "val" / "val0.txt").unlink()
    index, messages = read(root)
    assert len(index) == 12 and len(boxes_by_name(index)["train0.png"]) == 3
    assert "3 repeated lines of label files are skipped" in messages
    assert "1 images have no label file: images without objects" in messages
    for name in ("val0", "val1", "val2"):
        (root / "labels" / "val" / f"{name}.txt").unlink(missing_ok=True)
    with pytest.raises(BadDataset, match="no image of images/val has a label file"):
        read(root)


# Pascal VOC


def test_voc_corners_are_those_of_the_development_kit(tmp_path):
    """Pixels from 1, both ends included: the area is (xmax - xmin + 1) (ymax - ymin + 1)."""
    root = voc(tmp_path, scenes())
    path = root / "Annotations" / "train0.xml"
    height, width = scenes()[0].size
    text = path.read_text().split("<object>")[0]
    item = "<object><name>bolt</name>{}<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"  # noqa: E501
    part = "<part><name>head</name><bndbox><xmin>9</xmin></bndbox></part>"
    path.write_text(
        text + item.format("", 1, 1, width, height) + item.format("", 2.5, 3, "10.5", 8)
        + item.format(part + "<difficult>1</difficult>", 4, 4, 4, 4) + "</annotation>"
    )  # fmt: skip
    index, _ = read(root)
    assert boxes_by_name(index)["train0.png"] == [(0, 0, height, width, 0), (2, 1.5, 8, 10.5, 0)]
    crowd = index.annotation(BoxAnnotations).crowds[index.keys.index("JPEGImages/train0.png")]
    assert crowd.boxes.tolist() == [[3, 3, 4, 4]]


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbbbbbbbb">'
    + "".join(f'<!ENTITY b{n} "{"&b" + (str(n - 1) if n else "") + ";" * 1}">' for n in range(9))
    + "]><annotation><filename>&b8;</filename></annotation>"
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOMB, "document type or an entity"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "document type or an entity"),
        ("<annotation><object>", "its XML is damaged"), ("", "its XML is damaged"),
        ("<annotation>" + "<a>" * 10**5, "elements deep"), ("<html></html>", "not 'annotation'"),
        ('<?xml version="1.0" encoding="x"?><annotation/>', "its XML is damaged"),
    ],
)  # fmt: skip
def test_hostile_xml_is_refused_by_name(tmp_path, text, problem):
    root = voc(tmp_path, scenes())
    (root / "Annotations" / "train0.xml").write_text(text)
    with pytest.raises(BadDataset, match=rf"Annotations/train0.xml: .*{problem}"):
        read(root)
    with pytest.raises(ValueError, match="document type"):
        parse_xml(BOMB.encode("utf-16"))


def test_lists_of_images_that_disagree_with_the_files(tmp_path):
    root = voc(tmp_path, scenes())
    sets = root / "ImageSets" / "Main"
    (sets / "val.txt").write_text("val0\nval1\ntrain0\nlost\n")
    index = build_index(root, require_labels=False, max_bad_fraction=0.5)
    assert {key: reason for key, reason in index.bad} == {
        "train0 (of val)": "is in the split 'train' already", "lost": "has no Annotations/lost.xml",
    }  # fmt: skip
    _, issues = attach_boxes(index, (), 0.0)
    assert "1 XML files are in no list of ImageSets/Main, and are passed over" in issues.notes
    (sets / "trainval.txt").write_text((sets / "train.txt").read_text())
    for name in ("train", "val", "test"):
        (sets / f"{name}.txt").unlink()
    assert set(build_index(root, require_labels=False).splits) == {"train", "val"}


# LabelMe


def edit_labelme(root: Path, edit) -> Path:
    labelme(root, scenes())
    path = root / "train" / "train0.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return root


def test_shapes_of_labelme(tmp_path):
    def edit(content):
        content["imagePath"] = "..\\elsewhere\\train0.png"
        content["shapes"] = [
            {"label": "nut", "shape_type": "circle", "points": [[10, 10], [10, 14]]},
            {"label": "nut", "shape_type": "rectangle", "points": [[9, 8], [2, 3]], "group_id": 4},
            {"label": "nut", "shape_type": "polygon", "points": [[5, 5], [20, 5], [9, 9]],
             "group_id": 4},
            {"label": "bolt", "shape_type": "point", "points": [[3, 3]]},
            {"label": "__ignore__", "shape_type": "rectangle", "points": [[0, 0], [5, 5]]},
        ]  # fmt: skip

    root = edit_labelme(tmp_path, edit)
    scenes()[0].write(root / "train" / "bare.png")
    index, messages = read(root)
    assert boxes_by_name(index)["train0.png"] == [(6, 6, 14, 14, 1), (3, 2, 9, 20, 1)]
    assert "1 shapes of the type 'point' are skipped" in messages
    assert "1 images have no JSON file, and are passed over: train/bare.png" in messages


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("shapes", "none", "no file of LabelMe"), ("imagePath", 5, "no file of LabelMe"),
        ("imageHeight", 999, "but its boxes are of 999"),
        ("shapes", [{"label": "nut", "points": [[1, 2], [3, 4]]}], "a polygon of 2 points"),
        ("shapes", [{"label": "nut", "points": [[1, "x"]]}], "not pairs of numbers"),
        ("shapes", [5], "not pairs of numbers"),
        ("shapes", [{"label": "nut", "points": [[1, 2], [3, 4], [1e300, 5]]}], "impossible"),
    ],
)  # fmt: skip
def test_wrong_files_of_labelme_are_named(tmp_path, field, value, problem):
    root = edit_labelme(tmp_path, lambda content: content.update({field: value}))
    try:
        index = build_index(root, require_labels=False, max_bad_fraction=0.0)
        _, issues = attach_boxes(index, (), 0.0)
        message = str(issues.images[0])
    except BadDataset as error:
        message = str(error)
    assert problem in message and "train/train0" in message


# Label Studio


def test_results_of_label_studio(tmp_path):
    scene = scenes()[0]
    height, width = scene.size
    scene.write(tmp_path / scene.name)
    rotated = {
        "x": 50,
        "y": 50,
        "width": 20,
        "height": 10,
        "rotation": 90,
        "rectanglelabels": ["a"],
    }
    polygon = {"points": [[10, 10], [50, 10], [50, 40]], "polygonlabels": ["b"]}
    sizes = {"original_width": width, "original_height": height}
    results = [
        {"type": "rectanglelabels", "value": rotated, **sizes},
        {"type": "polygonlabels", "value": polygon, **sizes},
        {"type": "brushlabels", "value": {}, **sizes},
    ]
    tasks = [
        {"id": 1, "data": {"image": f"s3://x/{scene.name}"}, "annotations": [{"result": results}]},
        {"id": 2, "data": {"image": "other.png"}, "annotations": []},
    ]
    index, messages = read(write_json(tmp_path / "p.json", tasks))
    # Turned by 90° clockwise around the top left corner: it extends to the left and down.
    x, y, w, h = 0.5 * width, 0.5 * height, 0.2 * width, 0.1 * height
    first, second = boxes_by_name(index)[scene.name]
    assert first[:4] == pytest.approx((y, x - h, y + w, x), abs=1e-4)
    assert second[:4] == pytest.approx((0.1 * height, 0.1 * width, 0.4 * height, 0.5 * width), 1e-4)
    assert "1 results of the type 'brushlabels' are skipped" in messages
    assert "1 tasks have no submitted annotation, and are passed over" in messages
    tasks[0]["annotations"] *= 2
    with pytest.raises(BadDataset, match="has 2 annotations"):
        read(write_json(tmp_path / "p.json", tasks))


def test_roboflow_splits_alone_and_a_folder_of_annotations_are_sources_too(tmp_path):
    root = roboflow_coco(tmp_path / "r", scenes())
    assert len(read(root / "train")[0]) == 6
    assert len(read(cvat_coco(tmp_path / "c", scenes()) / "annotations")[0]) == 12
