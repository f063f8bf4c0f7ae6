"""The items that a run trains and evaluates on: whether they are still those of its start.

Of each item: its key, a digest of its size, label and annotations, and a digest of the contents of
its files. A run keeps them in items.safetensors, so that changed files can be named; a hash of them
in every checkpoint decides.

Axes: item.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt64
from safetensors.numpy import load_file, save_file

from patchpack.data.contents import content_digests
from patchpack.data.index import Index

FILE = "items.safetensors"
NAMED = 5  # maximum items listed per kind of change


@dataclass(frozen=True, eq=False)
class Items:
    """The items of one split."""

    keys: tuple[str, ...]
    facts: UInt64[np.ndarray, " item"]  # digests of size, label and annotations
    contents: UInt64[np.ndarray, " item"]  # digests of files, see `data.contents`
    fingerprint: str  # of the index

    @property
    def hash(self) -> str:
        """A hash of everything, as text."""
        digest = hashlib.sha256(self.fingerprint.encode())
        digest.update("\0".join(self.keys).encode("utf-8", "surrogatepass"))
        digest.update(self.facts.astype("<u8").tobytes() + self.contents.astype("<u8").tobytes())
        return digest.hexdigest()


def fingerprint(index: Index) -> str:
    """A hash of the items, their sizes, labels and annotations."""
    digest = hashlib.sha256("\0".join(index.keys).encode("utf-8", "surrogatepass"))
    for array in (index.heights, index.widths, index.labels):
        digest.update(array.astype("<i8").tobytes())
    if index.clips is not None:
        for array in (index.clips.lengths, index.clips.rates):
            digest.update(array.astype("<f8").tobytes())
    for annotation in index.annotations.values():
        annotation.digest(digest)
    return digest.hexdigest()


def items_of(index: Index) -> Items:
    """Read the items of a split, and the contents of their files."""
    facts = np.array([_facts(index, row) for row in range(len(index))], np.uint64)
    return Items(index.keys, facts, content_digests(index), fingerprint(index))


def _facts(index: Index, row: int) -> int:
    numbers = [int(index.heights[row]), int(index.widths[row])]
    if index.clips is not None:
        numbers += [int(index.clips.lengths[row]), float(index.clips.rates[row])]
    label = int(index.labels[row])
    name = index.classes[label] if 0 <= label < len(index.classes) else ""
    digest = hashlib.blake2b(repr((numbers, label, name)).encode(), digest_size=8)
    for annotation in index.annotations.values():
        annotation.select(np.array([row])).digest(digest)
    return int.from_bytes(digest.digest(), "little")


def write_items(folder: Path, splits: Mapping[str, Items]) -> None:
    """Write items.safetensors, the items of each split."""
    arrays = {}
    for split, items in splits.items():
        keys = "\0".join(items.keys).encode("utf-8", "surrogatepass")
        arrays[f"{split}.keys"] = np.frombuffer(keys, np.uint8)
        arrays[f"{split}.facts"] = items.facts
        arrays[f"{split}.contents"] = items.contents
    save_file(arrays, folder / FILE)


def read_items(folder: Path, split: str) -> Items | None:
    """Read the items of a split as a run began with them; None if the file is lost or damaged."""
    path = folder / FILE
    try:
        if not path.is_file():
            return None
        arrays = load_file(path)
        keys = bytes(arrays[f"{split}.keys"]).decode("utf-8", "surrogatepass").split("\0")
        facts, contents = arrays[f"{split}.facts"], arrays[f"{split}.contents"]
    except Exception:  # of a damaged file; the hash in the checkpoint decides without it
        return None
    if not len(keys) == len(facts) == len(contents):
        return None
    return Items(tuple(keys), facts, contents, "")


def changes(before: Items, after: Items) -> str:
    """Name the items that were added, removed or changed; empty if only their order changed."""
    old = dict(zip(before.keys, zip(before.facts, before.contents, strict=True), strict=True))
    new = dict(zip(after.keys, zip(after.facts, after.contents, strict=True), strict=True))
    both = [key for key in after.keys if key in old]
    kinds = {
        "added": [key for key in after.keys if key not in old],
        "removed": [key for key in before.keys if key not in new],
        "with another size, label or annotation": [k for k in both if old[k][0] != new[k][0]],
        "with other contents": [
            k for k in both if old[k][0] == new[k][0] and old[k][1] != new[k][1]
        ],
    }
    return "; ".join(f"{len(keys):,} {kind}: {_list(keys)}" for kind, keys in kinds.items() if keys)


def _list(keys: Sequence[str]) -> str:
    more = ", …" if len(keys) > NAMED else ""
    return ", ".join(keys[:NAMED]) + more
