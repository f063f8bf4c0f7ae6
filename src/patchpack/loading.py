"""A run's best weights as the predictor of its task."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from patchpack.checkpoint import (
    STATE,
    Checkpoint,
    CheckpointError,
    check_fits,
    list_checkpoints,
    load_into,
    load_newest,
)
from patchpack.inference.model_spec import ModelSpec, spec_in_checkpoint
from patchpack.inference.operating_point import read_operating_point
from patchpack.model.empty import without_memory
from patchpack.tasks.backbone_module import BackboneModule, Float32Linear
from patchpack.tasks.registry import task_of

MODEL = "model"  # the file of a checkpoint's weights


def load(folder: str | Path, *, device: str | torch.device | None = None) -> Any:
    """The best weights of a run as a Predictor; its class depends on the run's task.

    ClassificationPredictor, VideoClassificationPredictor, ImageTextPredictor, DetectionPredictor or
    SegmentationPredictor.

    folder  run folder
    device  None: the GPU where there is one

    Raises CheckpointError for a folder without a good checkpoint.
    """
    folder = Path(folder)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not folder.is_dir():
        reason = "is not a folder" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder} {reason}: name the folder of a run")
    if not list_checkpoints(folder / "checkpoints", "best"):
        raise CheckpointError(
            f"{folder} holds no trained weights: it is not a run, or the run stopped before its "
            "first evaluation; continue it with patchpack train --resume"
        )
    checkpoint = load_newest(folder / "checkpoints", "best")
    spec = spec_in_checkpoint(checkpoint)
    module = _module(checkpoint, spec)
    point = read_operating_point(folder)
    predictor = task_of(spec.task).predictor(spec)(module, spec, device, point)
    round_matrices(module, predictor.dtype)
    return predictor


def _module(checkpoint: Checkpoint, spec: ModelSpec) -> BackboneModule:
    """The module of a checkpoint with its weights.

    Without memory for it at first, so that a spec of another model than the tensors' is rejected
    before it takes any. Raises CheckpointError for a spec that no module can be built from, and for
    tensors that are not the module's.
    """
    task, state, tensors = (
        task_of(spec.task),
        checkpoint.folder / STATE,
        checkpoint.tensors_of(MODEL),
    )
    if spec.input.tubelets and not task.supports_video:
        raise CheckpointError(f"{state} describes a {task.name} of clips, which does not exist")
    if max(_depths(spec)) > len(tensors):
        raise CheckpointError(f"{state} describes more blocks than {checkpoint.path(MODEL)} holds")
    try:
        with without_memory():
            empty = task.build(spec)
    except Exception as error:  # whatever sizes beyond all limits raise
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")[:200]
        raise CheckpointError(f"{state} describes no model that can be built: {reason}") from error
    check_fits(empty, tensors, checkpoint.path(MODEL))
    module = task.build(spec)
    load_into(module, tensors, checkpoint.path(MODEL))
    return module


def _depths(value: object) -> Iterator[int]:
    """The numbers of blocks in a spec, of every encoder and decoder."""
    for field in fields(value):  # pyrefly: ignore
        inner = getattr(value, field.name)
        if field.name == "depth":
            yield inner
        if is_dataclass(inner):
            yield from _depths(inner)


def round_matrices(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast weight matrices once to the dtype that autocast would cast them to in every pass: the
    same outputs, half the memory."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and not isinstance(module, Float32Linear):
            module.to(dtype)
