"""The operating point of a model: its token budget, or a cascade of two, and a temperature.

Chosen from measurements (`patchpack eval --suite cost --max-ms 5`), saved beside the weights as
operating_point.json, and used by `predict` unless a budget is given. It holds the sum of the
weights that were measured: for others, of another run or of later steps, it is refused.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from patchpack.manifest import CheckpointError, reason_of
from patchpack.old_names import existing_file
from patchpack.regular_files import read_json_object
from patchpack.serialization import from_json, to_json
from patchpack.writing import write_text_atomic

FILE = "operating_point.json"
MAX_TOKENS = 2**31 - 1  # a budget that no image exceeds
TEMPERATURES = (1e-3, 1e3)  # divisors of logits, far beyond any that is fitted


def check_tokens(name: str, tokens: int) -> None:
    """Raise ValueError for a token budget below 1 or above MAX_TOKENS."""
    if not 1 <= tokens <= MAX_TOKENS:
        limit = "at least 1" if tokens < 1 else f"at most {MAX_TOKENS:,}"
        raise ValueError(f"{name} must be {limit}, not {tokens}")


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """Where on the curve of accuracy over cost a model is used."""

    max_tokens: int | None = None  # maximum tokens per image; None: as in training
    second_pass_tokens: int | None = None  # maximum tokens in a second pass; None: no second pass
    threshold: float = 0.0  # confidence below which an image gets the second pass
    temperature: float = 1.0  # divisor of the logits
    weights: str | None = field(default=None, compare=False)
    """SHA-256 of the file of the weights that it was chosen for; None: those of any run."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "second_pass_tokens"):
            if (value := getattr(self, name)) is not None:
                check_tokens(name, value)
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], not {self.threshold}")
        low, high = TEMPERATURES
        if not low <= self.temperature <= high:
            raise ValueError(f"temperature must lie in [{low}, {high}], not {self.temperature}")


def read_operating_point(run: Path, weights: str | None = None) -> OperatingPoint:
    """The saved operating point of a run, or the default, for the weights of this SHA-256.

    Raises CheckpointError if it is damaged, or was chosen for other weights.
    """
    path = existing_file(run, FILE)
    try:
        point = from_json(OperatingPoint, read_json_object(path))
    except FileNotFoundError:
        return OperatingPoint(weights=weights)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {reason_of(error)}; remove it") from error
    if None not in (point.weights, weights) and point.weights != weights:
        raise CheckpointError(
            f"{path} was chosen for other weights than the best of this run: remove it, and choose "
            f"it again with patchpack eval {run}"
        )
    return replace(point, weights=weights)


def write_operating_point(run: Path, operating_point: OperatingPoint) -> Path:
    """Save an operating point in a run folder; returns its file."""
    path = run / FILE
    write_text_atomic(path, json.dumps(to_json(operating_point), indent=1) + "\n")
    return path
