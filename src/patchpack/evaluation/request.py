"""What is evaluated by suites: which suites, on which data, at which token budgets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from patchpack.data.text_files import clean, read_text
from patchpack.data.transforms.corruptions import SEVERITIES
from patchpack.inference.predictor import Predictor
from patchpack.manifest import reason_of
from patchpack.regular_files import json_object
from patchpack.tasks.registry import TASKS, task_of
from patchpack.tasks.task import LabelScorerOf

BUDGET_SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)  # of a model's own budget, where none are given
NEEDS_REPORT = "reports draw pictures: pip install 'patchpack[report]'"
BARE = ("{}",)  # the prompt of a bare class name
LABEL_SUITES = ("cost", "calibration", "robustness")  # need scores of labels
FEATURE_SUITES = ("fewshot", "fairness")  # need feature vectors
SUITES = (*LABEL_SUITES, *FEATURE_SUITES)
SUITE_OF_OPTION = {
    "attributes": "fairness",
    "robustness_tokens": "robustness",
    "severities": "robustness",
    "shifted_data": "robustness",
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """Suites, data and budgets."""

    suites: tuple[str, ...]
    budgets: tuple[int, ...]  # maximum tokens per image
    data: Path | None = None  # None: the run's own
    split: str = "test"
    train_split: str = "train"
    val_split: str = "val"
    where: tuple[str, ...] = ()
    max_bad_fraction: float | None = None
    label_map: Mapping[str, str] | None = None
    templates: tuple[str, ...] = BARE  # prompts of class names, for image-text models
    robustness_tokens: int | None = None  # tokens of the suite robustness; None: the largest budget
    severities: tuple[int, ...] = SEVERITIES
    shifted_data: Path | None = None  # dataset of the same classes from another source
    attributes: tuple[str, ...] = ()  # columns of a manifest, for the suite fairness
    fit_temperature: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.suites if name not in SUITES]
        if unknown or not self.suites:
            names = ", ".join(map(repr, unknown)) or "without a name"
            raise ValueError(f"there is no suite {names}: choose among {', '.join(SUITES)}")
        if "fairness" in self.suites and not self.attributes:
            raise ValueError("the suite fairness needs --attributes, columns of the manifest")
        if not self.severities or not set(self.severities) <= set(SEVERITIES):
            raise ValueError(f"severities must be among 1 to 5, not {self.severities}")
        self._check_used()
        if min((*self.budgets, self.robustness_tokens or 1), default=1) < 1:
            raise ValueError(
                f"budgets must be at least 1, not {self.budgets}, {self.robustness_tokens}"
            )

    def _check_used(self) -> None:
        """Raise ValueError for an option of a suite that is not requested."""
        for field in fields(self):
            suite = SUITE_OF_OPTION.get(field.name)
            if suite and suite not in self.suites and getattr(self, field.name) != field.default:
                option = f"--{field.name.replace('_', '-')}"
                raise ValueError(f"{option} is for the suite {suite}, which is not requested")


def check_suites(run: Path, predictor: Predictor, suites: Sequence[str]) -> None:
    """Raise ValueError for a suite that the model's task has no outputs for."""
    wrong = [name for name in suites if name in LABEL_SUITES]
    if wrong and label_scorer_of(predictor) is None:
        scored = ", ".join(other.name for other in TASKS if other.label_scorer)
        raise ValueError(
            f"suite {wrong[0]} needs scores of labels, which {scored} give; {run} is "
            f"{predictor.description}"
        )


def label_scorer_of(predictor: Predictor) -> LabelScorerOf | None:
    """The label scorer of a predictor's task; None where the model scores no labels."""
    return task_of(predictor.spec.task).label_scorer if predictor.scores_labels else None


def default_budgets(predictor: Predictor) -> tuple[int, ...]:
    """An eighth to all of the tokens of evaluation in training; of clips, at least the tokens
    that one patch per frame takes."""
    sampling = predictor.spec.clip_sampling()
    minimum = sampling.tokens_for_patches(1) if sampling else 1
    tokens = predictor.spec.eval_tokens
    return tuple(sorted({max(minimum, round(share * tokens)) for share in BUDGET_SHARES}))


def suites_of(text: str) -> tuple[str, ...]:
    """The names in a comma-separated list."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def read_label_map(path: Path | None) -> dict[str, str] | None:
    """A JSON object from class names of the data to those of the model; None without a path."""
    if path is None:
        return None
    expected = (
        "a label map must be a JSON object of strings: {class of the data: class of the model}"
    )
    try:
        content = json_object(read_text(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {reason_of(error)}; {expected}") from error
    for name, value in content.items():
        if not isinstance(value, str):
            raise ValueError(f"{path}: the class {name!r} is mapped to no text; {expected}")
    return {clean(name): clean(other) for name, other in content.items()}


def check_limits(
    *, max_ms: float | None, max_gflops: float | None, min_accuracy: float | None
) -> None:
    """Raise ValueError for limits that no measurement can meet."""
    for name, value in (("max-ms", max_ms), ("max-gflops", max_gflops)):
        if value is not None and not value > 0:
            raise ValueError(f"--{name} must be more than 0, not {value}")
    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise ValueError(f"--min-accuracy must lie in [0, 1], not {min_accuracy}")
