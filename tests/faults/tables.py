"""Hostile manifests and COCO files from a seed, and the right answer to each: an independent
reading.

A manifest is typeset from known rows in the ways that people and spreadsheets have (whole), or is
damaged as any file is; then a small reading with `csv` or `json` decides. A COCO file is written
in the layout of a known tool, or damaged.
"""

import csv
import io
import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from faults.mutate import DAMAGES, any_of
from faults.verdicts import Outcome, Verdict, of_error
from patchpack.data.index import Index, build_index
from patchpack.data.sources.coco import OBJECTS

Row = tuple[str, str, str]  # path, label, split
LABELS = ("cat", "dog", "a long name", "Füchse", "0", "NA", "null", "True", "a;b", 'x"y', "0.10")
DIRECTORIES = ("", "images/", "a folder/", "ü/")
SIZE = (8, 10)  # height, width of every image, px


@dataclass(frozen=True)
class HostileTable:
    """A file, how it was made, and its right reading; whole: refusing it is wrong."""

    name: str
    file: str
    data: bytes
    rows: tuple[Row, ...] | None  # None: `plain_reading` decides
    whole: bool


def hostile_table(seed: int) -> HostileTable:
    """The file of a seed: half are typeset in an odd way, the others damaged."""
    rng = np.random.default_rng([3, seed])
    rows = _rows(rng)
    name, file, data = (_csv if rng.random() < 0.7 else _jsonl)(rows, rng)
    if rng.random() < 0.5:
        return HostileTable(name, file, data, rows, True)
    for _ in range(int(rng.integers(1, 3))):
        mutation = any_of(DAMAGES, rng)
        data = mutation(data, rng) if data else data
        name += f", {mutation.__name__}"
    return HostileTable(name, file, data, None, False)


def _rows(rng: np.random.Generator) -> tuple[Row, ...]:
    """Four images of each of two or three labels, three in train and one in val."""
    labels = rng.choice(len(LABELS), int(rng.integers(2, 4)), replace=False)
    keys = [f"{any_of(DIRECTORIES, rng)}{number:03d}.png" for number in range(4 * len(labels))]
    return tuple(
        (key, LABELS[labels[number // 4]], "val" if number % 4 == 3 else "train")
        for number, key in enumerate(keys)
    )


def _csv(rows: tuple[Row, ...], rng: np.random.Generator) -> tuple[str, str, bytes]:
    """Rows as a spreadsheet, a script or a person writes them."""
    odd = {name for name in ODDITIES if rng.random() < 0.2}
    delimiter = ";" if odd & {"semicolons", "sep="} else "\t" if "tabs" in odd else ","
    header, cells = ["path", "label", "split"], [list(row) for row in rows]
    if "header in capitals" in odd:
        header = [name.capitalize() for name in header]
    if "splits in capitals" in odd:
        cells = [[path, label, split.upper()] for path, label, split in cells]
    if "synonyms" in odd:
        cells = [[p, label, {"val": "validation", "train": "training"}.get(s.lower(), s)]
                 for p, label, s in cells]  # fmt: skip
    if "spaces" in odd:
        header, *cells = ([f" {cell} " for cell in row] for row in [header, *cells])
    if "backslashes" in odd:
        cells = [[row[0].replace("/", "\\"), *row[1:]] for row in cells]
    if "./" in odd:
        cells = [[f"./{row[0].strip()}", *row[1:]] for row in cells]
    if "another order" in odd:
        header, *cells = ([row[2], row[0], row[1]] for row in [header, *cells])
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if "all quoted" in odd else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting,
                        lineterminator="\n" if "LF" in odd else "\r\n")  # fmt: skip
    if "sep=" in odd:
        text.write("sep=;\r\n")
    writer.writerows([header, *cells])
    if "rows of commas" in odd:
        writer.writerows([[""] * len(header)] * 3)
    if "empty lines" in odd:
        text.write("\n\n")
    data = text.getvalue()
    encoding = "utf-8-sig" if "BOM" in odd else "utf-16" if "UTF-16" in odd else "utf-8"
    return f"CSV, {', '.join(sorted(odd)) or 'plain'}", "table.csv", data.encode(encoding)


ODDITIES = (
    "semicolons", "sep=", "tabs", "header in capitals", "splits in capitals", "synonyms", "spaces",
    "backslashes", "./", "another order", "all quoted", "LF", "rows of commas", "empty lines",
    "BOM", "UTF-16",
)  # fmt: skip


def _jsonl(rows: tuple[Row, ...], rng: np.random.Generator) -> tuple[str, str, bytes]:
    odd = {name for name in ("escaped", "BOM", "empty lines", "CRLF", "spaces", "more fields")
           if rng.random() < 0.3}  # fmt: skip
    lines = []
    for path, label, split in rows:
        row: dict[str, object] = {"path": path, "label": label, "split": split}
        if "spaces" in odd:
            row = {key: f" {value} " for key, value in row.items()}
        if "more fields" in odd:
            row |= {"weight": 0.5, "nothing": None, "list": [1, {"a": 2}]}
        lines.append(json.dumps(row, ensure_ascii="escaped" in odd))
    text = ("\r\n" if "CRLF" in odd else "\n").join(lines)
    text += "\n\n \n" if "empty lines" in odd else ""
    data = text.encode("utf-8-sig" if "BOM" in odd else "utf-8")
    return f"JSON lines, {', '.join(sorted(odd)) or 'plain'}", "table.jsonl", data


def plain_reading(file: str, data: bytes) -> tuple[Row, ...] | None:
    """The rows of a file by the standard library alone; None if it is not readable so."""
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        if file.endswith(".jsonl"):
            items = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            lines = text.splitlines(keepends=True)
            if lines and lines[0].startswith("sep="):
                lines = lines[1:]
            delimiter = max(",;\t", key=lines[0].count) if lines else ","
            items = list(csv.DictReader(lines, delimiter=delimiter))
        rows = [
            {str(name).strip().lower(): str(cell or "").strip() for name, cell in item.items()}
            for item in items
        ]
    except (ValueError, csv.Error, AttributeError):
        return None
    found = tuple(
        (row.get("path", "").replace("\\", "/"), row.get("label", ""), row.get("split", ""))
        for row in rows
        if any(row.values())
    )
    return found or None


def check_table(seed: int, folder: Path, _: Path) -> Outcome:
    """Index the manifest of a seed, whose images exist, and compare its rows."""
    hostile = hostile_table(seed)
    root = folder / "tables"
    _write_images(root)
    for path in root.glob("table.*"):
        path.unlink()
    path = root / hostile.file
    path.write_bytes(hostile.data)
    try:
        index = build_index(path, cache_dir=folder / "cache")
    except Exception as error:
        verdict, detail = of_error(error, (str(path), path.name))
        if verdict == Verdict.REFUSED and hostile.whole:
            return Outcome(hostile.name, Verdict.UNCLEAR, f"a whole file is refused: {detail}")
        return Outcome(hostile.name, verdict, detail)
    rows = hostile.rows or plain_reading(hostile.file, hostile.data)
    return Outcome(hostile.name, *_compare(index, rows))


def _compare(index: Index, rows: tuple[Row, ...] | None) -> tuple[Verdict, str]:
    if rows is None:
        return Verdict.SILENT, f"{len(index)} rows, where there is no reading"
    labels = [(*index.classes, "")[number] for number in index.labels]
    read = sorted(zip(index.keys, labels, strict=True))
    expected = sorted((path.removeprefix("./"), label) for path, label, _ in rows)
    if read != expected:
        differ = sorted(set(read) ^ set(expected))[:4]
        return Verdict.SILENT, f"{len(read)} rows for {len(expected)}; {differ}"
    splits = dict(zip(index.keys, index.splits, strict=True))
    wrong = [
        path
        for path, _, split in rows
        if split and splits[path.removeprefix("./")] != SPLITS.get(split.lower(), split)
    ]
    return (Verdict.SILENT, f"splits of {wrong[:4]}") if wrong else (Verdict.RIGHT, "")


SPLITS = {
    "training": "train", "train": "train", "validation": "val", "valid": "val", "val": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip


@cache
def _write_images(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    for directory in DIRECTORIES:
        (root / directory).mkdir(parents=True, exist_ok=True)
        for number in range(16):
            Image.new("RGB", SIZE[::-1]).save(root / directory / f"{number:03d}.png")


LAYOUTS = ("beside", "images/", "CVAT", "Roboflow", "instances")


def check_coco(seed: int, folder: Path, _: Path) -> Outcome:
    """Index a COCO dataset in the layout of a tool, whole or damaged, and compare its boxes."""
    rng = np.random.default_rng([5, seed])
    root = folder / "coco"
    shutil.rmtree(root, ignore_errors=True)
    layout = any_of(LAYOUTS, rng)
    truth, content = _coco(rng)
    source, file = _write_coco(root, layout, content, sorted(truth))
    name, whole = f"COCO, {layout}", rng.random() < 0.5
    if not whole:
        mutation = any_of(DAMAGES, rng)
        file.write_bytes(mutation(file.read_bytes(), rng))
        name += f", {mutation.__name__}"
        truth = _plain_boxes(file.read_bytes())
    try:
        index = build_index(source, cache_dir=folder / "cache", require_labels=False)
    except Exception as error:
        verdict, detail = of_error(error, (str(root),))
        if verdict == Verdict.REFUSED and whole:
            verdict, detail = Verdict.UNCLEAR, f"a whole file is refused: {detail}"
        return Outcome(name, verdict, detail)
    return Outcome(name, *_compare_boxes(index, truth))


Truth = dict[str, list[tuple[str, list[float]]]]  # file name → (category, [x, y, w, h])


def _coco(rng: np.random.Generator) -> tuple[Truth, dict]:
    """Boxes of six images, and the content of a COCO file that has them."""
    ids = [int(k) for k in rng.permutation(1000)[:6]]
    categories = {int(k): any_of(LABELS, rng) for k in rng.permutation(90)[:3]}
    names = [f"{number:03d}{any_of(('', ' copy', '-ü'), rng)}.png" for number in range(6)]
    truth: Truth = {name: [] for name in names}
    annotations = []
    for number in range(12):
        image, category = int(rng.integers(6)), any_of(tuple(categories), rng)
        x, y = float(rng.integers(0, 5)), float(rng.integers(0, 4))
        box = [x, y, float(rng.integers(1, 5)), float(rng.integers(1, 4))]
        truth[names[image]].append((categories[category], box))
        annotations.append({
            "id": number + 1, "image_id": ids[image], "category_id": category, "bbox": box,
            "area": box[2] * box[3], "iscrowd": 0, "segmentation": [], "attributes": {"a": 0},
        })  # fmt: skip
    images = [
        {"id": k, "file_name": n, "height": SIZE[0], "width": SIZE[1], "license": 0}
        for k, n in zip(ids, names, strict=True)
    ]
    listed = [{"id": k, "name": n, "supercategory": ""} for k, n in categories.items()]
    return truth, {"info": {"year": ""}, "licenses": [], "images": images,
                   "annotations": annotations, "categories": listed}  # fmt: skip


def _write_coco(root: Path, layout: str, content: dict, names: list[str]) -> tuple[Path, Path]:
    """Write images and file as a tool does; returns what is indexed, and the file."""
    folder, file = {
        "beside": ("", "boxes.json"),
        "images/": ("images", "boxes.json"),
        "CVAT": ("images", "annotations/instances_default.json"),
        "Roboflow": ("train", "train/_annotations.coco.json"),
        "instances": ("train2017", "annotations/instances_train2017.json"),
    }[layout]
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", SIZE[::-1]).save(root / folder / name)
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return (path if layout in ("beside", "images/") else root), path


def _plain_boxes(data: bytes) -> Truth | None:
    """Boxes of a COCO file by the standard library alone; None if it is not readable so."""
    try:
        content = json.loads(data.decode("utf-8"))
        names = {item["id"]: item["file_name"] for item in content["images"]}
        categories = {item["id"]: item["name"] for item in content["categories"]}
        truth: Truth = {name: [] for name in names.values()}
        for item in content["annotations"]:
            box = [float(value) for value in item["bbox"]]
            truth[names[item["image_id"]]].append((categories[item["category_id"]], box))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return truth


def _compare_boxes(index: Index, truth: Truth | None) -> tuple[Verdict, str]:
    if truth is None:
        return Verdict.SILENT, "an index, where there is no reading"
    if OBJECTS not in index.parsed:
        return Verdict.SILENT, f"{len(index)} images without boxes"
    read: Truth = {}
    for key, parsed in zip(index.keys, index.parsed[OBJECTS], strict=True):
        boxes = [[left, top, right - left, bottom - top]
                 for top, left, bottom, right in parsed.boxes.tolist()]  # fmt: skip
        read[Path(key).name] = list(zip(parsed.categories, boxes, strict=True))
    same = {k: sorted(v) for k, v in read.items()} == {k: sorted(v) for k, v in truth.items()}
    return (Verdict.RIGHT, "") if same else (Verdict.SILENT, "other boxes")
