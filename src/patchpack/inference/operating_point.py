"""How a model is used where nothing else is asked: its budget, or a cascade, and a temperature.

Chosen from what was measured (`patchpack eval --suite cost --max-ms 5`), kept beside the weights as
operating_point.json, and read when they are loaded.
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
    """The choice."""

    max_tokens: int | None = None  # most of an image; None: as in training
    second_pass_tokens: int | None = (
        None  # most tokens of an image that is shown again; None: none is
    )
    threshold: float = 0.0  # of confidence, below which an image is
    temperature: float = 1.0  # that logits are divided by

    def __post_init__(self) -> None:
        for name in ("max_tokens", "second_pass_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be more than 0, not {self.temperature}")


def read_operating_point(run: Path) -> OperatingPoint:
    """What was chosen for a run, or nothing; raises CheckpointError for a damaged file."""
    path = existing_file(run, FILE)
    try:
        return from_json(OperatingPoint, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return OperatingPoint()
    except (OSError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; remove it") from error


def write_operating_point(run: Path, operating_point: OperatingPoint) -> Path:
    path = run / FILE
    write_text_atomic(path, json.dumps(to_json(operating_point), indent=1) + "\n")
    return path
