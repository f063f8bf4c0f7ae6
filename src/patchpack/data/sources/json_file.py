"""JSON files of annotations: content or a clear error."""

import json
from pathlib import Path
from typing import Any

from patchpack.data.records import BadDataset


def load_json(path: Path) -> Any:
    """Return the content of a JSON file; raise BadDataset."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadDataset(f"{path} is not JSON: {error}") from error


def size_text(value: object) -> str:
    """Return a size as the text of an integer; empty if it is not a number."""
    try:
        return f"{float(value):.0f}"  # pyrefly: ignore
    except (TypeError, ValueError, OverflowError):
        return ""
