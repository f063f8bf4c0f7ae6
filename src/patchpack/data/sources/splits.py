"""Assign splits to records: 80/10/10 within each class, by a hash of the seed and the key.

A hash keeps the split of a file when others are added. The key, as bytes, may be any file name:
it is encoded with "surrogatepass".
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from patchpack.data.records import Record


def assign_splits(records: list[Record], seed: int) -> list[Record]:
    """Assign a split to each record without one, 80/10/10 within each class, by hash.

    A class of three or more records has at least one in val and one in test. If the records are
    split into `train` and others but none is in `val`, a tenth of `train` moves to `val`.
    """
    records = _hold_out(records, seed)
    groups: dict[str | None, list[Record]] = defaultdict(list)
    for record in records:
        if not record.split:
            groups[record.label].append(record)
    splits: dict[str, str] = {}
    for group in groups.values():
        group.sort(key=lambda record: _hash_key(seed, record.key))
        count = max(1, round(len(group) / 10)) if len(group) >= 3 else 0
        for index, record in enumerate(group):
            splits[record.key] = (
                "val" if index < count else "test" if index < 2 * count else "train"
            )
    return [replace(record, split=record.split or splits[record.key]) for record in records]


def _hold_out(records: list[Record], seed: int) -> list[Record]:
    """Move a tenth of each class from `train` to `val` if there is no `val`.

    Records with the same value in a column `group` stay together.
    """
    present = {record.split for record in records}
    if "train" not in present or present & {"val", ""}:
        return records
    groups: dict[str | None, set[str]] = defaultdict(set)
    for record in records:
        if record.split == "train":
            groups[record.label].add(_group(record))
    held_out: set[str] = set()
    for group in groups.values():
        order = sorted(group, key=lambda name: _hash_key(seed, name))
        held_out |= set(order[: max(1, round(len(order) / 10))]) if len(order) >= 3 else set()
    return [
        replace(record, split="val", held_out=True)
        if record.split == "train" and _group(record) in held_out
        else record
        for record in records
    ]


def _group(record: Record) -> str:
    return record.columns.get("group") or record.key


def split_by_hash(keys: Sequence[str], seed: int = 0) -> dict[str, list[int]]:
    """Return the indices of each split of keys, 80/10/10, by a hash of the seed and the key."""
    order = sorted(range(len(keys)), key=lambda index: _hash_key(seed, keys[index]))
    count = max(1, round(len(keys) / 10)) if len(keys) >= 3 else 0
    return {
        "val": sorted(order[:count]),
        "test": sorted(order[count : 2 * count]),
        "train": sorted(order[2 * count :]),
    }


def _hash_key(seed: int, key: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()
