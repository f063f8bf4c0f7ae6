"""Pascal VOC: an XML file for each image.

    Annotations/*.xml, JPEGImages/, ImageSets/Main/<split>.txt    names of images, one a line
    <split>/*.jpg and *.xml                                       side by side (Roboflow)
    *.jpg and *.xml                                               side by side (LabelImg)

Corners count pixels from 1 and include both ends: xmin = 1, xmax = width is the whole image, here
left = 0, right = width (VOC development kit). Objects marked `difficult` are crowds: not trained
on, and ignored by average precision. Document types and entities are refused.

Axes: box.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from patchpack.data.records import PARTS, Record, split_name
from patchpack.data.sources.image_lookup import ImageLookup, is_image
from patchpack.data.sources.objects import (
    OBJECTS,
    SIZE,
    Catalog,
    ParsedObjects,
    objects_of,
    with_catalog,
)

FORMAT = "Pascal VOC"
ANNOTATIONS, SETS = "Annotations", "ImageSets/Main"
IMAGE_FOLDERS = ("JPEGImages", "images", "Images", ".")
DEEPEST = 50  # elements in elements
CORNERS = ("ymin", "xmin", "ymax", "xmax")


def voc_folders(root: Path) -> dict[str, str]:
    """Return the folders with the XML files of a VOC dataset, each with its split; empty for other
    datasets."""
    if (root / ANNOTATIONS).is_dir():
        paths = (root / ANNOTATIONS).rglob("*.xml")
        return {folder: "" for folder in sorted({_relative(path.parent, root) for path in paths})}
    splits = [name for name in sorted(os.listdir(root)) if split_name(name) in PARTS]
    folders = {name: split_name(name) for name in splits} or {".": ""}
    return {f: s for f, s in folders.items() if _is_voc(next((root / f).glob("*.xml"), None))}


def _is_voc(path: Path | None) -> bool:
    """Return whether an XML file has an element `annotation`."""
    try:
        return path is not None and b"<annotation" in path.read_bytes()
    except OSError:
        return False


def read_voc(root: Path) -> list[Record]:
    """Return the images of a VOC dataset with their parsed objects; keys are relative to it.

    Records have an error for a damaged XML file, and for an image that a split lists without one.
    """
    folders = voc_folders(root)
    files = {
        _relative(path, root / (ANNOTATIONS if folder.startswith(ANNOTATIONS) else "."))[:-4]:
        (path, split)
        for folder, split in folders.items()
        for path in sorted((root / folder).glob("*.xml"))
    }  # fmt: skip
    by_stem = {path.stem: name for name, (path, _) in files.items()}
    lists, notes = _lists(root), []
    lookup = ImageLookup(root)
    records: list[Record] = []
    used: dict[str, str] = {}  # file → split
    for split, names in lists.items():
        present = [name if name in files else by_stem.get(Path(name).name, "") for name in names]
        if split == "test" and not any(present):
            notes.append(f"the split test is left out: no image of {SETS}/test.txt has an XML file")
            continue
        for name, file in zip(names, present, strict=True):
            if not file:
                error = f"has no {ANNOTATIONS}/{name}.xml"
                records.append(Record(key=name, split=split, error=error))
            elif file in used:
                error = f"is in the split {used[file]!r} already"
                records.append(Record(key=f"{name} (of {split})", split=split, error=error))
            else:
                used[file] = split
                records.append(_record(files[file][0], root, split, lookup))
    if not lists:
        records = [_record(path, root, split, lookup) for path, split in files.values()]
    elif passed := files.keys() - used.keys():
        notes.append(f"{len(passed):,} XML files are in no list of {SETS}, and are passed over")
    boxes = [objects_of(record) for record in records if OBJECTS in record.parsed]
    if zeros := sum(int((item.boxes[:, :2] < 0).any(1).sum()) for item in boxes):
        notes.append(
            f"{zeros:,} boxes start at 0, but corners are read as counted from 1, as VOC's"
        )
    names = tuple(sorted({name for item in boxes for name in item.categories if name}))
    return with_catalog(records, Catalog(FORMAT, ANNOTATIONS, names, notes=tuple(notes)))


def _lists(root: Path) -> dict[str, list[str]]:
    """Return the names of the images of each split, from ImageSets/Main; empty without lists.

    Lists of a single class (cat_train.txt) are left out, and trainval beside train or val.
    """
    lists: dict[str, list[str]] = {}
    for path in sorted((root / SETS).glob("*.txt")):
        split = split_name(path.stem)
        if split not in (*PARTS, "trainval", "default"):
            continue
        lines = path.read_text("utf-8-sig", "replace").replace("\\", "/").splitlines()
        names = [line.split()[0] for line in lines if line.strip()]
        names = [os.path.splitext(name)[0] if is_image(name) else name for name in names]
        lists[split] = list(dict.fromkeys(names))
    both = lists.pop("trainval", None)
    if both is not None and not lists.keys() & {"train", "val"}:
        lists = {"train": both} | lists
    return {"" if split == "default" else split: names for split, names in lists.items()}


def _record(path: Path, root: Path, split: str, lookup: ImageLookup) -> Record:
    """Return the record of one XML file, with an error if it is damaged."""
    here = _relative(path.parent, root)
    folders = [here] if not here.startswith(ANNOTATIONS) else []
    folders += [f"{name}{here.removeprefix(ANNOTATIONS)}" for name in IMAGE_FOLDERS]
    folders += [*IMAGE_FOLDERS, *(f"../{name}" for name in IMAGE_FOLDERS)]
    unit = f"{_relative(path, root)} object"
    try:
        element = parse_xml(path.read_bytes())
        parsed = parse_annotation(element, unit)
    except ValueError as error:
        return Record(key=f"{_relative(path, root)}", split=split, error=str(error))
    key = lookup.with_stem(path.stem, folders)  # as VOC's lists of images name it
    if key is None:
        key = lookup.key((element.findtext("filename") or path.stem).strip(), folders)
    size = {side: _size(element.findtext(f"size/{side}")) for side in SIZE}
    columns = size if all(size.values()) else {}
    return Record(key=key, split=split, columns=columns, parsed={OBJECTS: parsed})


def _size(text: str | None) -> str:
    """Return a side as the text of an integer; empty where it is unknown or 0."""
    text = (text or "").strip()
    return str(int(text)) if text.isdecimal() and text.isascii() and int(text) else ""


def parse_annotation(element: Element, unit: str) -> ParsedObjects:
    """Return the objects of an XML file; invalid boxes become NaN.

    unit  how messages name an object

    Raise ValueError where the root is not `annotation`.
    """
    if element.tag != "annotation":
        raise ValueError(f"its root is {element.tag[:40]!r}, not 'annotation'")
    objects = element.findall("object")
    boxes = np.full((len(objects), 4), np.nan)
    reasons: dict[int, str] = {}
    for position, item in enumerate(objects):
        texts = {name: item.findtext(f"bndbox/{name}") for name in CORNERS}
        try:
            corners = np.array([float(text or "") for text in texts.values()])
        except ValueError:
            corners = np.full(4, np.nan)
        if np.isfinite(corners).all():
            boxes[position] = corners - (1, 1, 0, 0)
        else:
            reasons[position] = f"its bndbox is not 4 numbers: {', '.join(CORNERS)}"
    return ParsedObjects(
        boxes,
        [(item.findtext("name") or "").strip() for item in objects],
        np.full(len(objects), np.nan),
        np.array([(i.findtext("difficult") or "").strip() == "1" for i in objects], bool),
        unit=unit,
        reasons=reasons,
    )


def parse_xml(data: bytes) -> Element:
    """Return the root of an XML file; raise ValueError for damage, document types and entities.

    Nothing outside the text is read, and nothing in it expands.
    """
    builder, depth = TreeBuilder(), 0

    def start(tag: str, attributes: Mapping[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"its XML is more than {DEEPEST} elements deep")
        builder.start(tag, dict(attributes))

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*declaration: object) -> None:
        raise ValueError("its XML has a document type or an entity, which are refused")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, LookupError) as error:  # LookupError: an unknown encoding
        raise ValueError(f"its XML is damaged: {error}") from error


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
