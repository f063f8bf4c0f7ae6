"""What suites are asked: which of them, of which images, at which token budgets."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from patchpack.data.transforms.corruptions import SEVERITIES
from patchpack.inference.predictor import Predictor

BUDGETS = (0.125, 0.25, 0.5, 0.75, 1.0)  # of a model's own, where none are given
NEEDS_REPORT = "reports draw pictures: pip install 'patchpack[report]'"
SUITES = ("cost", "calibration", "robustness", "fewshot", "fairness")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be found out, and about what."""

    suites: tuple[str, ...]
    budgets: tuple[int, ...]  # most tokens of an image
    data: Path | None = None  # the run's own, when None
    split: str = "test"
    train_split: str = "train"
    val_split: str = "val"
    where: tuple[str, ...] = ()
    max_bad_fraction: float | None = None
    label_map: Mapping[str, str] | None = None
    robustness_tokens: int | None = (
        None  # tokens at which robustness is judged; the largest budget when None
    )
    severities: tuple[int, ...] = SEVERITIES
    shifted_data: Path | None = None  # another rendition of the same classes
    attributes: tuple[str, ...] = ()  # columns of a manifest, for the suite fairness
    fit_temperature: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.suites if name not in SUITES]
        if unknown or not self.suites:
            raise ValueError(f"there is no suite {unknown}: choose among {', '.join(SUITES)}")
        if "fairness" in self.suites and not self.attributes:
            raise ValueError("the suite fairness needs --attributes, columns of the manifest")
        if min((*self.budgets, self.robustness_tokens or 1), default=1) < 1:
            raise ValueError(
                f"budgets must be at least 1, not {self.budgets}, {self.robustness_tokens}"
            )


def default_budgets(model: Predictor) -> tuple[int, ...]:
    """An eighth to all of the tokens that the model was evaluated with in training."""
    return tuple(sorted({max(1, round(share * model.spec.eval_tokens)) for share in BUDGETS}))


def suites_of(words: str) -> tuple[str, ...]:
    """The names in a list with commas."""
    return tuple(name.strip() for name in words.split(",") if name.strip())


def read_label_map(path: Path | None) -> dict[str, str] | None:
    if path is None:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ValueError(f"{path} must be an object of texts: {{class of the data: of the model}}")
    return found
