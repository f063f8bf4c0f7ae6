"""patchpack: native-resolution vision transformers by Patch n' Pack (NaViT, arXiv 2307.06304)."""

from patchpack.batch import PackedBatch as PackedBatch
from patchpack.batch import Patches as Patches
from patchpack.batch import Segments as Segments
from patchpack.batch import collate as collate
from patchpack.data.images import BadImage as BadImage
from patchpack.data.pack import pack as pack
from patchpack.heads.classification import Classifier as Classifier
from patchpack.heads.classification import create_model as create_model
from patchpack.model.navit import NaViT as NaViT
from patchpack.model.navit import NaViTConfig as NaViTConfig
from patchpack.model.presets import list_models as list_models
from patchpack.model.presets import model_config as model_config
from patchpack.serve.predictor import Predictor as Predictor
from patchpack.serve.predictor import load as load

__version__ = "0.1.0"
