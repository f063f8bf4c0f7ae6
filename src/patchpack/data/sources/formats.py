"""Exports of annotation tools: which format a file or folder has, and its reader.

    COCO            instances_<split>.json, <split>/_annotations.coco.json, result.json, .json
    YOLO            data.yaml, or images/ and labels/
    Pascal VOC      Annotations/*.xml, or XML files beside the images
    LabelMe         JSON files beside the images
    Label Studio    .json

A format is recognized by its files and by what they hold.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from patchpack.data.records import BadDataset, Record
from patchpack.data.sources import coco, label_studio, labelme, voc, yolo
from patchpack.data.sources.json_file import load_json

MASKS = "masks"  # folder of masks beside images/


class Format(NamedTuple):
    """A format of folders."""

    name: str
    evidence: Callable[[Path], Path | None]  # what makes a folder one of this format; None: is none
    read: Callable[[Path], list[Record]]


def _first(paths: object, root: Path) -> Path | None:
    return next((root / str(path) for path in paths), None)  # pyrefly: ignore


FORMATS = (
    Format(
        coco.FORMAT,
        lambda root: _first(coco.coco_files(root), root),
        lambda root: coco.read_coco(coco.coco_files(root), root),
    ),
    Format(yolo.FORMAT, yolo.yolo_file, yolo.read_yolo),
    Format(voc.FORMAT, lambda root: _first(voc.voc_folders(root), root), voc.read_voc),
    Format(
        labelme.FORMAT, lambda root: _first(labelme.labelme_folders(root), root),
        labelme.read_labelme,
    ),
)  # fmt: skip


def read_annotations(source: Path) -> list[Record]:
    """Return the records of a file or folder that `annotation_reader` accepts."""
    reader = annotation_reader(source)
    return reader() if reader else []


def annotation_reader(source: Path) -> Callable[[], list[Record]] | None:
    """Return the reader of a file or folder of annotations; None for other sources.

    Raise BadDataset for a folder of two formats.
    """
    if source.is_file():
        if source.suffix.lower() == coco.SUFFIX:
            return lambda: _read_json(source)
        return (lambda: yolo.read_yolo(source)) if source.suffix.lower() in yolo.SUFFIXES else None
    if not source.is_dir():
        return None
    matches = [
        (format, path) for format in FORMATS if (path := format.evidence(source)) is not None
    ]
    _check_single(source, {format.name: path for format, path in matches})
    return (lambda: matches[0][0].read(source)) if matches else None


def _check_single(source: Path, matches: dict[str, Path]) -> None:
    """Raise BadDataset for two formats in one folder, or for a format beside folders of masks."""
    if yolo.FORMAT in matches and (source / "images").is_dir() and (source / MASKS).is_dir():
        matches = matches | {"masks": source / MASKS}
    if len(matches) > 1:
        names = " and ".join(f"{name} ({path})" for name, path in matches.items())
        files = [str(path) for path in matches.values() if path.is_file()]
        choice = f"give the file of one ({' or '.join(files)}), or " if files else ""
        raise BadDataset(f"{source} holds {names}: {choice}move the others elsewhere")


def _read_json(path: Path) -> list[Record]:
    """Return the images of a COCO file, or of Label Studio's export."""
    start = path.read_bytes()[:64].decode("utf-8-sig", "replace").lstrip()
    if start.startswith("[") and label_studio.are_tasks(content := load_json(path)):
        return label_studio.read_label_studio(path, content)
    if labelme.is_labelme(path):
        raise BadDataset(f"{path} is a file of LabelMe, of one image: give its folder")
    return coco.read_coco({path: coco.coco_file(path)}, path.parent)
