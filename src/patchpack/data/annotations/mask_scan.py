"""Which classes the masks of a split hold: a class without a pixel is named before training.

Masks are read in a random order by threads, until every class has occurred. So a few masks are read
where all classes are frequent, and all of them where a class is missing.

Axes: height, width.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from patchpack.batch import IGNORE_INDEX
from patchpack.data.annotations.mask_values import ForeignValues, MaskEncoding
from patchpack.data.annotations.masks import Masks
from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.records import list_names

AT_ONCE = 64  # masks between two looks at what is missing
THREADS = 8


@dataclass
class MaskScan:
    """What the masks read so far hold."""

    labels: set[int] = field(default_factory=set)  # classes with a pixel
    values: dict[bool, set[int]] = field(default_factory=lambda: {False: set(), True: set()})
    """Values in the files, of numbers (False) and of colors (True)."""
    bad: list[BadImage] = field(default_factory=list)  # masks that cannot be used
    masks: int = 0  # read

    def add(self, mask: set[int] | BadImage, masks: Masks) -> None:
        """Add the class indices of one mask, or the error of one that cannot be used."""
        self.masks += 1
        if isinstance(mask, BadImage):
            self.bad.append(mask)
            if isinstance(cause := mask.__cause__, ForeignValues):
                self.values[cause.colors] |= set(cause.seen)
            return
        labels, values = mask - {IGNORE_INDEX}, self.values[masks.encoding.colors]
        self.labels |= labels
        values |= {masks.encoding.value(label) for label in labels}
        if IGNORE_INDEX in mask and masks.ignore_index is not None:
            values.add(masks.ignore_index)


def find_mask_problem(train: Index, classes: Sequence[str], max_bad_fraction: float) -> str | None:
    """Return why the masks of a training split do not serve; None where they do.

    They do not serve where a class has no pixel, unless `ignore_index` is its value, and where more
    than `max_bad_fraction` of them cannot be used.
    """
    masks, scan = train.annotation(Masks), MaskScan()
    labels = {
        label for label in range(len(classes))
        if masks.encoding.value(label) != masks.ignore_index
    }  # fmt: skip
    for group in _read(train, masks):
        for mask in group:
            scan.add(mask, masks)
        if len(scan.bad) > max_bad_fraction * len(train):
            return _unusable(train, masks, scan)
        if labels <= scan.labels:
            return None
    return _missing(train, masks, scan, classes, sorted(labels - scan.labels))


def _read(train: Index, masks: Masks) -> Iterator[list[set[int] | BadImage]]:
    """The class indices in each mask, or the error of one that cannot be used: AT_ONCE masks at a
    time, in a random order."""

    def read(row: int) -> set[int] | BadImage:
        size, key = (int(train.heights[row]), int(train.widths[row])), train.keys[row]
        try:
            mask = masks.item(row, 0, 0, train.root).read(size, key)
        except BadImage as error:
            return error
        return set(np.flatnonzero(np.bincount(mask.values.ravel())).tolist())

    order = np.random.default_rng(0).permutation(len(train)).tolist()
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
        for start in range(0, len(order), AT_ONCE):
            yield list(threads.map(read, order[start : start + AT_ONCE]))


def _unusable(train: Index, masks: Masks, scan: MaskScan) -> str:
    first = scan.bad[0]
    text = f"{train.root}: {len(scan.bad)} of the first {scan.masks} masks cannot be used: {first}"
    if not isinstance(cause := first.__cause__, ForeignValues):
        return text
    same = cause.colors == masks.encoding.colors
    encoding = masks.encoding if same else MaskEncoding(colors=cause.colors)
    values = sorted(scan.values[cause.colors])
    advice = encoding.advice(values, masks.num_classes, masks.ignore_index)
    return (
        f"{train.root}: {len(scan.bad)} of the first {scan.masks} masks cannot be used: masks hold "
        f"{encoding.text(values)}, for {masks.num_classes} classes; {advice} ({first.key}: "
        f"{first.reason.partition(';')[0]})"
    )


def _missing(
    train: Index, masks: Masks, scan: MaskScan, classes: Sequence[str], missing: list[int]
) -> str:
    encoding, ignored = masks.encoding, masks.ignore_index
    values = sorted(scan.values[encoding.colors])
    names = list_names([classes[label] for label in missing])
    wanted = encoding.text([encoding.value(label) for label in missing])
    if ignored in values and len(values) == masks.num_classes:
        advice = (
            f"task.ignore_index leaves out the value {ignored}: if it is a class, give "
            f"--{encoding.option} {encoding.text(values)} without --task.ignore-index"
        )
    elif len(values) >= masks.num_classes:
        advice = f"give the mask value of each class, in order, with --{encoding.option}"
    else:
        advice = "add masks of it, or leave it out of the names of the classes"
    return (
        f"{train.root}: no pixel of the {scan.masks:,} training masks is of the "
        f"{'class' if len(missing) == 1 else 'classes'} {names} (mask value {wanted}), which "
        f"therefore cannot be trained. Masks hold {encoding.text(values) or 'no class'}; {advice}"
    )
