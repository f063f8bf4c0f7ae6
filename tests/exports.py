"""Exports of annotation tools, of the same generated images and objects: one writer per format."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("bolt", "nut")


@dataclass(frozen=True)
class Scene:
    """An image with rectangles; `boxes` are (top, left, bottom, right, class)."""

    name: str
    split: str
    pixels: np.ndarray
    boxes: tuple[tuple[int, int, int, int, int], ...]

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[:2]

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.pixels).save(path)


def scenes(train: int = 6, val: int = 3, test: int = 3, seed: int = 0) -> list[Scene]:
    """Bolts are bright and nuts dark rectangles; the last image of every split has none."""
    rng = np.random.default_rng(seed)
    made = []
    for split, count in (("train", train), ("val", val), ("test", test)):
        for number in range(count):
            height, width = (int(side) for side in rng.integers(24, 60, 2))
            pixels = rng.integers(100, 150, (height, width, 3)).astype(np.uint8)
            boxes = []
            for label in (0, 1, 1)[: 3 * (number < count - 1)]:
                top, left = int(rng.integers(0, height - 9)), int(rng.integers(0, width - 9))
                bottom = int(rng.integers(top + 6, height + 1))
                right = int(rng.integers(left + 6, width + 1))
                pixels[top:bottom, left:right] = (230, 20)[label]
                boxes.append((top, left, bottom, right, label))
            made.append(Scene(f"{split}{number}.png", split, pixels, tuple(boxes)))
    return made


def corners(box: tuple[int, ...]) -> list[list[float]]:
    """The corners of a box as (x, y), clockwise from the top left."""
    top, left, bottom, right = map(float, box[:4])
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def coco(items: list[Scene], prefix: str = "", ids: tuple[int, int] = (3, 90)) -> dict:
    """COCO's dictionary; images have ids 1000, 1007, …, and a root category has the id 0."""
    content = {"info": {}, "images": [], "annotations": [], "categories": [
        {"id": 0, "name": "parts", "supercategory": "none"},
        *({"id": i, "name": n, "supercategory": "parts"} for i, n in zip(ids, NAMES, strict=True)),
    ]}  # fmt: skip
    for number, scene in enumerate(items):
        image_id = 1000 + 7 * number
        height, width = scene.size
        content["images"].append(
            {"id": image_id, "file_name": prefix + scene.name, "height": height, "width": width}
        )
        for top, left, bottom, right, label in scene.boxes:
            content["annotations"].append({
                "id": len(content["annotations"]) + 1, "image_id": image_id,
                "category_id": ids[label], "iscrowd": 0, "area": (bottom - top) * (right - left),
                "bbox": [left, top, right - left, bottom - top],
                "segmentation": [np.ravel(corners((top, left, bottom, right))).tolist()],
            })  # fmt: skip
    return content


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def by_split(items: list[Scene]) -> dict[str, list[Scene]]:
    return {s: [i for i in items if i.split == s] for s in ("train", "val", "test")}


def cvat_coco(root: Path, items: list[Scene]) -> Path:
    write_json(root / "annotations" / "instances_default.json", coco(items))
    for scene in items:
        scene.write(root / "images" / "default" / scene.name)
    return root


def cvat_coco_subsets(root: Path, items: list[Scene]) -> Path:
    for split, members in by_split(items).items():
        write_json(root / "annotations" / f"instances_{split}.json", coco(members))
        for scene in members:
            scene.write(root / "images" / split / scene.name)
    return root


def roboflow_coco(root: Path, items: list[Scene]) -> Path:
    for split, members in by_split(items).items():
        folder = root / {"val": "valid"}.get(split, split)
        write_json(folder / "_annotations.coco.json", coco(members))
        for scene in members:
            scene.write(folder / scene.name)
    return root


def label_studio_coco(root: Path, items: list[Scene]) -> Path:
    """As written on Windows; half of the files kept the prefix of their upload."""
    content = coco(items, "images\\")
    for number, (scene, image) in enumerate(zip(items, content["images"], strict=True)):
        image["file_name"] = f"images\\{number:08x}-{scene.name}"
        scene.write(root / "images" / (scene.name if number % 2 else f"{number:08x}-{scene.name}"))
    return write_json(root / "result.json", content)


def label_studio_json(root: Path, items: list[Scene]) -> Path:
    tasks = []
    for number, scene in enumerate(items):
        height, width = scene.size
        results = [
            {"type": "rectanglelabels", "original_width": width, "original_height": height,
             "image_rotation": 0, "value": {
                 "x": 100 * left / width, "y": 100 * top / height, "rotation": 0,
                 "width": 100 * (right - left) / width, "height": 100 * (bottom - top) / height,
                 "rectanglelabels": [NAMES[label]]}}
            for top, left, bottom, right, label in scene.boxes
        ]  # fmt: skip
        tasks.append({
            "id": number, "data": {"image": f"/data/upload/1/{number:08x}-{scene.name}"},
            "annotations": [{"id": number, "was_cancelled": False, "result": results}],
        })  # fmt: skip
        scene.write(root / "images" / f"{number:08x}-{scene.name}")
    return write_json(root / "project.json", tasks)


def yolo_lines(scene: Scene) -> str:
    height, width = scene.size
    return "".join(
        f"{label} {(left + right) / 2 / width:.9f} {(top + bottom) / 2 / height:.9f} "
        f"{(right - left) / width:.9f} {(bottom - top) / height:.9f}\n"
        for top, left, bottom, right, label in scene.boxes
    )


def yolo_polygon_lines(scene: Scene) -> str:
    height, width = scene.size
    return "".join(
        f"{box[4]} " + " ".join(f"{x / width:.9f} {y / height:.9f}" for x, y in corners(box)) + "\n"
        for box in scene.boxes
    )


def yolo(root: Path, items: list[Scene], lines: Callable[[Scene], str] = yolo_lines) -> Path:
    """images/<split> and labels/<split>, as Ultralytics and CVAT write them."""
    for scene in items:
        scene.write(root / "images" / scene.split / scene.name)
        path = root / "labels" / scene.split / f"{Path(scene.name).stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines(scene))
    (root / "data.yaml").write_text(
        "path: ../datasets/parts\ntrain: images/train\nval: images/val\ntest: images/test\n"
        "names:\n  0: bolt\n  1: nut\n"
    )
    return root


def roboflow_yolo(root: Path, items: list[Scene]) -> Path:
    """<split>/images and <split>/labels; paths lead out of the folder, and are meant inside it."""
    for scene in items:
        folder = root / {"val": "valid"}.get(scene.split, scene.split)
        scene.write(folder / "images" / scene.name)
        (folder / "labels").mkdir(exist_ok=True)
        (folder / "labels" / f"{Path(scene.name).stem}.txt").write_text(yolo_lines(scene))
    (root / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\n"
        "names: ['bolt', 'nut']\n"
    )
    return root


def cvat_yolo(root: Path, items: list[Scene]) -> Path:
    """Images and label files side by side, of one split (CVAT's YOLO 1.1)."""
    for scene in items:
        scene.write(root / "obj_train_data" / scene.name)
        path = root / "obj_train_data" / f"{Path(scene.name).stem}.txt"
        path.write_text(yolo_lines(scene))
    (root / "obj.names").write_text("bolt\nnut\n")
    (root / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    lines = "".join(f"data/obj_train_data/{scene.name}\n" for scene in items)
    (root / "train.txt").write_text(lines)
    return root


def voc(root: Path, items: list[Scene]) -> Path:
    for scene in items:
        scene.write(root / "JPEGImages" / scene.name)
        write_voc(root / "Annotations" / f"{Path(scene.name).stem}.xml", scene)
    for split, members in by_split(items).items():
        path = root / "ImageSets" / "Main" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{Path(scene.name).stem}\n" for scene in members))
    (root / "ImageSets" / "Main" / "bolt_train.txt").write_text("train0  1\n")
    return root


def voc_beside(root: Path, items: list[Scene]) -> Path:
    for scene in items:
        folder = root / {"val": "valid"}.get(scene.split, scene.split)
        scene.write(folder / scene.name)
        write_voc(folder / f"{Path(scene.name).stem}.xml", scene)
    return root


def write_voc(path: Path, scene: Scene) -> None:
    """Corners count from 1 and include both ends."""
    objects = "".join(
        f"<object><name>{NAMES[label]}</name><difficult>0</difficult><bndbox>"
        f"<xmin>{left + 1}</xmin>"
        f"<ymin>{top + 1}</ymin><xmax>{right}.0</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for top, left, bottom, right, label in scene.boxes
    )
    height, width = scene.size
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<?xml version='1.0'?><annotation><filename>{scene.name}</filename><size><width>{width}"
        f"</width><height>{height}</height><depth>3</depth></size>{objects}</annotation>"
    )


def labelme(root: Path, items: list[Scene]) -> Path:
    """Bolts are rectangles, nuts polygons."""
    for scene in items:
        folder = root / scene.split
        scene.write(folder / scene.name)
        height, width = scene.size
        shapes = [
            {"label": NAMES[box[4]], "shape_type": ("rectangle", "polygon")[box[4]],
             "points": corners(box)[2::-2] if box[4] == 0 else corners(box), "group_id": None}
            for box in scene.boxes
        ]  # fmt: skip
        content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": scene.name,
                   "imageData": None, "imageHeight": height, "imageWidth": width}  # fmt: skip
        write_json(folder / f"{Path(scene.name).stem}.json", content)
    return root


WRITERS = {
    "cvat-coco": cvat_coco, "cvat-coco-subsets": cvat_coco_subsets, "roboflow-coco": roboflow_coco,
    "label-studio-coco": label_studio_coco, "label-studio-json": label_studio_json, "yolo": yolo,
    "roboflow-yolo": roboflow_yolo, "voc": voc, "voc-beside": voc_beside, "cvat-yolo": cvat_yolo,
    "labelme": labelme,
}  # fmt: skip
