"""Names of earlier versions: their runs load, their commands and recipes fail with the new name.

One table per category: types, fields and values of configs, tensors and state of checkpoints, files
of a run folder, and what users write in commands, recipes and programs. A rename adds one entry
here and nothing elsewhere.
"""

import re
from collections.abc import Mapping, Sequence
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

# Options of commands, old → current.
OPTIONS = {
    "at": "robustness_tokens",
    "least": "score_threshold",
    "max_boxes": "max_detections",
    "shifted": "shifted_data",
    "windowed": "sliding_window",
}
# Names that programs and recipes import, old → current.
PYTHON = {
    "BoxModel": "DetectionPredictor",
    "ClipPredictor": "VideoClassificationPredictor",
    "DataConfig": "patchpack.data.config.DataConfig",
    "Matcher": "ImageTextPredictor",
    "PixelModel": "SegmentationPredictor",
    "Predictor": "ClassificationPredictor",
    "RunConfig": "patchpack.config.RunConfig",
    "patchpack.data.augment": "patchpack.data.transforms.augment",
    "patchpack.data.dropping": "patchpack.data.packing.dropping",
    "patchpack.data.frames": "patchpack.data.video.frame_sampling",
    "patchpack.data.resolution": "patchpack.data.packing.resolution",
    "patchpack.heads": "patchpack.tasks",
    "patchpack.judge": "patchpack.evaluation",
    "patchpack.recipe": "patchpack.config",
    "patchpack.serve": "patchpack.loading",
    "patchpack.suites": "patchpack.evaluation",
}
# Section of the options of `train` → the dataclasses whose fields they are.
SECTIONS = {
    "data": ("DataConfig",),
    "data.loader": ("LoaderConfig",),
    "data.augment": ("Augment",),
    "model": ("EncoderConfig", "VideoConfig"),
    "model.positions": ("Factorized",),
    "optim": ("OptimConfig",),
    "task": ("ContrastiveConfig", "DetectionConfig", "SegmentationConfig"),
    "task.text": ("EncoderConfig",),
    "train": ("TrainConfig",),
}


def renamed_options(words: Sequence[str]) -> list[tuple[str, str]]:
    """Old and new form of each option with an old name: `--optim.clip`, `data.frames:every`."""
    renamed = []
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--"):
            section, dot, name = option[2:].rpartition(".")
            fields = {o: n for cls in SECTIONS.get(section, ()) for o, n in FIELDS[cls].items()}
            new = (fields if section else OPTIONS).get(name.replace("-", "_"))
            if new:
                renamed.append((option, f"--{section}{dot}{new.replace('_', '-')}"))
        else:
            section, colon, name = option.rpartition(":")
            types = {_kebab(old): _kebab(new) for old, new in TYPES.items()}
            if colon and name in types:
                renamed.append((option, f"{section}:{types[name]}"))
    return renamed


def renamed_python(message: str) -> list[tuple[str, str]]:
    """Old and new form of each old name that an error message quotes."""
    fields = {old: new for fields in FIELDS.values() for old, new in fields.items()}
    table = fields | TYPES | PYTHON
    return [(name, table[name]) for name in re.findall(r"'([\w.]+)'", message) if name in table]


def _kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


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
