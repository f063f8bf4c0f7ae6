"""The index of a dataset: key, size, label and annotations of every image or clip.

Sizes are read from file headers and cached outside the dataset (`data.file_cache`); new and changed
files are read again. Unreadable files are listed up to a limit, and never cached: a failed disk or
a missing permission leaves no trace in the file.

Axes: image (or clip), row (of an index).
"""

import difflib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Int

from patchpack.data.annotations.annotation import Annotation
from patchpack.data.bad_images import NAMED, BadImages, check_fraction
from patchpack.data.file_cache import (
    Signature,
    cache_path,
    file_signature,
    load_cache,
    save_cache,
    wait_for_tick,
)
from patchpack.data.images import BadImage, read_size
from patchpack.data.reading import DEFAULT_READING, ReadingConfig
from patchpack.data.records import (
    CLIPS,
    IMAGES,
    PARTS,
    BadDataset,
    MediaType,
    Record,
    alike,
    split_name,
)
from patchpack.data.sources.scan_notes import ScanNotes, advice
from patchpack.data.sources.source import list_files
from patchpack.data.sources.splits import GROUP, split_by_hash
from patchpack.data.text_files import clean
from patchpack.data.video.decode import read_header
from patchpack.data.video.frame_sampling import Clips
from patchpack.printable import printable

HeaderInfo = tuple[int, ...]  # height, width; for clips also frames, rate (numerator, denominator)
AnnotationT = TypeVar("AnnotationT", bound=Annotation)
SEPARATORS = re.compile(r"[|;,/&+]")  # that people write between several classes


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """The images or clips of a dataset, or of one split, in the order of their keys."""

    root: Path
    keys: tuple[str, ...]  # paths relative to root, the names of images in all messages
    heights: Int[np.ndarray, " image"]  # px, EXIF orientation applied
    widths: Int[np.ndarray, " image"]  # px
    labels: Int[np.ndarray, " image"]  # class indices; -1: no label, or not in the training split
    splits: tuple[str, ...]
    classes: tuple[str, ...]  # label i is classes[i]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # further manifest columns
    parsed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)  # see Record.parsed
    annotations: Mapping[str, Annotation] = field(default_factory=dict)  # by Annotation.name
    clips: Clips | None = None  # lengths and frame rates; None for images
    unread: tuple[Record, ...] = ()  # items that cannot be read, each with its error
    held_out: int = 0  # images moved from `train` to `val`, because the dataset has no `val`
    split_rule: str = ""  # how the splits were chosen: "by the folders"
    notes: tuple[str, ...] = ()  # messages on groups, labels and classes
    scan: ScanNotes = field(default_factory=ScanNotes)  # what a scan of a folder passed over

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def bad(self) -> tuple[tuple[str, str], ...]:
        """(key, reason) of the items that cannot be read."""
        return tuple((record.key, record.error) for record in self.unread)

    @property
    def messages(self) -> tuple[str, ...]:
        """How the data were read, in lines: splits, groups, labels, files passed over."""
        lines = (f"split: {self._split_counts()}", *self.notes, *self.scan.messages())
        return tuple(map(printable, lines))

    def require_read_classes(self) -> None:
        """Raise BadDataset for class folders whose images are all of kinds that are not read."""
        if unread := self.scan.unread_classes:
            names = [f"{name} ({count:,} files)" for name, count in unread.items()]
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            suffixes = {suffix for name in unread for suffix in self.scan.empty_classes[name]}
            raise BadDataset(
                f"{self.root}: no image can be read in the class folders "
                f"{', '.join(names[:NAMED])}{more}; {advice(suffixes)}, or remove these folders"
            )

    def _split_counts(self) -> str:
        counts, rule = Counter(self.splits), self.split_rule
        if set(counts) == {"all"}:
            counts, rule = Counter(self._parts()), "by hash of the file names"
        parts = [f"{counts[part]:,} {part}" for part in PARTS if counts[part]]
        others = [
            f"{name} ({count:,})" for name, count in sorted(counts.items()) if name not in PARTS
        ]
        if others and not parts:
            return f"{', '.join(others)} {rule}"
        unused = f"; not train, val or test: {', '.join(others)}" if others else ""
        return f"{', '.join(parts)} {rule}{unused}"

    def _parts(self) -> list[str]:
        """The part of each image by hash, where the dataset has no splits."""
        of_row = {
            row: part
            for part, rows in split_by_hash(self.keys, self.columns.get(GROUP)).items()
            for row in rows
        }
        return [of_row[row] for row in range(len(self))]

    def path(self, row: int) -> Path:
        return self.root / self.keys[row]

    @property
    def paths(self) -> list[Path]:
        """The file or folder of every item."""
        return [self.path(row) for row in range(len(self))]

    def split(self, name: str) -> "Index":
        """Return the images of one split, or of `all`; raise BadDataset if there are none."""
        if name == "all":
            return self
        name = split_name(name)
        if set(self.splits) == {"all"} and name in PARTS:
            return self.select([row for row, part in enumerate(self._parts()) if part == name])
        rows = [row for row, split in enumerate(self.splits) if split == name]
        if not rows:
            counts = Counter(self.splits)
            names = ", ".join(f"{split} ({count})" for split, count in sorted(counts.items()))
            near = difflib.get_close_matches(name, counts, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise BadDataset(
                f"{self.root} has no split {name!r}; it has {names}{hint}; set data.train_split, "
                "data.val_split or eval's --split"
            )
        unread = tuple(record for record in self.unread if record.split == name)
        return replace(self.select(rows), unread=unread)

    @property
    def item_name(self) -> str:
        """Plural name of its items, for messages."""
        return (IMAGES if self.clips is None else CLIPS).name

    @property
    def label_of(self) -> dict[str, str | None]:
        """The class name of every image by its key; None without a label."""
        names = (*self.classes, None)  # label -1 is the last
        return {key: names[i] for key, i in zip(self.keys, self.labels, strict=True)}

    def annotation(self, kind: type[AnnotationT]) -> AnnotationT:
        """Return the annotation of a class; raise ValueError if the index has none."""
        annotation = self.annotations.get(kind.name)
        if not isinstance(annotation, kind):
            raise ValueError(f"the index of {self.root} has no {kind.name}: attach them first")
        return annotation

    def with_annotation(self, annotation: Annotation) -> "Index":
        """Add an annotation, or replace the one of the same name."""
        return replace(self, annotations={**self.annotations, annotation.name: annotation})

    def select(self, rows: Sequence[int]) -> "Index":
        """Return the images of these rows, in the order given."""
        array = np.asarray(rows, np.int64)

        def pick(values: tuple) -> tuple:
            return tuple(values[row] for row in rows)

        return replace(
            self,
            keys=pick(self.keys),
            heights=self.heights[array],
            widths=self.widths[array],
            labels=self.labels[array],
            splits=pick(self.splits),
            columns={name: pick(cells) for name, cells in self.columns.items()},
            parsed={name: pick(values) for name, values in self.parsed.items()},
            annotations={name: a.select(array) for name, a in self.annotations.items()},
            clips=None if self.clips is None else self.clips.select(array),
        )

    def where(self, conditions: Sequence[str]) -> "Index":
        """Return the images that match all conditions "column=value".

        Raise BadDataset for an unknown column, and if no image matches.
        """
        rows, unread = list(range(len(self))), self.unread
        for condition in conditions:
            name, equals, value = (clean(part) for part in condition.partition("="))
            if not equals:
                raise BadDataset(f"{condition!r} is no filter: write column=value")
            if name not in self.columns:
                names = ", ".join(self.columns) or "none"
                raise BadDataset(f"{self.root} has no column {name!r}; it has {names}")
            rows = [row for row in rows if self.columns[name][row] == value]
            unread = tuple(record for record in unread if record.columns.get(name, "") == value)
            if not rows:
                values = ", ".join(sorted(set(self.columns[name]))[:10])
                raise BadDataset(
                    f"no image of {self.root} is left by {condition!r}; {name} is one of {values}"
                )
        return replace(self.select(rows), unread=unread) if conditions else self


def build_index(
    source: Path | str,
    *,
    seed: int = 0,
    cache_dir: Path | None = None,
    max_bad_fraction: float = 0.01,
    require_labels: bool = True,
    media_type: MediaType = IMAGES,
    reading: ReadingConfig = DEFAULT_READING,
) -> Index:
    """Index a folder, a manifest or a COCO file (layouts: `data.sources.source`).

    seed              decides the splits of folders without any
    cache_dir         folder of cached sizes; None: ~/.cache/patchpack/index
    max_bad_fraction  share of unreadable files above which BadDataset is raised
    require_labels    classes are those of the training split, which must have all classes of the
                      others; otherwise those of all splits
    media_type        IMAGES, or CLIPS: videos and folders of frames
    reading           limits of one file

    Raise BadDataset if there is nothing to index, if too many files are unreadable, or if a class
    of val or test is not in train.
    """
    source = Path(source)
    check_fraction(max_bad_fraction)
    listing = list_files(source, seed, media_type)
    root, records = listing.root, listing.records
    cache = cache_path(source.resolve(), media_type.name, cache_dir)
    headers, reasons = _read_headers(root, records, cache, media_type, reading)
    good = [record for record in records if record.key in headers]
    table = np.array([headers[record.key] for record in good], np.int64)
    labels = {record.key: record.label if require_labels else None for record in records}
    BadImages(source, labels, max_bad_fraction, reasons, media_type.name).check()
    labelled = good
    if require_labels:
        _check_classes(source, good)
        labelled = [record for record in good if record.split == "train"] or good
    classes = tuple(sorted({record.label for record in labelled if record.label is not None}))
    label_of = {name: label for label, name in enumerate(classes)}
    columns = sorted({name for record in good for name in record.columns})
    parsed = sorted({name for record in good for name in record.parsed})
    return Index(
        root=root,
        keys=tuple(record.key for record in good),
        heights=table[:, 0].astype(np.int32),
        widths=table[:, 1].astype(np.int32),
        labels=np.array([label_of.get(record.label or "", -1) for record in good], np.int64),
        splits=tuple(record.split for record in good),
        classes=classes,
        columns={name: tuple(record.columns.get(name, "") for record in good) for name in columns},
        parsed={name: tuple(record.parsed.get(name) for record in good) for name in parsed},
        clips=Clips(table[:, 2], table[:, 3] / table[:, 4]) if media_type == CLIPS else None,
        unread=tuple(
            replace(record, error=reasons[record.key], parsed={})
            for record in records
            if record.key in reasons
        ),
        held_out=sum(record.held_out for record in good),
        split_rule=listing.split_rule,
        notes=(*listing.notes, *(_label_notes(good, media_type) if require_labels else ())),
        scan=listing.scan,
    )


def _read_headers(
    root: Path, records: list[Record], cache: Path, media_type: MediaType, reading: ReadingConfig
) -> tuple[dict[str, HeaderInfo], dict[str, str]]:
    """Return the header of each file, cached or read, and the reasons for unreadable files."""
    read, width = (read_size, 2) if media_type == IMAGES else (_read_clip_header, 5)
    cached = load_cache(cache, width)
    headers: dict[str, tuple[Signature, HeaderInfo]] = {}
    reasons = {record.key: record.error for record in records if record.error}
    usable = [record.key for record in records if not record.error]
    paths = {key: os.path.join(root, key) for key in usable}
    signatures = {key: file_signature(path) for key, path in paths.items()}
    wait_for_tick(signatures.values())
    for key, path in paths.items():
        entry = cached.get(key)
        valid = entry is not None and entry[0] == signatures[key] and min(entry[1]) > 0
        try:
            header = entry[1] if entry and valid else read(path, reading)
            _check_limits(header, signatures[key], media_type, reading)
            headers[key] = signatures[key], header
        except BadImage as error:
            reasons[key] = error.reason
    if headers != cached:
        save_cache(cache, headers)
    return {key: header for key, (_, header) in headers.items()}, reasons


def _read_clip_header(path: str, reading: ReadingConfig) -> HeaderInfo:
    *sizes, rate = read_header(path, reading)
    return *sizes, *rate.as_integer_ratio()


def _check_limits(
    header: HeaderInfo, signature: Signature, media_type: MediaType, reading: ReadingConfig
) -> None:
    """Raise BadImage above the limits: a cached header may have been read with higher ones."""
    height, width, *length = header
    reading.check_size(height, width)
    if media_type == IMAGES:
        reading.check_bytes(signature[2])
    else:
        frames, numerator, denominator = length
        reading.check_length(frames, frames * denominator / numerator)


def _label_notes(records: Sequence[Record], media_type: MediaType) -> list[str]:
    """Name classes that may be one, and count items without a label among others with one."""
    counts = Counter(record.label for record in records)
    without = sum(record.label is None for record in records if record.split in PARTS)
    notes = []
    if len(counts) > 1 and without:
        notes.append(f"{without:,} of {len(records):,} {media_type.name} have no label")
    labels = {label for label in counts if label}
    kinds = {
        "classes that differ only in case, spaces or the writing of a number": [
            " and ".join(f"{n!r} ({counts[n]:,})" for n in names) for names in alike(labels)
        ],
        "classes whose names hold several classes": [
            f"{label!r} ({counts[label]:,})"
            for label in sorted(labels)
            if len(parts := SEPARATORS.split(label)) > 1 and labels.issuperset(map(clean, parts))
        ],
    }
    for kind, names in kinds.items():
        if names:
            more = f"; and {len(names) - NAMED} more" if len(names) > NAMED else ""
            notes.append(
                f"{kind}: {'; '.join(names[:NAMED])}{more}; they are learned as different classes"
            )
    return notes


def _check_classes(source: Path, records: list[Record]) -> None:
    labels = {
        split: {record.label for record in records if record.split == split and record.label}
        for split in ("train", "val", "test")
    }
    has_train = any(record.split == "train" for record in records)
    unseen = sorted((labels["val"] | labels["test"]) - labels["train"])
    if has_train and unseen:
        raise BadDataset(
            f"{source}: {len(unseen)} classes are in val or test but not in train: "
            f"{', '.join(map(repr, unseen[:10]))}"
        )
