"""What a task is: one TaskSpec, which training, loading, evaluation, prediction and reports use.

    index + TaskContext → prepare → TaskRun → model_spec → build → module     training
    checkpoint → ModelSpec → build → module → predictor                       loading
    predictor + index → evaluator → EvalResult                                training and `eval`
    prediction, EvalResult → report → JSON, text, pictures                    command line, server

A task is a folder below `tasks/` that makes one TaskSpec, and a line in `tasks/registry.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image

from patchpack.batch import PackedBatch
from patchpack.data.bad_images import BadImages
from patchpack.data.config import DataConfig
from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.data.sources.objects import SourceIds
from patchpack.data.tokenizer import Tokenizer
from patchpack.distributed import World
from patchpack.inference.measure import Cost, EvalData, view_batches, view_of
from patchpack.inference.model_spec import ModelSpec, TaskConfig, input_spec
from patchpack.inference.predictor import Predictor, Unreadable
from patchpack.metrics.metric import Metric
from patchpack.metrics.outputs import ModelOutput
from patchpack.model.navit import NaViTConfig
from patchpack.tasks.backbone_module import BackboneModule


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """What a run hands its task beside the index of its data."""

    data: DataConfig
    model: NaViTConfig
    task: Any  # the task's own config
    out: Path  # run folder
    init: Path | None = None  # run whose weights initialize this one
    resumed: bool = False  # the run folder holds what `TaskRun.write` left
    world: World


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """A task on the data of one run: its splits, and what its model spec needs of them."""

    train: Index
    val: Index
    task: TaskConfig  # the config, completed from the data (class names)
    classes: tuple[str, ...] = ()  # of a classifier
    source_ids: tuple[SourceIds, ...] = ()  # of the COCO files that a detector is trained on
    tokenizer: Tokenizer | None = None
    text_tower: TaskConfig | None = None
    skipped: Sequence[BadImage] = ()  # items that the task cannot use, and why
    messages: Sequence[str] = ()  # notes on the data for the log
    write: Callable[[Path], object] = lambda folder: None  # files that a resumed run reads again

    def model_spec(self, context: TaskContext, dtype: str) -> ModelSpec:
        """The spec of the trained model: images are prepared as in the run's evaluation."""
        input = input_spec(context.model, context.data.reading)
        return ModelSpec(
            model=context.model,
            task=self.task,
            classes=self.classes,
            source_ids=self.source_ids,
            tokenizer=self.tokenizer,
            text_tower=self.text_tower,
            resolution=context.data.resolution,
            frames=context.data.frames if input.tubelets else None,
            eval_tokens=context.data.evaluation_tokens(input),
            dtype=dtype,
            reading=input.reading,
        )


def annotated_split(annotated: Index, whole: Index, name: str, annotation: str) -> Index:
    """One split of the items that have an annotation, selected from a whole index.

    Raises BadDataset where the data have no such split, and where none of its items has one.
    """
    try:
        return annotated.split(name)
    except BadDataset:
        split = whole.split(name)
    raise BadDataset(
        f"none of the {len(split):,} {whole.item_name} of the split {name!r} of {whole.root} has "
        f"{annotation}"
    )


class EvalResult(Protocol):
    """Metrics of one evaluation, and whatever the task's report shows beside them."""

    @property
    def metrics(self) -> dict[str, float]:
        """Values by name, NaN for an undefined one; empty where no item could be read."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What the values leave out, and why values are undefined: a sentence each."""
        ...


class Evaluator(ABC):
    """Compares predictions with the annotations of an index; used in training and after it."""

    start_fractions: Sequence[float] = (0.5,)  # of the views of each clip

    def __init__(self, index: Index) -> None:
        self.index = index

    def batches(
        self, predictor: Predictor, tokens: int, unreadable: BadImages
    ) -> Iterator[PackedBatch]:
        """Every item once for each of its views, at a token budget."""
        for start_fraction in self.start_fractions:
            view = view_of(predictor, tokens, start_fraction)
            yield from view_batches(predictor, self.index, view, unreadable)

    @abstractmethod
    def run(
        self, predictor: Any, batches: Iterable[PackedBatch], world: World | None = None
    ) -> EvalResult:
        """Evaluate; with a `world`, every process gets the result over the batches of all."""


class Evaluation(NamedTuple):
    """A result at one token budget, and its cost."""

    cost: Cost
    result: Any


class Report(ABC):
    """A task's predictions and evaluations as JSON, text and pictures."""

    @abstractmethod
    def to_json(self, prediction: Any) -> dict[str, Any]:
        """The prediction for one image, as `predict --json` and the server give it."""

    @abstractmethod
    def to_text(self, prediction: Any) -> str:
        """The same in one or more lines, to stand behind the name of the image."""

    @abstractmethod
    def record(self, evaluations: Sequence[Evaluation], predictor: Any) -> dict[str, Any]:
        """The evaluations as JSON."""

    @abstractmethod
    def summary(self, evaluations: Sequence[Evaluation], predictor: Any) -> Iterator[Any]:
        """The evaluations as lines of text and tables for a terminal."""

    def pictures(
        self, evaluations: Sequence[Evaluation], predictor: Any, evaluator: Any
    ) -> Mapping[str, Image.Image]:
        """Pictures of predictions beside the ground truth, by the stem of their files."""
        return {}


class PredictionWriter(Protocol):
    """Writes predictions to the path given as `predict --output`."""

    def add(self, path: Path, prediction: Any) -> Path | None:
        """Write the prediction for one image file; the file written for it, if one is."""
        ...

    def close(self) -> Path | None:
        """Write what holds all predictions; that file, if there is one."""
        ...


class LabelScorer(NamedTuple):
    """A predictor as a scorer of labels: what the evaluation suites measure."""

    data: EvalData  # labels numbered as the columns of the scores
    score: Callable[[PackedBatch], ModelOutput]
    query: object  # what the scores depend on beside weights and images; names cached outputs


LabelScorerOf = Callable[[Any, EvalData, Mapping[str, str] | None, Sequence[str]], LabelScorer]
"""(predictor, data, label map, templates) → scorer"""


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """A task without options of its own."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """Everything that the rest of the library uses of a task."""

    name: str  # "detection"
    config: type[TaskConfig]
    metric: Metric  # decides which weights are best
    prepare: Callable[[Index, TaskContext], TaskRun]  # raises BadDataset for data that do not serve
    build: Callable[[ModelSpec], BackboneModule]  # module with new weights: training and loading
    head_key: Callable[[ModelSpec], object]  # equal keys: the head of one model serves the other
    predictor: Callable[[ModelSpec], type[Predictor]]
    evaluation: Callable[[Any, EvalData, Any], tuple[Evaluator, Sequence[BadImage]]]
    """Evaluator of a trained model on other data, and the items that it cannot use."""
    run_evaluator: Callable[[TaskRun], Evaluator]  # of the validation split of a run
    report: Report
    predict: Callable[[Any, Sequence[Any], Any, int | None, Unreadable], list[Any]]
    """(predictor, images, options, max_tokens, unreadable) → a prediction for each image."""
    predict_options: type = NoOptions
    eval_options: type = NoOptions
    writer: Callable[[Path, Any, Sequence[Path], Any], PredictionWriter] | None = None
    """(output, predictor, image files, options) → writer; None: predictions are printed only."""
    label_scorer: LabelScorerOf | None = None  # None: models of this task give no label scores
    has_annotations: Callable[[Index], bool]  # whether data hold what the task trains on
    annotation_name: str  # "boxes": what the task trains on, in messages
    needs_labels: bool = False  # class labels are read, and checked across splits
    supports_video: bool = False
    supports_mosaic: bool = False  # annotations have positions in pixels, and may be merged

    @property
    def option(self) -> str:
        """How the task is chosen on the command line."""
        words = "".join(f"-{c.lower()}" if c.isupper() else c for c in self.config.__name__)
        return f"task:{words.lstrip('-')}"
