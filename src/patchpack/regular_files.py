"""Files opened for reading only where they are regular and of a bounded size.

A path in a run folder may be a pipe, a device or a link to one: opening it would wait, and reading
it never ends. Links to regular files are followed.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

MAX_JSON = 64 * 2**20  # bytes of a JSON file of a run


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; raise OSError, or ValueError where it is no regular file."""
    _require_regular(os.stat(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb")
    try:
        _require_regular(os.fstat(descriptor))  # it may have been replaced since
    except ValueError:
        file.close()
        raise
    return file


def read_text(path: Path, max_bytes: int = MAX_JSON) -> str:
    """Return a UTF-8 file; raise OSError, or ValueError where it is larger, or no regular file."""
    with open_regular(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text: {error}") from error


def read_json_object(path: Path, max_bytes: int = MAX_JSON) -> dict[str, Any]:
    """Return a JSON object; raise OSError, or ValueError where the file holds something else."""
    return json_object(read_text(path, max_bytes))


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object; raise ValueError for anything else.

    NaN, infinity and repeated keys are rejected: JSON has none of them.
    """
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    return data


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ValueError("it is a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is a pipe or a device, not a file")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it holds the key {repeated!r} twice")
    return data


def _no_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no number of JSON")
