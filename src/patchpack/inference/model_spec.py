"""What weights need beside them to be used; kept in every checkpoint."""

from dataclasses import dataclass, field

from patchpack.data.config import InputSpec
from patchpack.data.packing.resolution import Native, Resolution
from patchpack.data.tokenizer import Tokenizer
from patchpack.data.video.frame_sampling import ClipSampling, FrameSampling
from patchpack.model.navit import NaViTConfig
from patchpack.model.video import VideoConfig
from patchpack.tasks.classification.model import ClassificationConfig
from patchpack.tasks.contrastive.model import ContrastiveConfig
from patchpack.tasks.detection.model import DetectionConfig
from patchpack.tasks.segmentation.model import SegmentationConfig


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The model, what it was trained for, and how images are to be shown to it."""

    model: NaViTConfig | VideoConfig
    task: ClassificationConfig | ContrastiveConfig | DetectionConfig | SegmentationConfig
    classes: tuple[str, ...] = ()  # of a classifier
    tokenizer: Tokenizer | None = None  # of a model that reads texts
    text_tower: ContrastiveConfig | None = None  # whose text side a detector tells classes by
    frames: FrameSampling | None = None  # of clips: which are shown
    resolution: Resolution = field(default_factory=Native)  # of training
    eval_tokens: int = 256  # most tokens of an image, where nothing else is asked
    dtype: str = "float32"

    def clip_sampling(self, start_fraction: float = 0.5) -> ClipSampling | None:
        """How clips are shown, from a place in time on; None for a model of images."""
        if self.frames is None or not isinstance(self.model, VideoConfig):
            return None
        return ClipSampling(self.frames, self.model.tubelets, start_fraction)


def input_spec(model: NaViTConfig | VideoConfig) -> InputSpec:
    """The shape of a model's input."""
    return InputSpec(
        patch_size=model.patch_size,
        max_side=model.positions.max_side,
        tubelets=model.tubelets if isinstance(model, VideoConfig) else (),
    )
