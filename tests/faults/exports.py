"""Exports of annotation tools from a seed, whole or damaged, compared box by box.

Known boxes are written as each tool writes them. A damaged file is read once more with `json` or
`ElementTree` alone; where that gives no boxes, to refuse it is the only right answer.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from faults.mutate import DAMAGES, any_of
from faults.tables import LABELS, SIZE
from faults.verdicts import Outcome, Verdict, of_error
from patchpack.data.annotations.boxes import BoxAnnotations, attach_boxes
from patchpack.data.index import build_index

HEIGHT, WIDTH = SIZE
Box = tuple[float, float, float, float]  # left, top, right, bottom, px
Truth = dict[str, list[tuple[str, Box]]]  # image → (category, box)
TOLERANCE = 0.01  # px, of formats that write shares of an image


@dataclass(frozen=True)
class Export:
    """A dataset as a tool writes it."""

    source: Path  # what is indexed
    file: Path  # one of its files of annotations
    read: Callable[[bytes], Truth]  # a plain reading of that file; raises if there is none


def check_export(seed: int, folder: Path, _: Path) -> Outcome:
    """Index the export of a seed with its boxes, and compare them."""
    rng = np.random.default_rng([5, seed])
    root = folder / "export"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    name = any_of(tuple(WRITERS), rng)
    truth: Truth | None = _truth(rng)
    export = WRITERS[name](root, truth)
    whole = rng.random() < 0.5
    if not whole:
        mutation = any_of(DAMAGES, rng)
        export.file.write_bytes(mutation(export.file.read_bytes(), rng))
        name += f", {mutation.__name__}"
        truth = _reread(export, truth)
    try:
        index = build_index(export.source, cache_dir=folder / "cache", require_labels=False)
        index, issues = attach_boxes(index, (), 0.0)
    except Exception as error:
        verdict, detail = of_error(error, (str(root),))
        if verdict == Verdict.REFUSED and whole:
            verdict, detail = Verdict.UNCLEAR, f"a whole file is refused: {detail}"
        return Outcome(name, verdict, detail)
    boxes = index.annotation(BoxAnnotations)
    read: Truth = {
        Path(key).name: [
            (boxes.classes[label], (left, top, right, bottom))
            for label, (top, left, bottom, right) in zip(
                item.labels.tolist(), item.boxes.tolist(), strict=True
            )
        ]
        for key, item in zip(index.keys, boxes.images, strict=True)
    }
    skipped = {Path(bad.key).name for bad in issues.images}
    return Outcome(name, *_compare(read, truth, skipped))


def _compare(read: Truth, truth: Truth | None, skipped: set[str]) -> tuple[Verdict, str]:
    if truth is None:
        return Verdict.SILENT, "boxes, where there is no reading"
    if missing := truth.keys() - read.keys() - skipped:
        return Verdict.SILENT, f"images without a word: {sorted(missing)[:3]}"
    for key, ours in read.items():
        expected = [(name, _clipped(box)) for name, box in truth.get(key, [])]
        same = len(ours) == len(expected) and all(
            a[0] == b[0] and np.allclose(a[1], b[1], atol=TOLERANCE)
            for a, b in zip(sorted(ours), sorted(expected), strict=True)
        )
        if not same:
            return Verdict.SILENT, f"{key}: {sorted(ours)[:3]}, not {sorted(expected)[:3]}"
    return Verdict.RIGHT, ""


def _clipped(box: Box) -> Box:
    left, top, right, bottom = np.clip(box, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT]).tolist()
    return left, top, right, bottom


def _reread(export: Export, truth: Truth) -> Truth | None:
    """What a plain reading gives of a damaged file; None if it gives none."""
    try:
        read = export.read(export.file.read_bytes())
    except Exception:  # of any type
        return None
    flat = [box for boxes in read.values() for _, box in boxes]
    good = all(np.isfinite(b).all() and b[2] > b[0] and b[3] > b[1] for b in map(_clipped, flat))
    return truth | read if good else None


def _truth(rng: np.random.Generator) -> Truth:
    """Twelve boxes of three categories on six images."""
    names = [f"{number:03d}{any_of(('', ' copy', '-ü'), rng)}.png" for number in range(6)]
    categories = [LABELS[number] for number in rng.choice(len(LABELS), 3, replace=False)]
    truth: Truth = {name: [] for name in names}
    for _ in range(12):
        left, top = int(rng.integers(0, 5)), int(rng.integers(0, 4))
        box = left, top, left + int(rng.integers(2, 6)), top + int(rng.integers(2, 5))
        boxes = truth[any_of(names, rng)]
        if all(box != other for _, other in boxes):
            boxes.append((any_of(categories, rng), box))
    return truth


def _categories(truth: Truth) -> list[str]:
    return sorted({name for boxes in truth.values() for name, _ in boxes})


def _images(folder: Path, truth: Truth) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in truth:
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def coco(root: Path, truth: Truth, *, images: str, file: str, whole_folder: bool) -> Export:
    _images(root / images, truth)
    numbers = {name: 3 * number + 5 for number, name in enumerate(_categories(truth))}
    ids = {name: 100 - number for number, name in enumerate(truth)}
    boxes = [(name, *item) for name, items in truth.items() for item in items]
    content = {
        "info": {"year": ""}, "licenses": [],
        "images": [{"id": ids[name], "file_name": name, "height": HEIGHT, "width": WIDTH}
                   for name in truth],
        "categories": [{"id": number, "name": name, "supercategory": ""}
                       for name, number in numbers.items()],
        "annotations": [
            {"id": number, "image_id": ids[name], "category_id": numbers[category], "iscrowd": 0,
             "bbox": [x, y, right - x, bottom - y], "area": (right - x) * (bottom - y)}
            for number, (name, category, (x, y, right, bottom)) in enumerate(boxes, 1)
        ],
    }  # fmt: skip
    path = _write(root / file, json.dumps(content))
    return Export(root if whole_folder else path, path, _read_coco)


def _read_coco(data: bytes) -> Truth:
    content = json.loads(data.decode("utf-8"))
    names = {item["id"]: item["file_name"] for item in content["images"]}
    categories = {item["id"]: item.get("name") or str(item["id"]) for item in content["categories"]}
    truth: Truth = {name: [] for name in names.values()}
    for item in content["annotations"]:
        x, y, width, height = map(float, item["bbox"])
        if item.get("iscrowd") != 1:
            category = categories[item["category_id"]]
            truth[names[item["image_id"]]].append((category, (x, y, x + width, y + height)))
    return truth


def yolo(root: Path, truth: Truth) -> Export:
    _images(root / "train" / "images", truth)
    names = _categories(truth)
    listed = "\n".join(f"  {number}: {json.dumps(name)}" for number, name in enumerate(names))
    _write(root / "data.yaml", f"train: train/images\nnames:\n{listed}\n")
    files = {}
    for name, boxes in truth.items():
        lines = [
            f"{names.index(category)} {(x + right) / 2 / WIDTH:.6f} "
            f"{(y + bottom) / 2 / HEIGHT:.6f} {(right - x) / WIDTH:.6f} "
            f"{(bottom - y) / HEIGHT:.6f}\n"
            for category, (x, y, right, bottom) in boxes
        ]
        path = root / "train" / "labels" / f"{Path(name).stem}.txt"
        files[name] = _write(path, "".join(lines))
    name = max(truth, key=lambda name: len(truth[name]))
    return Export(root, files[name], partial(_read_yolo, name=name, names=names))


def _read_yolo(data: bytes, name: str, names: list[str]) -> Truth:
    """Boxes, and boxes around polygons; a line that is repeated counts once."""
    boxes: dict[tuple, None] = {}
    for line in data.decode("utf-8").splitlines():
        number, *words = line.split() or [""]
        values = [float(word) for word in words]
        x, y = [value * WIDTH for value in values[::2]], [value * HEIGHT for value in values[1::2]]
        if len(values) == 4:
            (x, width), (y, height) = x, y
            box = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        elif number:
            box = min(x[: len(y)]), min(y), max(x[: len(y)]), max(y)
        if number:
            boxes[names[int(number)], box] = None
    return {name: list(boxes)}


def voc(root: Path, truth: Truth) -> Export:
    _images(root / "JPEGImages", truth)
    files = {}
    for name, boxes in truth.items():
        objects = "".join(
            f"<object><name>{escape(category)}</name><difficult>0</difficult><bndbox>"
            f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
            "</bndbox></object>"
            for category, (x, y, right, bottom) in boxes
        )
        text = (
            f"<annotation><folder>JPEGImages</folder><filename>{name}</filename><size><width>"
            f"{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>{objects}</annotation>"
        )
        files[name] = _write(root / "Annotations" / f"{Path(name).stem}.xml", text)
    name = max(truth, key=lambda name: len(truth[name]))
    return Export(root, files[name], partial(_read_voc, name=name))


def _read_voc(data: bytes, name: str) -> Truth:
    root = ElementTree.fromstring(data.decode("utf-8"))
    boxes = []
    for item in root.findall("object"):
        x, y, right, bottom = (
            float(item.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")
        )
        if item.findtext("difficult", "0").strip() != "1":
            boxes.append((item.findtext("name", "").strip(), (x - 1, y - 1, right, bottom)))
    return {name: boxes}


def labelme(root: Path, truth: Truth) -> Export:
    _images(root, truth)
    files = {}
    for name, boxes in truth.items():
        shapes = [
            {"label": category, "points": [[x, y], [right, bottom]], "group_id": None,
             "shape_type": "rectangle", "flags": {}}
            for category, (x, y, right, bottom) in boxes
        ]  # fmt: skip
        content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": name,
                   "imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}  # fmt: skip
        files[name] = _write(root / f"{Path(name).stem}.json", json.dumps(content))
    name = max(truth, key=lambda name: len(truth[name]))
    return Export(root, files[name], partial(_read_labelme, name=name))


def _read_labelme(data: bytes, name: str) -> Truth:
    boxes = []
    for shape in json.loads(data.decode("utf-8"))["shapes"]:
        (x, y), (right, bottom) = shape["points"]
        box = min(x, right), min(y, bottom), max(x, right), max(y, bottom)
        if shape["shape_type"] == "rectangle" and shape["label"] != "__ignore__":
            boxes.append((shape["label"].strip(), box))
    return {name: boxes}


def label_studio(root: Path, truth: Truth) -> Export:
    _images(root / "images", truth)
    tasks = []
    for number, (name, boxes) in enumerate(truth.items(), 1):
        result = [
            {"id": f"r{k}", "type": "rectanglelabels", "from_name": "label", "to_name": "image",
             "original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0,
             "value": {"x": 100 * x / WIDTH, "y": 100 * y / HEIGHT, "rotation": 0,
                       "width": 100 * (right - x) / WIDTH, "height": 100 * (bottom - y) / HEIGHT,
                       "rectanglelabels": [category]}}
            for k, (category, (x, y, right, bottom)) in enumerate(boxes)
        ]  # fmt: skip
        tasks.append({"id": number, "data": {"image": f"/data/upload/1/0a1b2c3d-{name}"},
                      "annotations": [{"id": number, "result": result}]})  # fmt: skip
    path = _write(root / "export.json", json.dumps(tasks))
    return Export(path, path, _read_label_studio)


def _read_label_studio(data: bytes) -> Truth:
    truth: Truth = {}
    for task in json.loads(data.decode("utf-8")):
        boxes = []
        for result in task["annotations"][0].get("result", []):
            value = result["value"]
            x, width = (float(value[key]) * WIDTH / 100 for key in ("x", "width"))
            y, height = (float(value[key]) * HEIGHT / 100 for key in ("y", "height"))
            if result["type"] == "rectanglelabels":
                (category,) = value["rectanglelabels"]
                boxes.append((category, (x, y, x + width, y + height)))
        truth[task["data"]["image"].partition("0a1b2c3d-")[2]] = boxes
    return truth


WRITERS: dict[str, Callable[[Path, Truth], Export]] = {
    "COCO beside images": partial(coco, images="", file="boxes.json", whole_folder=False),
    "COCO above images": partial(coco, images="images", file="boxes.json", whole_folder=False),
    "COCO of a split": partial(
        coco, images="train2017", file="annotations/instances_train2017.json", whole_folder=True),
    "CVAT": partial(
        coco, images="images", file="annotations/instances_default.json", whole_folder=True),
    "Roboflow": partial(
        coco, images="train", file="train/_annotations.coco.json", whole_folder=True),
    "YOLO": yolo, "Pascal VOC": voc, "LabelMe": labelme, "Label Studio": label_studio,
}  # fmt: skip
