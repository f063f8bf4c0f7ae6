"""What is on disk: key, size and target of every image or clip, from headers alone, read once.

Sizes are cached, by path, time of change and length, outside the dataset; files that are new or
changed are read again. Headers that cannot be read are listed, not raised, up to a limit; they are
never cached, since a disk that failed or a permission that was missing leaves no trace in a file.

Axes: image.
"""

import difflib
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISDIR
from uuid import uuid4

import numpy as np
from jaxtyping import Int

from patchpack.data.annotations.boxes import BoxAnnotations
from patchpack.data.annotations.captions import Captions
from patchpack.data.annotations.masks import Masks
from patchpack.data.bad_images import BadImages
from patchpack.data.images import BadImage, read_size
from patchpack.data.records import CLIPS, IMAGES, PARTS, BadDataset, MediaType, Record, split_name
from patchpack.data.sources.source import list_files
from patchpack.data.sources.splits import split_by_hash
from patchpack.data.video.decode import frames_in, read_header
from patchpack.data.video.frame_sampling import Clips

CACHE_VERSION = 4
HeaderInfo = tuple[int, ...]  # height, width; of a clip also frames and rate, a fraction
Signature = tuple[int, int]  # time of change in ns, length in bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """The images of a dataset, or of one split of it, in the order of their keys."""

    root: Path
    keys: tuple[str, ...]  # paths relative to root; they name the image in every message
    heights: Int[np.ndarray, " image"]  # pixels, EXIF orientation applied
    widths: Int[np.ndarray, " image"]
    labels: Int[np.ndarray, " image"]  # -1 where there is none, or none of the training split's
    splits: tuple[str, ...]
    classes: tuple[str, ...]  # label i is classes[i]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of a manifest
    captions: Captions | None = None  # where texts belong to the images (`data.captions`)
    masks: Masks | None = None  # where masks do (`data.masks`)
    boxes: BoxAnnotations | None = None  # where boxes do (`data.objects`)
    clips: Clips | None = None  # where they are no images, but clips (`data.frames`)
    bad: tuple[tuple[str, str], ...] = ()  # (key, reason) of files left out
    held_out: int = 0  # images of `val` that are from `train`, since there was no other `val`

    def __len__(self) -> int:
        return len(self.keys)

    def path(self, number: int) -> Path:
        return self.root / self.keys[number]

    def split(self, name: str) -> "Index":
        """The images of one split, or of all; raises BadDataset where there are none."""
        if name == "all":
            return self
        name = split_name(name)
        if set(self.splits) == {"all"} and name in PARTS:
            return self.select(split_by_hash(self.keys)[name])
        chosen = [i for i, split in enumerate(self.splits) if split == name]
        if not chosen:
            counts = Counter(self.splits)
            there = ", ".join(f"{split} ({count})" for split, count in sorted(counts.items()))
            near = difflib.get_close_matches(name, counts, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise BadDataset(
                f"{self.root} has no split {name!r}; it has {there}{hint}; data.train_split, "
                "data.val_split and eval's --split say which are used"
            )
        return self.select(chosen)

    @property
    def item_name(self) -> str:
        """What its items are called."""
        return (IMAGES if self.clips is None else CLIPS).name

    @property
    def label_of(self) -> dict[str, str | None]:
        """The class of every image by its key; None where it has none."""
        names = (*self.classes, None)  # label -1 is the last
        return {key: names[i] for key, i in zip(self.keys, self.labels, strict=True)}

    def select(self, numbers: Sequence[int]) -> "Index":
        """Some of the images, in the order given."""
        array = np.asarray(numbers, np.int64)
        return replace(
            self,
            keys=tuple(self.keys[i] for i in numbers),
            heights=self.heights[array],
            widths=self.widths[array],
            labels=self.labels[array],
            splits=tuple(self.splits[i] for i in numbers),
            columns={
                name: tuple(cells[i] for i in numbers) for name, cells in self.columns.items()
            },
            captions=None if self.captions is None else self.captions.select(array),
            masks=None if self.masks is None else self.masks.select(array),
            boxes=None if self.boxes is None else self.boxes.select(array),
            clips=None if self.clips is None else self.clips.select(array),
        )

    def where(self, conditions: Sequence[str]) -> "Index":
        """The images whose columns have these values, each given as "column=value".

        Raises BadDataset for a column that there is none of, and where no image is left.
        """
        numbers = list(range(len(self)))
        for condition in conditions:
            name, _, value = condition.partition("=")
            if name not in self.columns:
                there = ", ".join(self.columns) or "none"
                raise BadDataset(f"{self.root} has no column {name!r}; it has {there}")
            numbers = [i for i in numbers if self.columns[name][i] == value]
            if not numbers:
                values = ", ".join(sorted(set(self.columns[name]))[:10])
                raise BadDataset(
                    f"no image of {self.root} is left by {condition!r}; {name} is one of {values}"
                )
        return self.select(numbers) if conditions else self


def build_index(
    source: Path | str,
    *,
    seed: int = 0,
    cache_dir: Path | None = None,
    max_bad_fraction: float = 0.01,
    require_labels: bool = True,
    media_type: MediaType = IMAGES,
) -> Index:
    """Index a folder or a manifest (`layouts` says which shapes they may have).

    seed              decides the split of folders that have none
    cache_dir         where sizes are kept; ~/.cache/patchpack/index when None
    max_bad_fraction  share of unreadable files that is an error
    learned           labels are learned from the training split, which must then hold every class;
                      otherwise classes are those of all splits, and of none anything is asked
    kind              IMAGES, or CLIPS: videos and folders of frames

    Raises BadDataset when there is nothing to index, too much is unreadable, or a class that is
    evaluated is never trained on.
    """
    source = Path(source)
    root, files = list_files(source, seed, media_type)
    cache = _cache_path(source.resolve(), cache_dir, media_type)
    facts, reasons = _read_facts(root, files, cache, media_type)
    good = [file for file in files if file.key in facts]
    found = np.array([facts[file.key] for file in good], np.int64)
    labels = {file.key: file.label if require_labels else None for file in files}
    BadImages(source, labels, max_bad_fraction, reasons, media_type.name).check()
    telling = good
    if require_labels:
        _check_classes(source, good)
        telling = [file for file in good if file.split == "train"] or good
    classes = tuple(sorted({file.label for file in telling if file.label is not None}))
    number = {label: i for i, label in enumerate(classes)}
    names = sorted({name for file in good for name in file.columns})
    return Index(
        root=root,
        keys=tuple(file.key for file in good),
        heights=found[:, 0].astype(np.int32),
        widths=found[:, 1].astype(np.int32),
        labels=np.array([number.get(file.label or "", -1) for file in good], np.int64),
        splits=tuple(file.split for file in good),
        classes=classes,
        columns={name: tuple(file.columns.get(name, "") for file in good) for name in names},
        clips=Clips(found[:, 2], found[:, 3] / found[:, 4]) if media_type == CLIPS else None,
        bad=tuple(reasons.items()),
        held_out=sum(file.held_out for file in good),
    )


def _read_facts(
    root: Path, files: list[Record], cache: Path, media_type: MediaType
) -> tuple[dict[str, HeaderInfo], dict[str, str]]:
    """Facts of each file, cached or from its header; why not, of those that have none."""
    known = _load_cache(cache)
    read = read_size if media_type == IMAGES else _clip_facts
    found: dict[str, tuple[Signature, HeaderInfo]] = {}
    reasons: dict[str, str] = {}
    for file in files:
        if file.error:
            reasons[file.key] = file.error
            continue
        path = os.path.join(root, file.key)
        stamp, entry = _file_signature(path), known.get(file.key)
        try:
            facts = entry[1] if entry and entry[0] == stamp else read(path)
        except BadImage as error:
            reasons[file.key] = error.reason
        else:
            found[file.key] = stamp, facts
    if found != known:
        _save_cache(cache, found)
    return {key: facts for key, (_, facts) in found.items()}, reasons


def _clip_facts(path: str) -> HeaderInfo:
    *facts, rate = read_header(path)
    return *facts, *rate.as_integer_ratio()


def _file_signature(path: str) -> Signature:
    """What changes when the file does, of a folder also when its first frame does; zeros where
    there is no file."""
    try:
        stat = os.stat(path)
        if not S_ISDIR(stat.st_mode):
            return stat.st_mtime_ns, stat.st_size
        frame = os.stat(frames_in(Path(path), path)[0])
    except (OSError, ValueError):  # ValueError: no file can have this name, or there is no frame
        return 0, 0
    return max(stat.st_mtime_ns, frame.st_mtime_ns), frame.st_size


def _check_classes(source: Path, files: list[Record]) -> None:
    labels = {
        split: {file.label for file in files if file.split == split and file.label}
        for split in ("train", "val", "test")
    }
    has_train = any(file.split == "train" for file in files)
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
    """What is known of files; nothing where the cache is absent, old or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as cache:
            if int(cache["version"]) != CACHE_VERSION:
                return {}
            keys = bytes(cache["keys"]).decode("utf-8", "surrogatepass").split("\0")
            rows = cache["numbers"].tolist()
        return {
            key: ((mtime, length), tuple(facts))
            for key, (mtime, length, *facts) in zip(keys, rows, strict=True)
        }
    except Exception:  # whatever is wrong with a cache, it can be made again
        return {}


def _save_cache(path: Path, found: dict[str, tuple[Signature, HeaderInfo]]) -> None:
    """Write the cache whole or not at all; a folder that cannot be written to goes without."""
    keys = "\0".join(found).encode("utf-8", "surrogatepass")
    numbers = np.array([(*stamp, *facts) for stamp, facts in found.values()], np.int64)
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
