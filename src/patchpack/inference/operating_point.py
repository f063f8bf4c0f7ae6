"""The operating point of a model: its token budget, or a cascade of two, and a temperature.

Chosen from measurements (`patchpack eval --suite cost --max-ms 5`), saved beside the weights as
operating_point.json, and used by `predict` unless a budget is given.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from patchpack.checkpoint import CheckpointError, write_text_atomic
from patchpack.old_names import existing_file
from patchpack.serialization import ConfigError, from_json, to_json

FILE = "operating_point.json"


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """Where on the curve of accuracy over cost a model is used."""

    max_tokens: int | None = None  # maximum tokens per image; None: as in training
    second_pass_tokens: int | None = None  # maximum tokens in a second pass; None: no second pass
    threshold: float = 0.0  # confidence below which an image gets the second pass
    temperature: float = 1.0  # divisor of the logits

    def __post_init__(self) -> None:
        for name in ("max_tokens", "second_pass_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be more than 0, not {self.temperature}")


def read_operating_point(run: Path) -> OperatingPoint:
    """The saved operating point of a run, or the default; raises CheckpointError if damaged."""
    path = existing_file(run, FILE)
    try:
        return from_json(OperatingPoint, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return OperatingPoint()
    except (OSError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; remove it") from error


def write_operating_point(run: Path, operating_point: OperatingPoint) -> Path:
    """Save an operating point in a run folder; returns its file."""
    path = run / FILE
    write_text_atomic(path, json.dumps(to_json(operating_point), indent=1) + "\n")
    return path
