"""The index of a dataset: key, size, label and annotations of every image or clip.

Sizes are read from file headers and cached outside the dataset, by path, modification time and
length; new and changed files are read again. Unreadable files are listed up to a limit, and never
cached: a failed disk or a missing permission leaves no trace in the file.

Axes: image (or clip), row (of an index).
"""

import difflib
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISDIR
from typing import TypeVar
from uuid import uuid4

import numpy as np
from jaxtyping import Int

from patchpack.data.annotations.annotation import Annotation
from patchpack.data.bad_images import BadImages
from patchpack.data.images import BadImage, read_size
from patchpack.data.reading import DEFAULT_READING, ReadingConfig
from patchpack.data.records import CLIPS, IMAGES, PARTS, BadDataset, MediaType, Record, split_name
from patchpack.data.sources.source import list_files
from patchpack.data.sources.splits import split_by_hash
from patchpack.data.video.decode import frames_in, read_header
from patchpack.data.video.frame_sampling import Clips

CACHE_VERSION = 5
HeaderInfo = tuple[int, ...]  # height, width; for clips also frames, rate (numerator, denominator)
Signature = tuple[int, int]  # modification time in ns, length in bytes
AnnotationT = TypeVar("AnnotationT", bound=Annotation)


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
    bad: tuple[tuple[str, str], ...] = ()  # (key, reason) of unreadable files
    held_out: int = 0  # images moved from `train` to `val`, because the dataset has no `val`

    def __len__(self) -> int:
        return len(self.keys)

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
            return self.select(split_by_hash(self.keys)[name])
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
        return self.select(rows)

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
        rows = list(range(len(self)))
        for condition in conditions:
            name, _, value = condition.partition("=")
            if name not in self.columns:
                names = ", ".join(self.columns) or "none"
                raise BadDataset(f"{self.root} has no column {name!r}; it has {names}")
            rows = [row for row in rows if self.columns[name][row] == value]
            if not rows:
                values = ", ".join(sorted(set(self.columns[name]))[:10])
                raise BadDataset(
                    f"no image of {self.root} is left by {condition!r}; {name} is one of {values}"
                )
        return self.select(rows) if conditions else self


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
    root, records = list_files(source, seed, media_type)
    cache = _cache_path(source.resolve(), cache_dir, media_type)
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
        bad=tuple(reasons.items()),
        held_out=sum(record.held_out for record in good),
    )


def _read_headers(
    root: Path, records: list[Record], cache: Path, media_type: MediaType, reading: ReadingConfig
) -> tuple[dict[str, HeaderInfo], dict[str, str]]:
    """Return the header of each file, cached or read, and the reasons for unreadable files."""
    cached = _load_cache(cache)
    read = read_size if media_type == IMAGES else _read_clip_header
    headers: dict[str, tuple[Signature, HeaderInfo]] = {}
    reasons: dict[str, str] = {}
    for record in records:
        if record.error:
            reasons[record.key] = record.error
            continue
        path = os.path.join(root, record.key)
        signature, entry = file_signature(path), cached.get(record.key)
        try:
            header = entry[1] if entry and entry[0] == signature else read(path, reading)
            _check_limits(header, signature, media_type, reading)
        except BadImage as error:
            reasons[record.key] = error.reason
        else:
            headers[record.key] = signature, header
    if headers != cached:
        _save_cache(cache, headers)
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
        reading.check_bytes(signature[1])
    else:
        frames, numerator, denominator = length
        reading.check_length(frames, frames * denominator / numerator)


def file_signature(path: str | os.PathLike[str]) -> Signature:
    """Return values that change with the file, or with the first frame of a folder; zeros if there
    is no file."""
    try:
        stat = os.stat(path)
        if not S_ISDIR(stat.st_mode):
            return stat.st_mtime_ns, stat.st_size
        frame = os.stat(frames_in(Path(path), os.fspath(path))[0])
    except (OSError, ValueError):  # ValueError: an impossible file name, or no frame
        return 0, 0
    return max(stat.st_mtime_ns, frame.st_mtime_ns), frame.st_size


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


def _cache_path(source: Path, cache_dir: Path | None, media_type: MediaType) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.blake2b(os.fsencode(source), digest_size=16).hexdigest()
    return (cache_dir or home / "patchpack" / "index") / f"{media_type.name}-{name}.npz"


def _load_cache(path: Path) -> dict[str, tuple[Signature, HeaderInfo]]:
    """Return cached headers by key; empty if the cache is missing, outdated or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as cache:
            if int(cache["version"]) != CACHE_VERSION:
                return {}
            keys = bytes(cache["keys"]).decode("utf-8", "surrogatepass").split("\0")
            rows = cache["numbers"].tolist()
        return {
            key: ((mtime, length), tuple(header))
            for key, (mtime, length, *header) in zip(keys, rows, strict=True)
        }
    except Exception:  # a cache can always be made again
        return {}


def _save_cache(path: Path, headers: dict[str, tuple[Signature, HeaderInfo]]) -> None:
    """Write the cache atomically; do nothing if its folder is not writable."""
    keys = "\0".join(headers).encode("utf-8", "surrogatepass")
    numbers = np.array([(*signature, *header) for signature, header in headers.values()], np.int64)
    unfinished = path.with_suffix(f".{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                np.savez(
                    file, version=CACHE_VERSION, keys=np.frombuffer(keys, np.uint8), numbers=numbers
                )
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError:
        return
