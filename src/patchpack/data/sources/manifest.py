"""Read manifests: .csv, .tsv and .jsonl files with a row for each image or clip.

The column `path` is required, relative to the manifest; `split` and `label` are optional. All other
columns are kept with the record. Spaces around cells and names of columns do not count, nor does
the case of the names below. What has no single meaning is refused, with its line.
"""

import csv
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from patchpack.data.records import BadDataset, MediaType, Record, split_name
from patchpack.data.sources.file_paths import FilePaths
from patchpack.data.text_files import NotText, clean, encoding_of, not_text

MANIFESTS = (".csv", ".tsv", ".jsonl")
DELIMITERS = ",;\t|"  # the first that gives a column `path` is taken
FILE_COLUMNS = ("path", "mask")  # paths, relative to the manifest
PLAIN_COLUMNS = ("path", "split", "label", "group", "mask")  # hold one text or number
COLUMNS = {*PLAIN_COLUMNS, "caption", "captions", "text", "objects", "height", "width"}
# What programs and spreadsheets write where there is no value.
NO_VALUES = {
    "nan", "null", "n/a", "<na>", "nat", "#n/a", "#ref!", "#value!", "#name?", "#div/0!",
    "#null!", "#num!",
}  # fmt: skip
NO_VALUES_AS_WRITTEN = {"None", "NA", "\\N"}  # of Python, R, MySQL; `none` is a class
LIST = re.compile(r"[\[{](.*[,'\":].*)?[\]}]", re.DOTALL)  # a list or object, but not [other]
SUSPECT = frozenset("nN#<\\[{")  # first characters of these; others need no further look
Row = dict[str, str]


def read_manifest(path: Path, media_type: MediaType) -> list[Record]:
    """Return a manifest's records; a repeated path gives a record with an error.

    Raises BadDataset for a damaged or empty manifest.
    """
    records: list[Record] = []
    seen: dict[str, str] = {}  # position of each file's first row
    files = FilePaths(path.parent)
    for position, row in _rows(path):
        where = f"{path}, {position}"
        if not row.get("path"):
            names = ", ".join(row) or "nothing"
            hint = "" if "path" in row else "; the first line must name the columns"
            raise BadDataset(f"{where}: there is no `path` (there is {names}){hint}")
        for name in FILE_COLUMNS:
            if row.get(name):
                try:
                    row[name] = files.resolve(row[name])
                except ValueError as error:
                    raise BadDataset(f"{where}: {error}") from error
        row = {n: cell if n in FILE_COLUMNS else clean(cell) for n, cell in row.items()}
        key = row.pop("path")
        file = os.path.normpath(path.parent / key)
        if file in seen:
            error = f"is on {seen[file]} already"
            records.append(Record(key=f"{key} ({position})", error=error))
            continue
        seen[file] = position
        split, label = row.pop("split", ""), row.pop("label", "") or None
        records.append(Record(key=key, split=split_name(split), label=label, columns=row))
    if not records:
        raise BadDataset(f"{path} is empty: {media_type.expected}")
    return records


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield the position ("line 2") and the cells of each row that is not blank."""
    read = _json_rows if path.suffix.lower() == ".jsonl" else _csv_rows
    try:
        with path.open(newline="", encoding=encoding_of(path)) as file:
            for position, row in read(path, _without_nul(file, path)):
                _check_cells(row, f"{path}, {position}")
                yield position, row
    except UnicodeError as error:
        raise BadDataset(str(not_text(path))) from error
    except NotText as error:
        raise BadDataset(str(error)) from error


def _without_nul(file: TextIO, path: Path) -> Iterator[str]:
    for line in file:
        if "\0" in line:
            raise not_text(path)
        yield line


def _check_cells(row: Row, where: str) -> None:
    """Raise BadDataset for cells that hold no value, or more than one."""
    for name in PLAIN_COLUMNS:
        cell = clean(row.get(name, ""))
        if cell[:1] not in SUSPECT:
            continue
        if cell.lower() in NO_VALUES or cell in NO_VALUES_AS_WRITTEN:
            raise BadDataset(
                f"{where}: {name} is {cell}; leave the cell empty if it has no value, or write "
                "another name"
            )
        if name in ("split", "label") and LIST.fullmatch(cell):
            raise BadDataset(f"{where}: {name} is {cell[:80]}; one {name} for each row is read")


def _csv_rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[str, Row]]:
    lines, delimiter, skipped = _delimiter(lines)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] = []
    try:
        for cells in reader:
            position = f"line {reader.line_num + skipped}"
            if not any(map(clean, cells)):
                continue
            if not names:
                names = _column_names(cells, f"{path}, {position}")
                continue
            while len(cells) > len(names) and not clean(cells[-1]):
                cells.pop()
            if len(cells) != len(names):
                raise BadDataset(
                    f"{path}, {position}: not as many cells as there are column names "
                    f"({len(cells)}, not {len(names)})"
                )
            yield position, {name: cell for name, cell in zip(names, cells, strict=True) if name}
    except csv.Error as error:
        number = reader.line_num + skipped
        raise BadDataset(f"{path}, line {number}: not CSV ({error})") from error


def _delimiter(lines: Iterator[str]) -> tuple[Iterator[str], str, int]:
    """Return the lines from the header on, the delimiter, and the number of lines before."""
    skipped, given = 0, ""
    for line in lines:
        text = clean(line)
        if not skipped and text.strip('"').lower().startswith("sep=") and len(text.strip('"')) <= 5:
            # A line that spreadsheets write before the header; cleaning removes a tab.
            given = text.strip('"')[4:] or "\t"
        elif text.strip(DELIMITERS + ' "'):
            separator = given or next((d for d in DELIMITERS if "path" in _names(line, d)), ",")
            return _chain(line, lines), separator, skipped
        skipped += 1
    return iter(()), ",", 0


def _chain(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _names(line: str, delimiter: str) -> list[str]:
    """Return the names of columns in a line."""
    return [_column_name(cell) for cell in line.replace('"', "").split(delimiter)]


def _column_name(name: str) -> str:
    """Return a name without spaces around it; those of COLUMNS in lower case."""
    name = clean(name)
    return name.lower() if name.lower() in COLUMNS else name


def _column_names(cells: Sequence[str], where: str) -> list[str]:
    """Return the names of all columns; "" for a column without one, whose cells are skipped."""
    names = [_column_name(cell) for cell in cells]
    _check_names(names, where)
    while names and not names[-1]:  # delimiters at the end of every row
        names.pop()
    return names


def _check_names(names: Sequence[str], where: str) -> None:
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise BadDataset(f"{where}: two columns are named {', '.join(twice)}")


def _json_rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[str, Row]]:
    """Yield rows of JSON lines, or of one JSON list of objects."""
    for number, line in enumerate(lines, 1):
        if not (text := clean(line)):
            continue
        position = f"line {number}"
        if number == 1 and text.startswith("["):
            items = _parse_json(text + "".join(lines), f"{path}, {position}")
            if not items or not all(isinstance(item, dict) for item in items):
                raise BadDataset(f"{path}, {position}: not a JSON object")
            for count, item in enumerate(items, 1):
                yield f"item {count}", _json_row(item, f"{path}, item {count}")
            return
        row = _parse_json(text, f"{path}, {position}")
        if not isinstance(row, dict):
            raise BadDataset(f"{path}, {position}: not a JSON object")
        yield position, _json_row(row, f"{path}, {position}")


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise BadDataset(f"{where}: not JSON ({error})") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no value; write null, or leave the key out")


def _unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {key!r} is there twice")
    return content


def _json_row(content: dict[str, Any], where: str) -> Row:
    names = [_column_name(name) for name in content]
    _check_names(names, where)
    cells = (_cell(name, value, where) for name, value in zip(names, content.values(), strict=True))
    return {name: cell for name, cell in zip(names, cells, strict=True) if name}


def _cell(name: str, value: object, where: str) -> str:
    """Return a JSON value as the text of a cell: null is "", and lists and objects stay JSON.

    Raise BadDataset for a value that its column cannot hold.
    """
    if name == "label" and isinstance(value, list) and len(value) == 1:
        (value,) = value
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, float) and not math.isfinite(value):
        raise BadDataset(f"{where}: {name} is {value}, a number without a value")
    wrong = isinstance(value, list | dict) or name in ("path", "split", "mask")
    if name in PLAIN_COLUMNS and wrong:
        kind = "text" if name in ("path", "split", "mask") else "one text or number"
        raise BadDataset(
            f"{where}: {name} is {json.dumps(value)[:80]}; it must be {kind} for each row"
        )
    if name in PLAIN_COLUMNS and isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)
