"""Configs of the data: DataConfig of a run, PackingConfig of a plan, InputSpec of a model's input.

The trailing comment of a field is its --help text.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from patchpack.batch import Tubelet
from patchpack.data.images import ResizeFilter
from patchpack.data.packing.dropping import Dropping, NoDrop
from patchpack.data.packing.resolution import MAX_SIDE, Native, Resolution
from patchpack.data.reading import DEFAULT_READING, ReadingConfig
from patchpack.data.transforms.augment import Augment
from patchpack.data.video.frame_sampling import ClipSampling, FrameSampling, UniformFrames

WINDOW = 4096  # images
MAX_WORKERS, MAX_PREFETCH = 1024, 4096  # more would fill the memory before the first step
MAX_COUNT = 2**31 - 1  # of tokens or images


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """A model's input: its shape, and how files are read for it."""

    patch_size: int  # side of a patch in pixels
    max_side: int = MAX_SIDE  # longest side of a grid, in patches, that the positions cover
    tubelets: tuple[Tubelet, ...] = ()  # tubelets of a video model, largest first; empty: images
    reading: ReadingConfig = DEFAULT_READING
    resize_filter: ResizeFilter = "bicubic"  # filter that images are resized with, antialiased


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How packs are loaded in the background."""

    workers: int = 2  # number of loading threads or processes; 0: load in the main thread
    # threads: start fast and share memory; processes: not limited by the GIL
    worker_type: Literal["threads", "processes"] = "threads"
    prefetch: int = 4  # maximum packs loaded ahead of the training step

    def __post_init__(self) -> None:
        if not 0 <= self.workers <= MAX_WORKERS:
            raise ValueError(f"workers must lie in [0, {MAX_WORKERS}], not {self.workers}")
        if not 1 <= self.prefetch <= MAX_PREFETCH:
            raise ValueError(f"prefetch must lie in [1, {MAX_PREFETCH}], not {self.prefetch}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Images or clips of a run: files, splits, sizes, packs."""

    root: Path | None = None  # image or clip folder, COCO file, or .csv or .jsonl manifest
    train_split: str = "train"  # split to train on
    val_split: str = "val"  # split to evaluate on during training
    where: tuple[str, ...] = ()  # manifest filters "column=value"; an image must match all of them
    max_tokens: int = 4096  # maximum image tokens per pack, on each device
    max_text_tokens: int | None = None  # maximum text tokens per pack; None: no limit
    tokenizer: Path | None = None  # tokenizer file for texts; None: train one on the training split
    # rule that selects the frames of each clip; has no effect on images
    frames: FrameSampling = field(default_factory=UniformFrames)
    # rule that sets the size of each image, or frame, in training
    resolution: Resolution = field(default_factory=Native)
    # maximum tokens per image or clip in evaluation; None: the maximum in training
    eval_tokens: int | None = None
    # rule that sets the share of tokens dropped from each image in training
    dropping: Dropping = field(default_factory=NoDrop)
    # augmentation of training images
    augment: Augment = field(default_factory=Augment)
    trim_to_fill: bool = True  # trim the last image of a pack so that every token slot is filled
    packing_window: int = WINDOW  # number of images that packing combines at a time
    max_bad_fraction: float = 0.01  # share of unreadable images above which the run stops, 0 to 1
    # limits of one file, and the range of gray values; kept with the model
    reading: ReadingConfig = DEFAULT_READING
    # workers that load packs in the background
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_text_tokens", "eval_tokens", "packing_window"):
            if (value := getattr(self, name)) is not None and not 1 <= value <= MAX_COUNT:
                limit = "least 1" if value < 1 else f"most {MAX_COUNT}"
                raise ValueError(f"{name} must be at {limit}, not {value}")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(f"max_bad_fraction must lie in [0, 1], not {self.max_bad_fraction}")

    def clip_sampling(self, input: InputSpec) -> ClipSampling | None:
        """How clips are sampled in evaluation; None for an image model."""
        return ClipSampling(self.frames, input.tubelets) if input.tubelets else None

    def evaluation_tokens(self, input: InputSpec) -> int:
        """Maximum tokens per image or clip in evaluation: `eval_tokens`, or else the maximum that
        `resolution` gives in training, or else `max_tokens`."""
        clip_sampling = self.clip_sampling(input)
        patches = self.resolution.max_tokens_per_image(input.patch_size)
        if self.eval_tokens or not patches:
            return self.eval_tokens or self.max_tokens
        return clip_sampling.tokens_for_patches(patches) if clip_sampling else patches


@dataclass(frozen=True, kw_only=True)
class PackingConfig:
    """How images, or clips, become packs; raises ValueError for numbers below 1."""

    patch_size: int  # side of a patch in pixels
    max_tokens: int  # maximum tokens per pack, and so per image
    resolution: Resolution  # rule that sets the size of each image or frame
    max_side: int = MAX_SIDE  # longest side of a grid, in patches
    # rule that sets the share of tokens dropped from each image
    dropping: Dropping = field(default_factory=NoDrop)
    packing_window: int = WINDOW  # number of images that packing combines at a time
    trim_to_fill: bool = True  # trim the last image of a pack so that every token slot is filled
    shuffle: bool = True  # new order each epoch; False: the order of the index, except for packing
    max_text_tokens: int | None = None  # maximum text tokens per pack; None: no limit

    def __post_init__(self) -> None:
        for name in ("patch_size", "max_tokens", "max_side", "packing_window", "max_text_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
