"""Names of earlier versions, so that their runs and checkpoints still load.

One table per category: types, fields and values of configs, tensors and state of checkpoints, files
of a run folder. A rename adds one entry here and nothing elsewhere.
"""

from collections.abc import Mapping
from pathlib import Path

# Dataclass names in "type", old → current.
TYPES = {
    "Fit": "FitTokens",
    "Fixed": "FixedArea",
    "Sampled": "SampledArea",
    "Square": "SquareResize",
    "Spread": "UniformFrames",
    "AtRate": "FixedFps",
    "Every": "StridedFrames",
}
_POSITIONS = {"length": "table_size"}
# Dataclass → its fields, old → current; they apply to subclasses, too.
FIELDS: dict[str, dict[str, str]] = {
    "EncoderConfig": {"heads": "num_heads"},
    "VideoConfig": {"times": "time_table_size"},
    "Factorized": _POSITIONS,
    "Learned2D": _POSITIONS,
    "Sinusoidal": _POSITIONS,
    "Fourier": _POSITIONS,
    "Rotary": _POSITIONS,
    "DataConfig": {"fill": "trim_to_fill", "window": "packing_window"},
    "LoaderConfig": {"ahead": "prefetch", "kind": "worker_type"},
    "Augment": {
        "symmetry": "flip",
        "colour": "color_jitter",
        "operations": "randaugment_ops",
        "magnitude": "randaugment_magnitude",
        "erase": "random_erasing",
        "crop": "min_crop_area",
        "crop_aspect": "max_crop_aspect",
    },
    "OptimConfig": {"body": "optimizer", "clip": "grad_clip_norm"},
    "TrainConfig": {
        "accumulate": "grad_accumulation",
        "lock_trunk": "freeze_backbone",
        "checkpoint_blocks": "activation_checkpointing",
        "compile_blocks": "compile",
    },
    "ContrastiveConfig": {
        "scale": "init_logit_scale",
        "bias": "init_logit_bias",
        "most_scale": "max_logit_scale",
    },
    "DetectionConfig": {
        "focal": "class_weight",
        "l1": "l1_weight",
        "giou": "giou_weight",
        "alpha": "focal_alpha",
        "gamma": "focal_gamma",
    },
    "SegmentationConfig": {"dice": "dice_weight", "ignore": "ignore_index"},
    "ModelSpec": {"towers": "text_tower"},
    "OperatingPoint": {"again": "second_pass_tokens"},
}
# Current (dataclass, field) that held one dataclass, and now holds one of several → the type held.
DEFAULT_TYPES = {("ModelSpec", "text_tower"): "ContrastiveConfig"}
# Current (dataclass, field) → its values, old → current.
VALUES: dict[tuple[str, str], dict[object, object]] = {
    ("Factorized", "combine"): {"stack": "concat"},
    ("Augment", "flip"): {"flip": "horizontal"},
}
# Component of a tensor's dotted name, old → current.
TENSOR_PARTS = {"trunk": "backbone", "of_patches": "patch_proj", "of_classes": "class_proj"}
# Key of a checkpoint's state, old → current.
STATE = {"card": "model_spec"}
# File of a run folder, current → old.
FILES = {"operating_point.json": "serving.json", "text_tower.json": "towers.json"}


def current_fields(cls: type, data: Mapping[str, object]) -> dict[str, object]:
    """Return the JSON object of a dataclass with current field names and values."""
    names = [base.__name__ for base in cls.__mro__]
    renamed = {old: new for name in names for old, new in FIELDS.get(name, {}).items()}
    current: dict[str, object] = {}
    for key, value in data.items():
        new = key if key in getattr(cls, "__dataclass_fields__", {}) else renamed.get(key, key)
        values = VALUES.get((cls.__name__, new), {})
        current[new] = values.get(value, value) if isinstance(value, str) else value
        held = DEFAULT_TYPES.get((cls.__name__, new))
        if held and isinstance(value, dict):
            current[new] = {"type": held} | value
    return current


def current_tensor(name: str) -> str:
    """Return a tensor's current name: `exp_avg/trunk.x` → `exp_avg/backbone.x`.

    Tensors of an optimizer have names `<key>/<parameter>`.
    """
    key, slash, path = name.rpartition("/")
    return key + slash + ".".join(TENSOR_PARTS.get(part, part) for part in path.split("."))


def existing_file(folder: Path, name: str) -> Path:
    """Return the path of a file in a run folder; with its old name if only that exists."""
    old = folder / FILES[name]
    return old if old.exists() and not (folder / name).exists() else folder / name
