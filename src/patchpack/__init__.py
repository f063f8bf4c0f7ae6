"""patchpack: native-resolution vision transformers by Patch n' Pack (NaViT, arXiv 2307.06304).

Names are imported when they are first used, so `import patchpack` is quick, and the command can
settle how threads wait before PyTorch starts them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchpack.batch import PackedBatch as PackedBatch
    from patchpack.batch import Patches as Patches
    from patchpack.batch import Segments as Segments
    from patchpack.batch import Tubelet as Tubelet
    from patchpack.batch import collate as collate
    from patchpack.data.images import BadImage as BadImage
    from patchpack.data.pack import pack as pack
    from patchpack.data.video.pack import pack_clips as pack_clips
    from patchpack.loading import create_model as create_model
    from patchpack.loading import load as load
    from patchpack.model.feature_maps import kept_map as kept_map
    from patchpack.model.feature_maps import to_maps as to_maps
    from patchpack.model.feature_maps import to_tokens as to_tokens
    from patchpack.model.navit import NaViT as NaViT
    from patchpack.model.navit import NaViTConfig as NaViTConfig
    from patchpack.model.presets import list_models as list_models
    from patchpack.model.presets import model_config as model_config
    from patchpack.model.video import VideoConfig as VideoConfig
    from patchpack.model.video import inflate as inflate
    from patchpack.tasks.classification.model import Classifier as Classifier
    from patchpack.tasks.classification.predictor import (
        ClassificationPredictor as ClassificationPredictor,
    )
    from patchpack.tasks.classification.video_predictor import (
        VideoClassificationPredictor as VideoClassificationPredictor,
    )
    from patchpack.tasks.contrastive.predictor import ImageTextPredictor as ImageTextPredictor
    from patchpack.tasks.detection.model import Detector as Detector
    from patchpack.tasks.detection.predictor import DetectionPredictor as DetectionPredictor
    from patchpack.tasks.segmentation.model import Segmenter as Segmenter
    from patchpack.tasks.segmentation.predictor import (
        SegmentationPredictor as SegmentationPredictor,
    )

__version__ = "0.1.0"

_HOMES = {
    "batch": ("PackedBatch", "Patches", "Segments", "Tubelet", "collate"),
    "data.images": ("BadImage",),
    "data.pack": ("pack",),
    "data.video.pack": ("pack_clips",),
    "loading": ("create_model", "load"),
    "model.feature_maps": ("kept_map", "to_maps", "to_tokens"),
    "model.navit": ("NaViT", "NaViTConfig"),
    "model.presets": ("list_models", "model_config"),
    "model.video": ("VideoConfig", "inflate"),
    "tasks.classification.model": ("Classifier",),
    "tasks.classification.predictor": ("ClassificationPredictor",),
    "tasks.classification.video_predictor": ("VideoClassificationPredictor",),
    "tasks.contrastive.predictor": ("ImageTextPredictor",),
    "tasks.detection.model": ("Detector",),
    "tasks.detection.predictor": ("DetectionPredictor",),
    "tasks.segmentation.model": ("Segmenter",),
    "tasks.segmentation.predictor": ("SegmentationPredictor",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        from patchpack.old_names import PYTHON

        hint = f": it is now {PYTHON[name]}" if name in PYTHON else ""
        raise AttributeError(f"module 'patchpack' has no attribute {name!r}{hint}")
    return getattr(import_module(f"patchpack.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME_OF]
