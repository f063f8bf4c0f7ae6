"""Masks: the class of every pixel, in a separate file for each image.

manifest.csv               a column `mask`: a path, relative to the manifest like the images' paths
root/images/x.jpg          mask in root/masks/x.png (`sources.mask_folders` has further names)
root/images/<split>/x.jpg  mask in root/masks/<split>/x.png
root/<split>/images/x.jpg  mask in root/<split>/masks/x.png
objects with outlines      COCO, YOLO, LabelMe, Label Studio: the mask is drawn (`drawn_masks`)
classes.json               names of the class indices: ["background", …] or {"0": "background", …}

                           with mask values {"background": 0, "crack": 255}, or with colors
                           {"background": "000000", "road": [128, 64, 128]}

A mask has one whole number per pixel (`mask_files`), or colors (`mask_values`), and the size of its
image; both are turned upright by the same rules. A bad mask makes its image a BadImage.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image

from patchpack.batch import IGNORE_INDEX, Patches
from patchpack.data.annotations.annotation import Affine, Hash, Size
from patchpack.data.annotations.drawn_masks import Drawing, draw_mask, drawings, has_outlines
from patchpack.data.annotations.mask_files import read_mask_image
from patchpack.data.annotations.mask_values import (
    MaskEncoding,
    MaskValues,
    parse_color,
    raw_values,
)
from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.reading import DEFAULT_READING, ReadingConfig
from patchpack.data.records import BadDataset
from patchpack.data.text_files import clean, read_text
from patchpack.data.transforms.sample import warp

COLUMN = "mask"
CLASSES_FILE = "classes.json"
EXPECTED = (
    "expected a manifest with a column mask, or folders images/ and masks/ whose image files have "
    "the same names but for their suffix (or an ending such as _mask), or objects with outlines "
    "(COCO's segmentation, polygons of YOLO or LabelMe)"
)
UNREAD: MaskValues = np.empty((0, 0), np.uint8)


@dataclass(frozen=True)
class MaskSpec:
    """A mask file and its class indices."""

    path: Path
    num_classes: int
    ignore_index: int | None  # value of pixels without a class
    encoding: MaskEncoding = MaskEncoding.plain
    drawing: Drawing | None = None  # outlines to draw; None: the file is read
    reading: ReadingConfig = DEFAULT_READING


@dataclass(frozen=True, eq=False)
class Mask:
    """The mask of one image."""

    values: MaskValues  # class indices, IGNORE_INDEX for pixels without a class; empty before read
    file: MaskSpec | None = None  # file to read; None: values are given

    in_pixels: ClassVar[bool] = True

    def read(self, size: Size, key: str) -> "Mask":
        return Mask(read_mask(self.file, size, key)) if self.file else self

    def crop(self, top: int, left: int, height: int, width: int) -> "Mask":
        return Mask(self.values[top : top + height, left : left + width])

    def resize(self, before: Size, after: Size) -> "Mask":
        """Resize with nearest-neighbor interpolation."""
        if self.values.shape == after:
            return self
        image = Image.fromarray(self.values).resize(after[::-1], Image.Resampling.NEAREST)
        return Mask(np.asarray(image))

    def hflip(self, size: Size) -> "Mask":
        return Mask(self.values[:, ::-1])

    def rot90(self, k: int, size: Size) -> "Mask":
        return Mask(np.rot90(self.values, k))

    def affine(self, matrix: Affine, inverse: Affine, size: Size) -> "Mask":
        """Warp with nearest-neighbor interpolation; pixels from outside are IGNORE_INDEX."""
        values = np.ascontiguousarray(self.values)
        return Mask(warp(values, matrix, (IGNORE_INDEX,), Image.Resampling.NEAREST))

    def merge(
        self, parts: Sequence["Mask"], offsets: Sequence[tuple[int, int]], size: Size
    ) -> "Mask":
        canvas = np.full(size, IGNORE_INDEX, np.uint8)
        for part, (top, left) in zip(parts, offsets, strict=True):
            height, width = part.values.shape
            canvas[top : top + height, left : left + width] = part.values
        return Mask(canvas)

    def attach(self, patches: Patches, size: Size, original: "Mask | None") -> Patches:
        """Add the target `mask`, at the original size in evaluation."""
        values = np.require((original or self).values, requirements=["C", "W"])
        return replace(patches, targets=patches.targets | {"mask": torch.from_numpy(values)})


@dataclass(frozen=True, eq=False)
class Masks:
    """The mask files, or outlines, of all images of an index."""

    keys: tuple[str, ...]  # paths relative to the root of the index; of the images if drawn
    num_classes: int
    ignore_index: int | None  # value of pixels without a class
    encoding: MaskEncoding = MaskEncoding.plain
    drawings: tuple[Drawing, ...] = ()  # of the images; empty: masks are files
    reading: ReadingConfig = DEFAULT_READING

    name: ClassVar[str] = "masks"

    def spec(self, root: Path, row: int) -> MaskSpec:
        """Return the mask file of one image of an index with this root."""
        path, drawing = root / self.keys[row], self.drawings[row] if self.drawings else None
        return MaskSpec(
            path, self.num_classes, self.ignore_index, self.encoding, drawing, self.reading
        )

    def select(self, rows: Int[np.ndarray, " row"]) -> "Masks":
        drawings = tuple(self.drawings[row] for row in rows) if self.drawings else ()
        return replace(self, keys=tuple(self.keys[row] for row in rows), drawings=drawings)

    def item(self, row: int, seed: int, epoch: int, root: Path) -> Mask:
        return Mask(UNREAD, self.spec(root, row))

    def stream_lengths(self, seed: int, epoch: int) -> None:
        return None

    def digest(self, hash: Hash) -> None:
        """Update a hash with the paths, and the outlines; files are not read."""
        hash.update("\0".join(self.keys).encode("utf-8", "surrogatepass"))
        for drawing in self.drawings:
            drawing.digest(hash)

    def files(self) -> Sequence[str]:
        return self.keys


def read_mask(mask: MaskSpec, size: Size, key: str) -> MaskValues:
    """Return the class of every pixel of an image of this size, IGNORE_INDEX for none.

    Raise BadImage, naming the image by `key`, for a file that is not a mask of this image.
    """
    if mask.drawing is not None:
        return draw_mask(mask.drawing, size, key, mask.ignore_index)
    return _values_of(read_mask_image(mask.path, size, key, mask.reading), mask, key)


def _values_of(upright: Image.Image, mask: MaskSpec, key: str) -> MaskValues:
    """Return the class of every pixel of an upright mask; raise BadImage for other values."""
    try:
        raw = raw_values(upright, mask.encoding)
        return mask.encoding.decode(raw, mask.num_classes, mask.ignore_index)
    except ValueError as error:
        raise BadImage(key, f"its mask {error}") from error


def attach_masks(
    index: Index,
    num_classes: int,
    ignore_index: int | None,
    encoding: MaskEncoding = MaskEncoding.plain,
    reading: ReadingConfig = DEFAULT_READING,
) -> tuple[Index, list[BadImage]]:
    """Return the images with a mask, and errors for the others; BadDataset if none has a mask."""
    check_masks(index)
    cells = index.columns[COLUMN]
    rows = [row for row, cell in enumerate(cells) if cell]
    bare = [row for row, cell in enumerate(cells) if not cell]
    without_mask = [BadImage(index.keys[row], "has no mask") for row in bare]
    masks = Masks(
        tuple(cells[row] for row in rows), num_classes, ignore_index, encoding, reading=reading
    )
    return index.select(rows).with_annotation(masks), without_mask


def attach_drawn_masks(
    index: Index, classes: Sequence[str], ignore_index: int | None
) -> tuple[Index, list[BadImage], tuple[str, ...]]:
    """Return the images with masks drawn from outlines, errors for the others, and notes.

    classes  names of the classes, the background first
    """
    index, drawn, errors, notes = drawings(index, classes)
    masks = Masks(index.keys, len(classes), ignore_index, drawings=drawn)
    return index.with_annotation(masks), errors, notes


def has_mask_files(index: Index) -> bool:
    """Return whether an image has a mask file."""
    return any(index.columns.get(COLUMN, ()))


def has_masks(index: Index) -> bool:
    """Return whether an image has a mask file, or an object with an outline."""
    return has_mask_files(index) or has_outlines(index)


def check_masks(index: Index) -> None:
    """Raise BadDataset if no image has a mask."""
    if not has_masks(index):
        raise BadDataset(f"{index.root} has no mask for any image: {EXPECTED}")


class ClassTable(NamedTuple):
    """The content of classes.json."""

    names: tuple[str, ...]
    encoding: MaskEncoding  # plain where the file gives no values


def read_classes(root: Path) -> tuple[str, ...]:
    """Return the names in classes.json; raise BadDataset if it is missing or invalid."""
    return read_class_table(root).names


def read_class_table(root: Path) -> ClassTable:
    """Return names and mask values in classes.json; raise BadDataset as `read_classes` does."""
    path = root / CLASSES_FILE
    hint = f"name the classes of the mask values, from 0 on, with task.classes or in {CLASSES_FILE}"
    try:
        content = json.loads(read_text(path))
    except OSError as error:
        raise BadDataset(f"{path} cannot be read: {hint}") from error
    except (ValueError, RecursionError) as error:
        raise BadDataset(f"{path} is not JSON ({error}): {hint}") from error
    encoding = MaskEncoding.plain
    if isinstance(content, dict) and content and not any(map(str.isdecimal, content)):
        content, encoding = list(content), _encoding_in(content, path)
    values = content if isinstance(content, list) else _sort_by_index(content, path)
    names = tuple(n for name in values if isinstance(name, str) and (n := clean(name)))
    if not names or len(names) < len(values):
        raise BadDataset(f"{path} must hold names: {hint}")
    if len(set(names)) < len(names):
        raise BadDataset(f"{path} has duplicate names: {', '.join(names)}")
    return ClassTable(names, encoding)


def _encoding_in(content: Mapping[str, object], path: Path) -> MaskEncoding:
    """Return the mask values of {name: value}, or {name: color}."""
    values = list(content.values())
    try:
        if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            return MaskEncoding(tuple(values))  # pyrefly: ignore
        return MaskEncoding(tuple(map(_color, values)), colors=True)
    except ValueError as error:
        raise BadDataset(f"{path}: {error}") from error


def _color(value: object) -> int:
    """Return a color, "RRGGBB" or [red, green, blue], as a number."""
    if isinstance(value, str):
        return parse_color(value)
    if isinstance(value, list) and len(value) == 3 and all(v in range(256) for v in value):
        return int.from_bytes(bytes(map(int, value)))
    raise ValueError(
        f"{value!r} is neither a mask value nor a color: expected {{name: 255}} for every class, "
        'or {name: "RRGGBB"} or {name: [red, green, blue]}'
    )


def check_classes(root: Path, names: Sequence[str]) -> MaskEncoding | None:
    """Raise BadDataset if classes.json exists and differs from the classes of a model.

    Return the mask values that it gives; None: it gives none.
    """
    if not (root / CLASSES_FILE).exists():
        return None
    table = read_class_table(root)
    if table.names != tuple(names):
        raise BadDataset(
            f"{root / CLASSES_FILE} has the classes {', '.join(table.names)}, the model "
            f"{', '.join(names)}: masks must number them as the model does"
        )
    return table.encoding if table.encoding.values else None


def _sort_by_index(content: object, path: Path) -> Sequence[object]:
    try:
        pairs = [(int(number), name) for number, name in content.items()]  # pyrefly: ignore
    except (AttributeError, ValueError):
        raise BadDataset(
            f"{path} must be a list of names, {{number: name}} or {{name: mask value}}"
        ) from None
    names = dict(pairs)
    if sorted(number for number, _ in pairs) != list(range(len(pairs))):
        raise BadDataset(
            f"{path} must number its names 0, 1, 2 …, not {sorted(names)}; for other mask values, "
            "write {name: value}"
        )
    return [names[number] for number in sorted(names)]
