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
    from patchpack.data.clips import pack_clips as pack_clips
    from patchpack.data.images import BadImage as BadImage
    from patchpack.data.pack import pack as pack
    from patchpack.heads.classification import Classifier as Classifier
    from patchpack.heads.classification import create_model as create_model
    from patchpack.heads.detection import Detector as Detector
    from patchpack.heads.segmentation import Segmenter as Segmenter
    from patchpack.model.maps import kept_map as kept_map
    from patchpack.model.maps import to_maps as to_maps
    from patchpack.model.maps import to_tokens as to_tokens
    from patchpack.model.navit import NaViT as NaViT
    from patchpack.model.navit import NaViTConfig as NaViTConfig
    from patchpack.model.presets import list_models as list_models
    from patchpack.model.presets import model_config as model_config
    from patchpack.model.video import VideoConfig as VideoConfig
    from patchpack.model.video import inflate as inflate
    from patchpack.serve.clips import ClipPredictor as ClipPredictor
    from patchpack.serve.detector import BoxModel as BoxModel
    from patchpack.serve.load import load as load
    from patchpack.serve.matcher import Matcher as Matcher
    from patchpack.serve.predictor import Predictor as Predictor
    from patchpack.serve.segmenter import PixelModel as PixelModel

__version__ = "0.1.0"

_HOMES = {
    "batch": ("PackedBatch", "Patches", "Segments", "Tubelet", "collate"),
    "data.clips": ("pack_clips",),
    "data.images": ("BadImage",),
    "data.pack": ("pack",),
    "heads.classification": ("Classifier", "create_model"),
    "heads.detection": ("Detector",),
    "heads.segmentation": ("Segmenter",),
    "model.maps": ("kept_map", "to_maps", "to_tokens"),
    "model.navit": ("NaViT", "NaViTConfig"),
    "model.presets": ("list_models", "model_config"),
    "model.video": ("VideoConfig", "inflate"),
    "serve.clips": ("ClipPredictor",),
    "serve.detector": ("BoxModel",),
    "serve.load": ("load",),
    "serve.matcher": ("Matcher",),
    "serve.predictor": ("Predictor",),
    "serve.segmenter": ("PixelModel",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'patchpack' has no attribute {name!r}")
    return getattr(import_module(f"patchpack.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME_OF]
