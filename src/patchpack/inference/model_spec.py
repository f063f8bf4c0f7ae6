"""What weights need beside them to be used; kept in every checkpoint."""

from dataclasses import dataclass, field

from patchpack.checkpoint import STATE, Checkpoint, CheckpointError
from patchpack.data.config import InputSpec
from patchpack.data.packing.resolution import Native, Resolution
from patchpack.data.reading import DEFAULT_READING, ReadingConfig
from patchpack.data.sources.objects import SourceIds
from patchpack.data.tokenizer import Tokenizer
from patchpack.data.video.frame_sampling import ClipSampling, FrameSampling
from patchpack.inference.operating_point import check_tokens
from patchpack.model.navit import NaViTConfig
from patchpack.model.video import VideoConfig
from patchpack.serialization import Choice, ConfigError, from_json

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class TaskConfig(Choice):
    """Base of every task's config: how the task's head is built and trained."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The model, its task, and how images are prepared for it."""

    model: NaViTConfig | VideoConfig
    task: TaskConfig
    classes: tuple[str, ...] = ()  # class names of a classifier
    tokenizer: Tokenizer | None = None  # of a model that reads texts
    text_tower: TaskConfig | None = None  # contrastive config whose text side classifies boxes
    frames: FrameSampling | None = None  # which frames of a clip the model takes
    resolution: Resolution = field(default_factory=Native)  # rule for sizes in training
    source_ids: tuple[SourceIds, ...] = ()  # of the COCO files that a detector was trained on
    eval_tokens: int = 256  # maximum tokens per image, where no budget is given
    dtype: str = "float32"  # of matrix products
    reading: ReadingConfig = DEFAULT_READING  # how files are read

    def __post_init__(self) -> None:
        check_tokens("eval_tokens", self.eval_tokens)
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")
        if isinstance(self.model, VideoConfig) and self.frames is None:
            raise ValueError("a model of clips needs frames: which of a clip it takes")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes must have different names")

    @property
    def input(self) -> InputSpec:
        """The model's input."""
        return input_spec(self.model, self.reading)

    def clip_sampling(self, start_fraction: float = 0.5) -> ClipSampling | None:
        """Which frames of clips the model takes; None for a model of images.

        start_fraction  position of the first frame in the clip, in [0, 1)
        """
        if self.frames is None or not isinstance(self.model, VideoConfig):
            return None
        return ClipSampling(self.frames, self.model.tubelets, start_fraction)


def input_spec(model: NaViTConfig, reading: ReadingConfig = DEFAULT_READING) -> InputSpec:
    """A model's input, as packing and loading need it."""
    tubelets = model.tubelets if isinstance(model, VideoConfig) else ()
    return InputSpec(
        patch_size=model.patch_size,
        max_side=model.positions.max_side,
        tubelets=tubelets,
        reading=reading,
        resize_filter=model.resize_filter,
    )


def spec_in_checkpoint(checkpoint: Checkpoint) -> ModelSpec:
    """The spec kept with a checkpoint's weights; raises CheckpointError where it is missing."""
    path = checkpoint.folder / STATE
    if "model_spec" not in checkpoint.state:
        raise CheckpointError(f"{path} holds no model spec: use another checkpoint")
    try:
        return from_json(ModelSpec, checkpoint.state["model_spec"])
    except ConfigError as error:
        raise CheckpointError(f"{path} holds no usable model spec: {error}") from error
