"""Assign splits to records: 80/10/10 within each class, by a hash of the seed and the key.

A hash keeps the split of a file when others are added. The key, as bytes, may be any file name:
it is encoded with "surrogatepass".

Records with the same value in the column `group` (a patient, a place, a series) get the same split:
whatever is assigned here is assigned to whole groups. A record without a group is one of its own.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from patchpack.data.records import Record, alike

GROUP = "group"  # column of a manifest
NAMED = 5  # maximum groups listed in a message


class Assigned(NamedTuple):
    """Records with their splits, and how these were chosen."""

    records: list[Record]
    rule: str  # "by hash of the file names; groups kept together (20 groups)"
    notes: tuple[str, ...]  # groups that the source itself puts into several splits


def assign_splits(records: list[Record], seed: int, given: str) -> Assigned:
    """Assign a split to each record without one, 80/10/10 within each class, by hash.

    given  where the source has its splits, "by the folders"

    A record whose group has a split gets that split. A class of three or more groups has at least
    one in val and one in test. If the records are split into `train` and others but none is in
    `val`, a tenth of `train` moves to `val`.
    """
    of_group: dict[str, Counter[str]] = defaultdict(Counter)  # records by group and given split
    for record in records:
        if record.split and record.columns.get(GROUP):
            of_group[record.columns[GROUP]][record.split] += 1
    following = {group: splits.most_common(1)[0][0] for group, splits in of_group.items()}
    present = {record.split for record in records}
    holds_out = "train" in present and not present & {"val", ""}
    if holds_out:
        loose = [r for r in records if r.split == "train" and len(of_group[_group(r)]) < 2]
    else:
        loose = [r for r in records if not r.split and _group(r) not in following]
    parts = _parts([(_group(r), r.label) for r in loose], seed, ("val",) if holds_out else PARTS)
    of_key = {record.key: part for record, part in zip(loose, parts, strict=True)}

    def with_split(record: Record) -> Record:
        split = of_key.get(record.key) or record.split or following[_group(record)]
        if split == record.split:
            return record
        return replace(record, split=split, held_out=holds_out)

    rule = _rule(records, len(loose), given, holds_out)
    notes = _notes(of_group) + _spellings(records)
    return Assigned([with_split(record) for record in records], rule, notes)


PARTS = ("val", "test")  # parts that are filled by hash; the rest is train


def split_by_hash(
    keys: Sequence[str], groups: Sequence[str] | None = None, seed: int = 0
) -> dict[str, list[int]]:
    """Return the indices of each split of keys, 80/10/10, by a hash of the seed and the key.

    groups  group of each key, which stays in one split; "" or None: each key for itself
    """
    names = [group or key for key, group in zip(keys, groups or keys, strict=True)]
    splits: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for number, part in enumerate(_parts([(name, None) for name in names], seed, PARTS)):
        splits[part].append(number)
    return splits


class _Group(NamedTuple):
    name: str
    counts: Mapping[str | None, int]  # records by class


def _parts(items: Sequence[tuple[str, str | None]], seed: int, parts: Sequence[str]) -> list[str]:
    """Return the part of each (group, class): one of `parts`, or train.

    Each part takes about a tenth of each class, in the order of the groups' hashes.
    """
    counts: dict[str, dict[str | None, int]] = {}  # a Counter each would take half of the time
    for group, label in items:
        of_group = counts.setdefault(group, {})
        of_group[label] = of_group.get(label, 0) + 1
    groups = [_Group(name, counts[name]) for name in sorted(counts, key=lambda n: _hash(seed, n))]
    of_class: dict[str | None, list[_Group]] = defaultdict(list)
    for group in groups:
        for label in group.counts:
            of_class[label].append(group)
    filling = _Filling(of_class)
    # Classes of few groups first: the groups of the others leave a choice.
    labels = sorted(of_class, key=lambda label: (len(of_class[label]), label or ""))
    for number, part in enumerate(parts):
        filling.begin(part, reserve=len(parts) - number)
        for label in labels:
            filling.fill(label)
    return [filling.part_of.get(group, "train") for group, _ in items]


class _Filling:
    """Fills parts with groups, one part after the other; what remains is train."""

    def __init__(self, of_class: Mapping[str | None, Sequence[_Group]]) -> None:
        self.of_class = of_class
        self.part_of: dict[str, str] = {}  # of the groups that are taken
        self.free = {label: len(groups) for label, groups in of_class.items()}
        totals = {label: sum(g.counts[label] for g in of_class[label]) for label in of_class}
        # A class of one or two groups stays in train.
        self.quota = {
            label: max(1, round(totals[label] / 10)) if self.free[label] > 2 else 0
            for label in of_class
        }

    def begin(self, part: str, reserve: int) -> None:
        """Fill a part next; leave `reserve` groups of each class for others."""
        self.part, self.reserve = part, reserve
        self.have: Counter[str | None] = Counter()

    def fill(self, label: str | None) -> None:
        """Take groups of a class as long as they bring the part nearer to its share."""
        if not self.quota[label]:
            return
        for group in self.of_class[label]:
            if self.have[label] >= self.quota[label]:
                return
            if self._may_take(group) and self._surplus(group) < 0:
                self._take(group)
        if not self.have[label]:  # every group is at least twice the share
            free = [group for group in self.of_class[label] if self._may_take(group)]
            if free:
                self._take(min(free, key=self._surplus))

    def _may_take(self, group: _Group) -> bool:
        """Return whether enough groups of each class of the group would be left."""
        return group.name not in self.part_of and all(
            self.quota[label] and self.free[label] > self.reserve for label in group.counts
        )

    def _surplus(self, group: _Group) -> int:
        """Return how much farther the part is from its share of each class with this group."""
        return sum(
            abs(self.have[label] + count - self.quota[label])
            - abs(self.have[label] - self.quota[label])
            for label, count in group.counts.items()
        )

    def _take(self, group: _Group) -> None:
        self.part_of[group.name] = self.part
        for label, count in group.counts.items():
            self.have[label] += count
            self.free[label] -= 1


def _rule(records: Sequence[Record], assigned: int, given: str, holds_out: bool) -> str:
    """Describe how the splits were chosen."""
    groups = {group for record in records if (group := record.columns.get(GROUP))}
    by_hash = "by hash of the file names"
    if holds_out:
        text = f"{given}; val held out from train {by_hash}"
    elif all(record.split for record in records):
        return given
    elif any(record.split for record in records):
        text = f"{given}; {assigned:,} without a split {by_hash}"
    else:
        text = by_hash
    return f"{text}; groups kept together ({len(groups):,} groups)" if groups else text


def _notes(of_group: Mapping[str, Counter[str]]) -> tuple[str, ...]:
    """Name the groups that the source itself puts into several splits."""
    torn = sorted(group for group, splits in of_group.items() if len(splits) > 1)
    if not torn:
        return ()
    names = [f"{group} ({', '.join(sorted(of_group[group]))})" for group in torn[:NAMED]]
    more = f"; and {len(torn) - NAMED:,} more" if len(torn) > NAMED else ""
    noun = "group is" if len(torn) == 1 else "groups are"
    return (f"{len(torn):,} {noun} in more than one split of the source: {'; '.join(names)}{more}",)


def _spellings(records: Sequence[Record]) -> tuple[str, ...]:
    """Name the groups that may be one."""
    twins = alike({group for record in records if (group := record.columns.get(GROUP))})
    if not twins:
        return ()
    names = "; ".join(" and ".join(map(repr, names)) for names in twins[:NAMED])
    more = f"; and {len(twins) - NAMED:,} more" if len(twins) > NAMED else ""
    return (
        "groups that differ only in case, spaces or the writing of a number: "
        f"{names}{more}; they are split as different groups",
    )


def _group(record: Record) -> str:
    return record.columns.get(GROUP) or record.key


def _hash(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{name}".encode("utf-8", "surrogatepass")).digest()
