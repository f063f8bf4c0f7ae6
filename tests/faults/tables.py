"""Hostile manifests from a seed, and the right answer to each: an independent reading.

A manifest is typeset from known rows in the ways that people and spreadsheets have (whole), or is
damaged as any file is; then a small reading with `csv` or `json` decides.
"""

import csv
import io
import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from faults.mutate import DAMAGES, any_of
from faults.verdicts import Outcome, Verdict, of_error
from patchpack.data.index import Index, build_index

Row = tuple[str, str, str]  # path, label, split
LABELS = (
    "cat",
    "dog",
    "a long name",
    "Füchse",
    "0",
    "none",
    "Null Island",
    "True",
    "a;b",
    'x"y',
    "0.10",
)
DIRECTORIES = ("", "images/", "a folder/", "ü/")
SIZE = (8, 10)  # height, width of every image, px


@dataclass(frozen=True)
class HostileTable:
    """A file, how it was made, and its right reading; whole: refusing it is wrong."""

    name: str
    file: str
    data: bytes
    rows: tuple[Row, ...] | None  # None: `plain_reading` decides
    whole: bool


def hostile_table(seed: int) -> HostileTable:
    """The file of a seed: half are typeset in an odd way, the others damaged."""
    rng = np.random.default_rng([3, seed])
    rows = _rows(rng)
    name, file, data = (_csv if rng.random() < 0.7 else _jsonl)(rows, rng)
    if rng.random() < 0.5:
        return HostileTable(name, file, data, rows, True)
    for _ in range(int(rng.integers(1, 3))):
        mutation = any_of(DAMAGES, rng)
        data = mutation(data, rng) if data else data
        name += f", {mutation.__name__}"
    return HostileTable(name, file, data, None, False)


def _rows(rng: np.random.Generator) -> tuple[Row, ...]:
    """Four images of each of two or three labels, three in train and one in val."""
    labels = rng.choice(len(LABELS), int(rng.integers(2, 4)), replace=False)
    keys = [f"{any_of(DIRECTORIES, rng)}{number:03d}.png" for number in range(4 * len(labels))]
    return tuple(
        (key, LABELS[labels[number // 4]], "val" if number % 4 == 3 else "train")
        for number, key in enumerate(keys)
    )


def _csv(rows: tuple[Row, ...], rng: np.random.Generator) -> tuple[str, str, bytes]:
    """Rows as a spreadsheet, a script or a person writes them."""
    odd = {name for name in ODDITIES if rng.random() < 0.2}
    delimiter = ";" if odd & {"semicolons", "sep="} else "\t" if "tabs" in odd else ","
    header, cells = ["path", "label", "split"], [list(row) for row in rows]
    if "header in capitals" in odd:
        header = [name.capitalize() for name in header]
    if "splits in capitals" in odd:
        cells = [[path, label, split.upper()] for path, label, split in cells]
    if "synonyms" in odd:
        cells = [[p, label, {"val": "validation", "train": "training"}.get(s.lower(), s)]
                 for p, label, s in cells]  # fmt: skip
    if "spaces" in odd:
        header, *cells = ([f" {cell} " for cell in row] for row in [header, *cells])
    if "backslashes" in odd:
        cells = [[row[0].replace("/", "\\"), *row[1:]] for row in cells]
    if "./" in odd:
        cells = [[f"./{row[0].strip()}", *row[1:]] for row in cells]
    if "another order" in odd:
        header, *cells = ([row[2], row[0], row[1]] for row in [header, *cells])
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if "all quoted" in odd else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting,
                        lineterminator="\n" if "LF" in odd else "\r\n")  # fmt: skip
    if "sep=" in odd:
        text.write("sep=;\r\n")
    writer.writerows([header, *cells])
    if "rows of commas" in odd:
        writer.writerows([[""] * len(header)] * 3)
    if "empty lines" in odd:
        text.write("\n\n")
    data = text.getvalue()
    encoding = "utf-8-sig" if "BOM" in odd else "utf-16" if "UTF-16" in odd else "utf-8"
    return f"CSV, {', '.join(sorted(odd)) or 'plain'}", "table.csv", data.encode(encoding)


ODDITIES = (
    "semicolons", "sep=", "tabs", "header in capitals", "splits in capitals", "synonyms", "spaces",
    "backslashes", "./", "another order", "all quoted", "LF", "rows of commas", "empty lines",
    "BOM", "UTF-16",
)  # fmt: skip


def _jsonl(rows: tuple[Row, ...], rng: np.random.Generator) -> tuple[str, str, bytes]:
    odd = {name for name in ("escaped", "BOM", "empty lines", "CRLF", "spaces", "more fields")
           if rng.random() < 0.3}  # fmt: skip
    lines = []
    for path, label, split in rows:
        row: dict[str, object] = {"path": path, "label": label, "split": split}
        if "spaces" in odd:
            row = {key: f" {value} " for key, value in row.items()}
        if "more fields" in odd:
            row |= {"weight": 0.5, "nothing": None, "list": [1, {"a": 2}]}
        lines.append(json.dumps(row, ensure_ascii="escaped" in odd))
    text = ("\r\n" if "CRLF" in odd else "\n").join(lines)
    text += "\n\n \n" if "empty lines" in odd else ""
    data = text.encode("utf-8-sig" if "BOM" in odd else "utf-8")
    return f"JSON lines, {', '.join(sorted(odd)) or 'plain'}", "table.jsonl", data


def plain_reading(file: str, data: bytes) -> tuple[Row, ...] | None:
    """The rows of a file by the standard library alone; None if it is not readable so."""
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        if file.endswith(".jsonl"):
            items = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            lines = text.splitlines(keepends=True)
            if lines and lines[0].startswith("sep="):
                lines = lines[1:]
            delimiter = max(",;\t", key=lines[0].count) if lines else ","
            items = list(csv.DictReader(lines, delimiter=delimiter))
        rows = [
            {str(name).strip().lower(): str(cell or "").strip() for name, cell in item.items()}
            for item in items
        ]
    except (ValueError, csv.Error, AttributeError):
        return None
    found = tuple(
        (row.get("path", "").replace("\\", "/"), row.get("label", ""), row.get("split", ""))
        for row in rows
        if any(row.values())
    )
    return found or None


def check_table(seed: int, folder: Path, _: Path) -> Outcome:
    """Index the manifest of a seed, whose images exist, and compare its rows."""
    hostile = hostile_table(seed)
    root = folder / "tables"
    _write_images(root)
    for path in root.glob("table.*"):
        path.unlink()
    path = root / hostile.file
    path.write_bytes(hostile.data)
    try:
        index = build_index(path, cache_dir=folder / "cache")
    except Exception as error:
        verdict, detail = of_error(error, (str(path), path.name))
        if verdict == Verdict.REFUSED and hostile.whole:
            return Outcome(hostile.name, Verdict.UNCLEAR, f"a whole file is refused: {detail}")
        return Outcome(hostile.name, verdict, detail)
    rows = hostile.rows or plain_reading(hostile.file, hostile.data)
    return Outcome(hostile.name, *_compare(index, rows))


def _compare(index: Index, rows: tuple[Row, ...] | None) -> tuple[Verdict, str]:
    if rows is None:
        return Verdict.SILENT, f"{len(index)} rows, where there is no reading"
    labels = [(*index.classes, "")[number] for number in index.labels]
    read = sorted(zip(index.keys, labels, strict=True))
    splits = {split_of(split) for _, _, split in rows}
    held_out = not splits & {"val", ""}  # some of train may move to val
    classes = {label for _, label, split in rows}
    if splits & {"train", ""}:  # classes are those of the training split
        classes = {label for _, label, split in rows if split_of(split) in ("train", "")}
    expected = sorted(
        (path.removeprefix("./"), label if label in classes else "") for path, label, _ in rows
    )
    if _folded(read) != _folded(expected):
        differ = sorted(set(read) ^ set(expected))[:4]
        return Verdict.SILENT, f"{len(read)} rows for {len(expected)}; {differ}"
    read_splits = dict(zip(index.keys, index.splits, strict=True))
    wrong = [
        path
        for path, _, split in rows
        if split
        and not (held_out and split_of(split) == "train")
        and read_splits.get(path.removeprefix("./"), split_of(split)) != split_of(split)
    ]
    return (Verdict.SILENT, f"splits of {wrong[:4]}") if wrong else (Verdict.RIGHT, "")


def _folded(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Rows whose paths are compared without case, as some file systems do."""
    return sorted((path.casefold(), label) for path, label in rows)


SPLITS = {
    "training": "train", "train": "train", "validation": "val", "valid": "val", "val": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip


def split_of(name: str) -> str:
    return SPLITS.get(name.lower(), name)


@cache
def _write_images(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    for directory in DIRECTORIES:
        (root / directory).mkdir(parents=True, exist_ok=True)
        for number in range(16):
            Image.new("RGB", SIZE[::-1]).save(root / directory / f"{number:03d}.png")
