"""Initial weights: those of another run."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from patchpack.checkpoint import (
    CheckpointError,
    check_finite,
    check_fits,
    list_checkpoints,
    load_into,
    load_newest,
)
from patchpack.inference.model_spec import ModelSpec, spec_in_checkpoint
from patchpack.model.empty import without_memory
from patchpack.model.navit import NaViTConfig
from patchpack.model.position_resize import IncompatiblePositions, resize_positions, resize_time
from patchpack.model.positions import Positions, Rotary
from patchpack.model.video import Inflation, VideoConfig, inflate
from patchpack.tasks.backbone_module import BackboneModule

PREFIX = "backbone."
SAME = (  # fields that must be equal for weights to mean the same
    "patch_size", "channels", "dim", "depth", "num_heads", "mlp_dim", "bias", "qk_norm", "norm_eps",
    "activation", "registers", "pooling", "pool_registers", "final_norm", "embed_norm",
)  # fmt: skip


class TrainedModel(NamedTuple):
    """Weights and their spec."""

    folder: Path  # run folder, or that of another library, for messages
    spec: ModelSpec
    tensors: Mapping[str, Tensor]
    file: str  # that holds the tensors, for messages


def best_of_run(folder: Path) -> TrainedModel:
    """The best weights of a run; raises CheckpointError for a folder without good weights."""
    checkpoints = folder / "checkpoints"
    if not list_checkpoints(checkpoints, "best"):
        raise CheckpointError(f"{folder} is not a finished run: it holds no checkpoint `best`")
    checkpoint = load_newest(checkpoints, "best")
    spec, tensors = spec_in_checkpoint(checkpoint), checkpoint.tensors_of("model")
    return TrainedModel(folder, spec, tensors, checkpoint.path("model"))


def initialize(
    module: BackboneModule,
    source: TrainedModel,
    head_matches: Callable[[ModelSpec], bool],
    inflation: Inflation = "central",
) -> bool:
    """Copy trained weights into a module: the backbone, and the head where it matches.

    Positions of another length are resized where that is possible (`model.position_resize`), and
    patches become tubelets (`model.video.inflate`).

    head_matches  whether the head of the model with this spec computes the same
    inflation     how patches become tubelets

    Returns whether the head was copied. Raises CheckpointError for weights of another architecture,
    naming the fields that differ. Pixel normalization may differ; it follows the new config.
    """
    folder, spec, tensors, file = source
    before, after = spec.model, module.backbone.config
    _check_same(before, after, folder)
    check_finite(tensors, file)
    backbone = {n.removeprefix(PREFIX): t for n, t in tensors.items() if n.startswith(PREFIX)}
    with without_memory():
        check_fits(BackboneModule(before).backbone, backbone, file)
    try:
        backbone = resize_positions(backbone, before.positions, after.positions)
    except IncompatiblePositions as error:
        raise CheckpointError(
            f"{folder} has other positions than this model: {error}; give "
            f"{_options(before.positions)}"
        ) from error
    backbone = _for_video(backbone, before, after, inflation, folder)
    if head_matches(spec):
        head = {name: t for name, t in tensors.items() if not name.startswith(PREFIX)}
        load_into(module, head | {PREFIX + name: t for name, t in backbone.items()}, file)
        return True
    load_into(module.backbone, backbone, file)
    try:
        module.load_text_tower(tensors)
    except KeyError as error:
        raise CheckpointError(f"{file} lacks {error}, which this model needs") from error
    except RuntimeError as error:  # of PyTorch, over several lines
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{file} does not fit the text tower: {reason}") from error
    return False


def _check_same(before: NaViTConfig, after: NaViTConfig, folder: Path) -> None:
    """Raise CheckpointError where weights would not fit, or mean something else; the error lists
    the options that make them fit."""
    if isinstance(before, VideoConfig) and not isinstance(after, VideoConfig):
        raise CheckpointError(f"{folder} is a video model, and this model takes images")
    if isinstance(after, VideoConfig) and isinstance(before.positions, Rotary):
        raise CheckpointError(
            f"{folder} cannot become a video model: its positions are rotary, which have no time"
        )
    wrong = {n: getattr(before, n) for n in SAME if getattr(before, n) != getattr(after, n)}
    if wrong:
        differences = ", ".join(
            f"{n} {value}, not {getattr(after, n)}" for n, value in wrong.items()
        )
        options = {f"model.{name}": value for name, value in wrong.items()}
        if isinstance(after, VideoConfig) and "patch_size" in wrong:
            sides = ("model.tubelets.0.height", "model.tubelets.0.width")
            options |= dict.fromkeys(sides, before.patch_size)
        give = " ".join(map(_option, options, options.values()))
        raise CheckpointError(f"{folder} has another architecture ({differences}): give {give}")


def _option(name: str, value: object) -> str:
    """A field as an option of the command line."""
    *folders, name = name.replace("_", "-").split(".")
    if isinstance(value, bool):
        name, value = (name, "") if value else (f"no-{name}", "")
    return f"--{'.'.join([*folders, name])} {value}".rstrip()


def _options(positions: Positions) -> str:
    """A position config as options of the command line."""
    kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(positions).__name__).lower()
    fields = (_option(f"model.positions.{n}", value) for n, value in asdict(positions).items())
    return " ".join([f"model.positions:{kind}", *fields])


def _for_video(
    backbone: dict[str, Tensor],
    before: NaViTConfig,
    after: NaViTConfig,
    inflation: Inflation,
    folder: Path,
) -> Mapping[str, Tensor]:
    """The backbone of an image model as that of a video model, where `after` is one."""
    if not isinstance(after, VideoConfig):
        return backbone
    if isinstance(before, VideoConfig):
        try:
            return resize_time(backbone, before, after)
        except IncompatiblePositions as error:
            raise CheckpointError(
                f"{folder} uses other time positions: {error}; give "
                f"--model.time-table-size {before.time_table_size} "
                f"--model.time-coordinates {before.time_coordinates}"
            ) from error
    try:
        return inflate(backbone, after, inflation)
    except ValueError as error:
        raise CheckpointError(f"{folder} cannot become a video model: {error}") from error
