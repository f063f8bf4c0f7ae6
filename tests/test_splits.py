"""Splits: by hash, within classes, with groups whole, and how they are described."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchpack.data.index import build_index
from patchpack.data.records import CLIPS, Record
from patchpack.data.sources.splits import assign_splits, split_by_hash

GROUPED = "by hash of the file names; groups kept together"


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def rows(sizes: Sequence[int], labels: str = "ab", split: str = "") -> list[Record]:
    """A group of each size; all of a group have one class."""
    return [
        Record(
            key=f"{group}_{n}",
            label=labels[group % len(labels)] if labels else None,
            split=split,
            columns={"group": f"p{group}"},
        )
        for group, size in enumerate(sizes)
        for n in range(size)
    ]


def splits_of(records: Sequence[Record]) -> dict[str, set[str]]:
    of_group: dict[str, set[str]] = defaultdict(set)
    for record in records:
        of_group[record.columns["group"]].add(record.split)
    return of_group


def shares(records: Sequence[Record]) -> dict[str, float]:
    counts = Counter(record.split for record in records)
    return {split: counts[split] / len(records) for split in ("train", "val", "test")}


UNEVEN = [1 + (n * n * 7) % 23 for n in range(90)]


@pytest.mark.parametrize("labels", ["", "a", "ab", "abcde"])
@pytest.mark.parametrize("sizes", [[5] * 20, [1] * 100, UNEVEN, [30, *[2] * 60]])
def test_groups_stay_whole_and_shares_are_near(sizes: list[int], labels: str) -> None:
    for seed in (0, 1, -1, 2**63):
        records, rule, notes = assign_splits(rows(sizes, labels), seed, "given")
        assert all(len(splits) == 1 for splits in splits_of(records).values())
        if len(sizes) >= 10 * max(1, len(labels)):  # fewer groups cannot come nearer
            for split, share in shares(records).items():
                assert share == pytest.approx(0.8 if split == "train" else 0.1, abs=0.05)
        for label in {record.label for record in records}:
            present = {record.split for record in records if record.label == label}
            assert present == {"train", "val", "test"}
        assert rule == f"{GROUPED} ({len(sizes)} groups)" and notes == ()


def test_groups_of_several_classes() -> None:
    """Patients with images of both classes, and a class of two patients, which stays in train."""
    records = [
        Record(key=f"{patient}_{n}", label="sick" if (patient + n) % 3 else "well",
               columns={"group": str(patient)})
        for patient in range(60) for n in range(patient % 6 + 1)
    ]  # fmt: skip
    records += [Record(key=f"rare{n}", label="rare", columns={"group": str(n)}) for n in range(2)]
    assigned = assign_splits(records, 0, "").records
    assert all(len(splits) == 1 for splits in splits_of(assigned).values())
    assert shares(assigned)["val"] == pytest.approx(0.1, abs=0.04)
    assert {r.split for r in assigned if r.label == "rare"} == {"train"}
    for label in ("sick", "well"):
        assert {r.split for r in assigned if r.label == label} == {"train", "val", "test"}


@pytest.mark.parametrize("sizes", [[1, 1, 98], [50, 25, 25], [40, 40, 20], [1, 1, 1], [98, 1, 1]])
def test_three_groups_are_one_for_each_split_the_largest_for_training(sizes: list[int]) -> None:
    for seed in range(5):
        records = assign_splits(rows(sizes, "a"), seed, "").records
        counts = Counter(record.split for record in records)
        assert set(counts) == {"train", "val", "test"} and counts["train"] >= max(sizes) // 2
        if sizes.count(max(sizes)) == 1:
            assert counts["train"] == max(sizes)


def test_groups_move_little_when_files_are_added() -> None:
    before = splits_of(assign_splits(rows([4] * 100), 0, "").records)
    more = [*rows([4] * 100), *(Record(key=f"n{n}", label="a", columns={"group": f"n{n // 4}"})
                                for n in range(12))]  # fmt: skip
    after = splits_of(assign_splits(more, 0, "").records)
    assert sum(before[group] != after[group] for group in before) <= 3
    shuffled = splits_of(assign_splits(rows([4] * 100)[::-1], 0, "").records)
    assert shuffled == before  # the order of the rows does not count


def test_a_held_out_val_takes_whole_groups_near_a_tenth() -> None:
    records, rule, _ = assign_splits(
        [*rows(UNEVEN, "ab", "train"), Record(key="t", split="test")], 0, "by the column split"
    )
    val = [record for record in records if record.split == "val"]
    assert all(record.held_out for record in val)
    assert all(len(of) == 1 for of in splits_of(records[:-1]).values())
    assert len(val) / len(records) == pytest.approx(0.1, abs=0.02)
    assert rule == (
        "by the column split; val held out from train by hash of the file names; groups kept "
        f"together ({len(UNEVEN)} groups)"
    )


def test_rows_without_a_split_follow_their_group() -> None:
    records = rows([4] * 30)
    given = {"p0": "test", "p1": "val", "p2": "train"}
    records = [
        Record(key=r.key, label=r.label, columns=r.columns,
               split=given.get(r.columns["group"], "") if r.key.endswith("_0") else "")
        for r in records
    ]  # fmt: skip
    assigned, rule, notes = assign_splits(records, 0, "by the column split")
    of_group = splits_of(assigned)
    assert {group: of_group[group] for group in given} == {g: {s} for g, s in given.items()}
    assert all(len(splits) == 1 for splits in of_group.values()) and notes == ()
    assert rule.startswith("by the column split; 108 without a split by hash of the file names; gr")


def test_a_group_that_the_manifest_itself_tears_is_named() -> None:
    records = [
        Record(key=f"{n}", split="train" if n % 2 else "test", columns={"group": f"p{n // 2}"})
        for n in range(14)
    ]
    _, _, (note,) = assign_splits(records, 0, "by the column split")
    assert note.startswith(
        "7 groups are in more than one split of the source: p0 (test, train); p1"
    )
    assert note.endswith("and 2 more")
    held_out = assign_splits(records, 0, "").records  # such a group is not torn further
    assert all(not record.held_out for record in held_out)


def test_split_by_hash_of_groups() -> None:
    keys = [f"{n}" for n in range(60)]
    groups = [f"p{n // 4}" if n < 40 else "" for n in range(60)]
    splits = split_by_hash(keys, groups)
    where = {row: split for split, of in splits.items() for row in of}
    assert sorted(where) == list(range(60)) and {len(splits[s]) for s in ("val", "test")} <= {
        5,
        6,
        7,
    }
    for group in range(10):
        assert len({where[row] for row in range(4 * group, 4 * group + 4)}) == 1


# --- through the index


def write(folder: Path, rows: Sequence[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for row in rows[1:]:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / row.split(",")[0])
    (folder / "m.csv").write_text("\n".join(rows))
    return folder / "m.csv"


@pytest.mark.parametrize("column", ["label", "caption", "mask", "weight"])
def test_groups_of_a_manifest_of_any_task(tmp_path: Path, column: str) -> None:
    table = [f"path,{column},group"]
    table += [f"{n}.ppm,{'ab'[n // 5 % 2]}, p{n // 5} " for n in range(100)]
    index = build_index(write(tmp_path / "d", table), require_labels=column == "label")
    where = defaultdict(set)
    for split, group in zip(index.splits, index.columns["group"], strict=True):
        where[group].add(split)
    assert len(where) == 20 and all(len(splits) == 1 for splits in where.values())
    assert index.messages[0] == f"split: 80 train, 10 val, 10 test {GROUPED} (20 groups)"


def test_groups_of_clips(tmp_path: Path) -> None:
    for n in range(30):
        folder = tmp_path / "d" / f"clip{n}"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "1.ppm")
    rows = [f"clip{n},{'ab'[n % 2]},p{n // 3}" for n in range(30)]
    (tmp_path / "d" / "m.csv").write_text("\n".join(["path,label,group", *rows]))
    index = build_index(tmp_path / "d" / "m.csv", media_type=CLIPS)
    pairs = set(zip(index.columns["group"], index.splits, strict=True))
    assert len(pairs) == 10 and len({split for _, split in pairs}) == 3


def test_groups_where_every_row_has_the_split_all(tmp_path: Path) -> None:
    table = ["path,split,group", *(f"{n}.ppm,all,p{n // 5}" for n in range(50))]
    index = build_index(write(tmp_path / "d", table))
    groups = {split: set(index.split(split).columns["group"]) for split in ("train", "val", "test")}
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 10
    assert index.messages == ("split: 40 train, 5 val, 5 test by hash of the file names",)


def test_how_a_dataset_was_split(tmp_path: Path) -> None:
    for split, count in [("train", 20), ("test", 3), ("extra", 2)]:
        folder = tmp_path / "d" / split / "cat"
        folder.mkdir(parents=True)
        for n in range(count):
            Image.new("RGB", (8, 8)).save(folder / f"{n}.ppm")
    assert build_index(tmp_path / "d").messages[0] == (
        "split: 18 train, 2 val, 3 test by the folders; val held out from train by hash of the "
        "file names; not train, val or test: extra (2)"
    )
    table = ["path,label,split", "1.ppm,a,train", "2.ppm,a,val", "3.ppm,a,trian"]
    assert build_index(write(tmp_path / "m", table)).messages == (
        "split: 1 train, 1 val by the column split; not train, val or test: trian (1)",
    )


def test_groups_that_may_be_one_are_named() -> None:
    names = ["p1", "P1", "7", "7.0", "07", "8", "x y", "x  Y"]
    records = [Record(key=str(n), columns={"group": name}) for n, name in enumerate(names)]
    assert assign_splits(records, 0, "by the folders").notes == (
        "groups that differ only in case, spaces or the writing of a number: '07' and '7' and "
        "'7.0'; 'P1' and 'p1'; 'x  Y' and 'x y'; they are split as different groups",
    )
