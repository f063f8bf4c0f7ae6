"""The configuration of a run: a tree of the parts' own configs.

Each part's options stand in that part's file; this one only composes them and adds those of the
loop. A recipe is a RunConfig made in Python.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from patchpack.data.config import DataConfig, InputSpec
from patchpack.data.video.frame_sampling import ClipSampling
from patchpack.inference.model_spec import input_spec
from patchpack.model.navit import NaViTConfig
from patchpack.model.presets import model_config
from patchpack.model.video import Inflation, VideoConfig
from patchpack.tasks.classification.model import ClassificationConfig
from patchpack.tasks.contrastive.model import ContrastiveConfig
from patchpack.tasks.detection.model import DetectionConfig
from patchpack.tasks.segmentation.model import SegmentationConfig
from patchpack.train.optim import OptimConfig

# What a model is trained for.
Task = ClassificationConfig | ContrastiveConfig | DetectionConfig | SegmentationConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop."""

    steps: int = 1000  # optimizer steps, where neither of the next two is given
    flops: float | None = None  # ends the run once it has spent so many operations
    seconds: float | None = None  # ends the run after so long, evaluation included
    grad_accumulation: int = 1  # packs per optimizer step and device
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where it is fast
    freeze_backbone: bool = (
        False  # train the head alone on the trunk of `init`: a probe, or LiT's text
    )
    ema: float = 0.0  # decay of the averaged weights that are evaluated and kept; 0 for none
    activation_checkpointing: bool = False  # recompute activations: less memory, a third more time
    compile: bool = False  # torch.compile each block
    eval_every: int = 200  # steps
    save_every: int = 200  # steps
    log_every: int = 10  # steps
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "grad_accumulation", "eval_every", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("flops", "seconds"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} must be more than 0, not {value}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), not {self.ema}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything about a run; saved with it as config.json."""

    out: Path = Path("runs/run")  # the run's folder
    init: Path | None = None  # a run whose best weights to begin with; None: random ones
    inflate: Inflation = "central"  # how patches of such a run become tubelets
    data: DataConfig = field(default_factory=DataConfig)
    model: NaViTConfig | VideoConfig = field(default_factory=lambda: model_config("navit_s16"))
    task: Task = field(default_factory=ClassificationConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @property
    def input(self) -> InputSpec:
        """The shape of the model's input."""
        return input_spec(self.model)

    @property
    def clip_sampling(self) -> ClipSampling | None:
        """How clips are sampled in evaluation; None for an image model."""
        return self.data.clip_sampling(self.input)

    @property
    def evaluation_tokens(self) -> int:
        """Maximum tokens per image or clip in evaluation."""
        return self.data.evaluation_tokens(self.input)

    def __post_init__(self) -> None:
        if self.clip_sampling and not isinstance(self.task, ClassificationConfig):
            raise ValueError("clips are classified only: task must be a ClassificationConfig")
        if isinstance(self.model, VideoConfig):
            self._check_times(self.model)
        if self.data.augment.mosaic and not isinstance(
            self.task, DetectionConfig | SegmentationConfig
        ):
            raise ValueError("data.augment.mosaic is for boxes and masks: labels would be wrong")
        if self.train.freeze_backbone and self.init is None:
            raise ValueError("train.lock_trunk needs init: a run whose trunk is worth keeping")

    def _check_times(self, model: VideoConfig) -> None:
        """Raise ValueError for more frames than the model has learned times for, or than there is
        room for."""
        clip_sampling = self.clip_sampling
        assert clip_sampling is not None
        tubelets = clip_sampling.max_frames // model.tubelets[0].frames
        if model.time_coordinates == "absolute" and tubelets > model.time_table_size:
            raise ValueError(
                f"{clip_sampling.max_frames} frames are {tubelets} tubelets, but "
                f"model.time_table_size is {model.time_table_size}: raise it, or lower "
                "data.frames.frames"
            )
        clip_sampling.patches_for_tokens(self.evaluation_tokens)
