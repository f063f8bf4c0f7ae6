"""Read manifests: .csv and .jsonl files with a row for each image or clip.

The column `path` is required, relative to the manifest; `split` and `label` are optional. All other
columns are kept with the record.
"""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from patchpack.data.records import BadDataset, MediaType, Record, split_name

MANIFESTS = (".csv", ".jsonl")


def read_manifest(path: Path, media_type: MediaType) -> list[Record]:
    """Return a manifest's records; a repeated path gives a record with an error.

    Raises BadDataset for a damaged or empty manifest.
    """
    records: list[Record] = []
    lines: dict[str, int] = {}  # line of each file's first row
    for number, row in _rows(path):
        if not row.get("path"):
            names = ", ".join(row) or "nothing"
            raise BadDataset(f"{path}, line {number}: there is no `path` (there is {names})")
        key = os.path.normpath(row.pop("path"))
        file = os.path.normpath(path.parent / key)
        if file in lines:
            error = f"is on line {lines[file]} already"
            records.append(Record(key=f"{key} (line {number})", error=error))
            continue
        lines[file] = number
        split = row.pop("split", "")
        label = row.pop("label", "") or None
        records.append(Record(key=key, split=split_name(split), label=label, columns=row))
    if not records:
        raise BadDataset(f"{path} is empty: {media_type.expected}")
    return records


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the cells of each row."""
    read = _csv_rows if path.suffix.lower() == ".csv" else _json_rows
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from read(path, file)
    except UnicodeDecodeError as error:
        raise BadDataset(f"{path} is not UTF-8 text: {error}") from error


def _csv_rows(path: Path, file: TextIO) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(file)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise BadDataset(
                    f"{path}, line {reader.line_num}: not as many cells as there are column names"
                )
            yield reader.line_num, {str(name): str(cell) for name, cell in row.items()}
    except csv.Error as error:
        raise BadDataset(f"{path}, line {reader.reader.line_num}: not CSV ({error})") from error


def _json_rows(path: Path, file: TextIO) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield rows of JSON lines; values other than strings stay JSON, and null becomes ""."""
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadDataset(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise BadDataset(f"{path}, line {number}: not a JSON object")
        yield number, {name: _cell(value) for name, value in row.items()}


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
