"""Summary of the boxes of a dataset: format, counts by class, and what is skipped."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from patchpack.data.annotations.boxes import BoxAnnotations, attach_boxes, has_boxes
from patchpack.data.annotations.drawn_masks import has_outlines
from patchpack.data.annotations.objects import parsed_objects
from patchpack.data.index import Index
from patchpack.data.records import BadDataset


@dataclass(frozen=True, kw_only=True)
class BoxSummary:
    """The boxes of a dataset."""

    source: str  # format: "COCO"
    boxes: int  # usable, without regions of crowds
    crowds: int  # regions of many objects, and difficult ones
    images_with_boxes: int
    box_classes: dict[str, int]  # boxes of each class
    outlines: bool  # whether objects have outlines, from which masks can be drawn
    messages: tuple[str, ...]  # what is skipped, clipped or assumed

    def json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self, splits: int) -> list[str]:
        """Return the summary as lines of text."""
        outlines = ", outlines" if self.outlines else ""
        counts = ", ".join(f"{name} {count:,}" for name, count in self.box_classes.items())
        crowds = f"; {self.crowds:,} crowds" if self.crowds else ""
        return [
            f"source: {self.source}, {splits} split{'s' * (splits != 1)}, "
            f"{len(self.box_classes)} class{'es' * (len(self.box_classes) != 1)}{outlines}",
            f"{self.boxes:,} boxes in {self.images_with_boxes:,} images ({counts}){crowds}",
            *self.messages,
        ]


def summarize_boxes(index: Index) -> BoxSummary | None:
    """Return the summary of an index; None if its source has no boxes."""
    if not has_boxes(index):
        return None
    formats = sorted({item.catalog.format for item in parsed_objects(index)})
    images, crowds, classes, messages = (), (), (), []
    try:
        attached, issues = attach_boxes(index, (), 1.0)
    except BadDataset as error:
        messages.append(str(error))
    else:
        annotations = attached.annotation(BoxAnnotations)
        images, crowds, classes = annotations.images, annotations.crowds, annotations.classes
        messages = [*issues.messages(), *(f"skipped: {error}" for error in issues.images)]
    counts = Counter(int(label) for boxes in images for label in boxes.labels)
    return BoxSummary(
        source=", ".join(formats),
        boxes=counts.total(),
        crowds=sum(len(boxes.labels) for boxes in crowds),
        images_with_boxes=sum(len(boxes.labels) > 0 for boxes in images),
        box_classes={name: counts[label] for label, name in enumerate(classes)},
        outlines=has_outlines(index),
        messages=tuple(messages),
    )
