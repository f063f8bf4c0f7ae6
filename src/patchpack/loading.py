"""A run's best weights as the predictor of its task."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from patchpack.checkpoint import CheckpointError, list_checkpoints, load_into, load_newest
from patchpack.inference.model_spec import spec_in_checkpoint
from patchpack.inference.operating_point import read_operating_point
from patchpack.tasks.backbone_module import Float32Linear
from patchpack.tasks.registry import task_of


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
    task = task_of(spec.task)
    module = task.build(spec)
    predictor = task.predictor(spec)(module, spec, device, read_operating_point(folder))
    load_into(module, checkpoint.tensors["model"], str(folder))
    round_matrices(module, predictor.dtype)
    return predictor


def round_matrices(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast weight matrices once to the dtype that autocast would cast them to in every pass: the
    same outputs, half the memory."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and not isinstance(module, Float32Linear):
            module.to(dtype)
