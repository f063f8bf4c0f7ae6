"""What is on disk: key, size and target of every image, from headers alone, read once.

Sizes are cached, by path, time of change and length, outside the dataset; files that are new or
changed are read again. Headers that cannot be read are listed, not raised, up to a limit.

Axes: image.
"""

import difflib
import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from patchpack.data.images import BadImage, read_size
from patchpack.data.layouts import BadDataset, File, list_files

CACHE_VERSION = 1
Facts = tuple[int, int, str]  # height, width, and what is wrong (empty where nothing is)


@dataclass(frozen=True, kw_only=True)
class Index:
    """The images of a dataset, or of one split of it, in the order of their keys."""

    root: Path
    keys: tuple[str, ...]  # paths relative to root; they name the image in every message
    heights: Int[np.ndarray, " image"]  # pixels, EXIF orientation applied
    widths: Int[np.ndarray, " image"]
    labels: Int[np.ndarray, " image"]  # -1 where there is none
    splits: tuple[str, ...]
    classes: tuple[str, ...]  # label i is classes[i]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of a manifest
    bad: tuple[tuple[str, str], ...] = ()  # (key, reason) of files left out

    def __len__(self) -> int:
        return len(self.keys)

    def path(self, number: int) -> Path:
        return self.root / self.keys[number]

    def split(self, name: str) -> "Index":
        """The images of one split, or of all; raises BadDataset where there are none."""
        if name == "all":
            return self
        chosen = [i for i, split in enumerate(self.splits) if split == name]
        if not chosen:
            counts = Counter(self.splits)
            there = ", ".join(f"{split} ({count})" for split, count in sorted(counts.items()))
            near = difflib.get_close_matches(name, counts, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise BadDataset(f"{self.root} has no split {name!r}; it has {there}{hint}")
        return self.select(chosen)

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
        )


def build_index(
    source: Path | str,
    *,
    seed: int = 0,
    cache_dir: Path | None = None,
    max_bad_fraction: float = 0.01,
    check_classes: bool = True,
) -> Index:
    """Index a folder or a manifest (`layouts` says which shapes they may have).

    seed              decides the split of folders that have none
    cache_dir         where sizes are kept; ~/.cache/patchpack/index when None
    max_bad_fraction  share of unreadable files that is an error
    check_classes     whether each class must have images to train on

    Raises BadDataset when there is nothing to index, too much is unreadable, or a class that is
    evaluated is never trained on.
    """
    source = Path(source)
    root, files = list_files(source, seed)
    cache = _cache_path(root.resolve(), cache_dir)
    facts = _facts(root, files, cache)
    bad = [(file.key, facts[file.key][2]) for file in files if facts[file.key][2]]
    good = [file for file in files if not facts[file.key][2]]
    _check_bad(source, files, bad, max_bad_fraction)
    classes = tuple(sorted({file.label for file in files if file.label is not None}))
    if check_classes:
        _check_classes(source, good)
    number = {name: i for i, name in enumerate(classes)}
    names = sorted({name for file in good for name in file.columns})
    return Index(
        root=root,
        keys=tuple(file.key for file in good),
        heights=np.array([facts[file.key][0] for file in good], np.int32),
        widths=np.array([facts[file.key][1] for file in good], np.int32),
        labels=np.array([number.get(file.label or "", -1) for file in good], np.int64),
        splits=tuple(file.split for file in good),
        classes=classes,
        columns={name: tuple(file.columns.get(name, "") for file in good) for name in names},
        bad=tuple(bad),
    )


def _facts(root: Path, files: list[File], cache: Path) -> dict[str, Facts]:
    """Size of every file, from the cache where the file has not changed since."""
    known = _load_cache(cache)
    facts: dict[str, Facts] = {}
    stamps: dict[str, tuple[int, int]] = {}
    for file in files:
        path = f"{root}/{file.key}" if not os.path.isabs(file.key) else file.key
        try:
            stat = os.stat(path)
            stamps[file.key] = stat.st_mtime_ns, stat.st_size
        except OSError:
            stamps[file.key] = 0, 0
        stamp, fact = known.get(file.key, (None, None))
        if fact is None or stamp != stamps[file.key] or fact[2]:
            fact = _read_header(path)
        facts[file.key] = fact
    if {key: (stamps[key], facts[key]) for key in facts} != known:
        _save_cache(cache, stamps, facts)
    return facts


def _read_header(path: str) -> Facts:
    try:
        return (*read_size(path), "")
    except BadImage as error:
        return 0, 0, error.reason


def _check_bad(
    source: Path, files: list[File], bad: list[tuple[str, str]], max_fraction: float
) -> None:
    named = "; ".join(f"{key}: {reason}" for key, reason in bad[:10])
    if len(bad) > max_fraction * len(files):
        raise BadDataset(
            f"{source}: {len(bad)} of {len(files)} images cannot be read, more than "
            f"max_bad_fraction={max_fraction:g}: {named}"
        )
    total = Counter(file.label for file in files)
    spoiled = {key for key, _ in bad}
    lost = Counter(file.label for file in files if file.key in spoiled)
    for label, count in lost.items():
        if count == total[label]:
            raise BadDataset(f"{source}: no image of class {label!r} can be read: {named}")


def _check_classes(source: Path, files: list[File]) -> None:
    trained = {file.label for file in files if file.split == "train"}
    for file in files:
        if trained and file.label is not None and file.label not in trained:
            raise BadDataset(
                f"{source}: class {file.label!r} has images to evaluate ({file.key}) "
                "but none to train on"
            )


def _cache_path(root: Path, cache_dir: Path | None) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.blake2b(os.fsencode(root), digest_size=16).hexdigest()
    return (cache_dir or home / "patchpack" / "index") / f"{name}.npz"


def _load_cache(path: Path) -> dict[str, tuple[tuple[int, int], Facts]]:
    """What is known of files; nothing where the cache is absent, old or damaged."""
    try:
        with np.load(path, allow_pickle=False) as cache:
            if int(cache["version"]) != CACHE_VERSION:
                return {}
            keys = bytes(cache["keys"]).decode("utf-8", "surrogateescape").split("\0")
            reasons = bytes(cache["reasons"]).decode("utf-8", "surrogateescape").split("\0")
            numbers = cache["numbers"].tolist()
    except Exception:  # whatever is wrong with a cache, it can be made again
        return {}
    if not len(keys) == len(reasons) == len(numbers):
        return {}
    rows = zip(keys, reasons, numbers, strict=True)
    return {key: ((mtime, size), (h, w, why)) for key, why, (mtime, size, h, w) in rows}


def _save_cache(path: Path, stamps: dict[str, tuple[int, int]], facts: dict[str, Facts]) -> None:
    """Write the cache whole or not at all; a folder that cannot be written to goes without."""

    def blob(texts: list[str]) -> np.ndarray:
        return np.frombuffer("\0".join(texts).encode("utf-8", "surrogateescape"), np.uint8)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
            np.savez(
                file,
                version=CACHE_VERSION,
                keys=blob(list(facts)),
                reasons=blob([why for _, _, why in facts.values()]),
                numbers=np.array([(*stamps[key], h, w) for key, (h, w, _) in facts.items()]),
            )
        os.replace(file.name, path)
    except OSError:
        return
