"""The configuration of a run: a tree of the parts' own configs.

Each part's options stand in that part's file; this one only composes them and adds those of the
loop. A recipe is a RunConfig made in Python.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from patchpack.data.loader import LoaderConfig
from patchpack.data.packing.dropping import Dropping, NoDrop
from patchpack.data.packing.resolution import Native, Resolution
from patchpack.data.transforms.augment import Augment
from patchpack.data.video.frame_sampling import ClipSampling, FrameSampling, UniformFrames
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
class DataConfig:
    """Which images, at which size, in packs of how many tokens."""

    root: Path | None = None  # a folder of images, or a .csv or .jsonl manifest
    train_split: str = "train"
    val_split: str = "val"
    where: tuple[str, ...] = ()  # "column=value": the images of a manifest to take
    max_tokens: int = 4096  # tokens of a pack, on each device
    max_text_tokens: int | None = None  # of the texts that go with a pack's images
    tokenizer: Path | None = None  # of the texts; None: one trained on those of the training split
    frames: FrameSampling = field(default_factory=UniformFrames)  # of clips: which are shown
    resolution: Resolution = field(default_factory=Native)  # sizes in training, also of frames
    eval_tokens: int | None = None  # most of an image or clip in evaluation; None: as in training
    dropping: Dropping = field(default_factory=NoDrop)  # tokens left out in training
    augment: Augment = field(default_factory=Augment)
    trim_to_fill: bool = True  # trim the last image of a pack so that no slot stays empty
    packing_window: int = 4096  # images looked at ahead when packing
    max_bad_fraction: float = 0.01  # share of unreadable images that stops the run
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_text_tokens", "eval_tokens", "packing_window"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(f"max_bad_fraction must lie in [0, 1], not {self.max_bad_fraction}")


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
    def clip_sampling(self) -> ClipSampling | None:
        """How clips are shown in evaluation; None for a model of images."""
        if not isinstance(self.model, VideoConfig):
            return None
        return ClipSampling(self.data.frames, self.model.tubelets)

    @property
    def evaluation_tokens(self) -> int:
        """Most tokens of an image, or clip, in evaluation: as told, or the most of training."""
        data, clip_sampling = self.data, self.clip_sampling
        patches = data.resolution.max_tokens_per_image(self.model.patch_size)
        if data.eval_tokens or not patches:
            return data.eval_tokens or data.max_tokens
        return clip_sampling.tokens_for_patches(patches) if clip_sampling else patches

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
                f"{clip_sampling.max_frames} frames are {tubelets} tubelets, but model.time_table_size is {model.time_table_size}: "
                "raise it, or lower data.frames.frames"
            )
        clip_sampling.patches_for_tokens(self.evaluation_tokens)
