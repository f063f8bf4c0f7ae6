"""Undefined values: NaN inside, null in JSON, – in text.

A metric of nothing (no image, no object, no class, no way to miss) is NaN. 0 and 1 are scores, and
a value of nothing is neither.
"""

import math
from collections.abc import Mapping
from typing import Any

UNDEFINED = "–"  # in tables and lines of text


def ratio(part: float, whole: float) -> float:
    """Return part / whole; NaN where the whole is 0."""
    return part / whole if whole else math.nan


def defined(value: float | None) -> bool:
    """Return whether a value is a number: not None, and not NaN."""
    return value is not None and not math.isnan(value)


def shown(value: float | None, form: str) -> str:
    """Return a value in a format (".1%"), or – where it is undefined."""
    return format(value, form) if value is not None and defined(value) else UNDEFINED


def json_values(record: Any) -> Any:
    """Return nested mappings and sequences with null for every float that is not finite.

    JSON has no NaN: a strict reader rejects the file.
    """
    if isinstance(record, Mapping):
        return {name: json_values(value) for name, value in record.items()}
    if isinstance(record, list | tuple):
        return [json_values(value) for value in record]
    return None if isinstance(record, float) and not math.isfinite(record) else record
