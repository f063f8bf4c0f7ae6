"""Objects of images as a source has them: boxes, categories and outlines, not yet checked against
the images.

Every reader of boxes returns `ParsedObjects` in `Record.parsed[OBJECTS]`; all images of one file,
or of one folder, share a `Catalog`.

Axes: object.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float

from patchpack.data.records import Record
from patchpack.data.sources.regions import Region

OBJECTS = "objects"  # key of the objects in Record.parsed, and their column in a manifest
SIZE = ("height", "width")  # columns with the size that an image was annotated at, in pixels
IGNORED = "__ignore__"  # category of regions without a class: no box, and ignored in masks
NO_REGION = "has a box, but no outline"
NAMED = 5  # names in a note
Id = int | float | str | None


@dataclass(frozen=True, eq=False)
class Catalog:
    """The source of objects: its format and the categories that it lists."""

    format: str  # "COCO", for messages
    file: str = ""  # relative to the root of the source; "": several files
    names: tuple[str, ...] = ()  # all categories, with and without objects
    ids: Mapping[str, Id] = field(default_factory=dict)  # of a COCO file: id of each category
    notes: tuple[str, ...] = ()  # what the reader passed over or assumed


@dataclass(frozen=True, eq=False)
class ParsedObjects:
    """The objects of one image."""

    boxes: Float[np.ndarray, "object 4"]  # (top, left, bottom, right); NaN if invalid
    categories: Sequence[str]  # names; "" if missing or not listed
    areas: Float[np.ndarray, " object"]  # px, of the objects; NaN if missing
    crowd: Bool[np.ndarray, " object"]  # whether a box is a region of many objects, or ignored
    regions: Sequence[Region | str] = ()  # outlines, or why there is none; empty: no object has any
    relative: bool = False  # whether boxes and outlines are shares of the sides of the image
    unit: str = "object"  # how messages name an object: "annotation", "labels/a.txt line"
    numbers: Sequence[Id] = ()  # of the objects, after `unit`; empty: 1, 2, …
    reasons: Mapping[int, str] = field(default_factory=dict)  # why boxes are NaN, by position
    image_id: Id = None  # id of the image in a COCO file
    catalog: Catalog = field(default_factory=lambda: MANIFEST)

    def __len__(self) -> int:
        return len(self.categories)

    def name(self, position: int) -> str:
        """The name of an object in messages."""
        number = self.numbers[position] if len(self.numbers) else position + 1
        reason = self.reasons.get(position)
        return f"{self.unit} {number}" + (f": {reason}" if reason else "")

    def in_pixels(self, height: int, width: int) -> "ParsedObjects":
        """Return the objects in pixels of an image of this size."""
        if not self.relative:
            return self
        return replace(
            self,
            boxes=self.boxes * np.array([height, width, height, width], np.float64),
            regions=[
                region if isinstance(region, str) else region.scaled(height, width)
                for region in self.regions
            ],
            relative=False,
        )


MANIFEST = Catalog("manifest")


@dataclass(frozen=True)
class SourceIds:
    """Ids of classes and images in a COCO file of the training data."""

    file: str  # relative to the root of the data
    classes: dict[str, int | float | str]  # by class name
    images: dict[str, int | float | str]  # by key: the path relative to the root of the data


def objects_of(record: Record) -> ParsedObjects:
    """Return the objects of a record that has them."""
    parsed = record.parsed[OBJECTS]
    assert isinstance(parsed, ParsedObjects)
    return parsed


def with_catalog(records: Iterable[Record], catalog: Catalog) -> list[Record]:
    """Return the records with this catalog in their objects, and an error where a key repeats."""
    splits: dict[str, list[str]] = defaultdict(list)  # of the records of each key
    result = []
    for record in records:
        splits[record.key].append(record.split)
        if (count := len(splits[record.key])) > 1:
            where = f", in the split {splits[record.key][0]!r}" if record.split else ""
            error = f"is annotated already{where}"
            record = replace(record, key=f"{record.key} ({count})", error=error)
        if OBJECTS in record.parsed:
            parsed: dict[str, object] = {OBJECTS: replace(objects_of(record), catalog=catalog)}
            record = replace(record, parsed=parsed)
        result.append(record)
    return result


def listed(names: Iterable[object]) -> str:
    """Return the first names of a list, for a message, and how many more there are."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - NAMED:,} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more
