"""Models with weights: of a run, or of another library."""

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
from patchpack.inference.operating_point import OperatingPoint, read_operating_point
from patchpack.model.empty import without_memory
from patchpack.model.navit import NaViTConfig
from patchpack.model.presets import SHAPE, model_config
from patchpack.pretrained.hub import hub_hint, local_path
from patchpack.pretrained.read import is_foreign, read_trained
from patchpack.serialization import with_fields
from patchpack.tasks.backbone_module import BackboneModule, Float32Linear
from patchpack.tasks.classification.model import ClassificationConfig, Classifier
from patchpack.tasks.initialize import TrainedModel, initialize
from patchpack.tasks.registry import task_of

MODEL = "model"  # the file of a checkpoint's weights


def load(source: str | Path, *, device: str | torch.device | None = None) -> Any:
    """The best weights of a run as a Predictor; its class depends on the run's task.

    ClassificationPredictor, VideoClassificationPredictor, ImageTextPredictor, DetectionPredictor or
    SegmentationPredictor.

    source  run folder; weights of another library: a folder, a file, or hf-hub:owner/name
    device  None: the GPU where there is one

    Raises CheckpointError for a folder without a good checkpoint, and PretrainedError for weights
    of another library that are damaged or of an unknown family.
    """
    folder = local_path(source)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if is_foreign(folder):
        trained = read_trained(folder)
        module = task_of(trained.spec.task).build(trained.spec)
        load_into(module, trained.tensors, trained.file)
        return _predictor(module, trained.spec, device, OperatingPoint())
    if not folder.is_dir():
        reason = "is not a folder" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder} {reason}: name the folder of a run{hub_hint(source)}")
    if not list_checkpoints(folder / "checkpoints", "best"):
        raise CheckpointError(
            f"{folder} holds no trained weights: it is not a run, or the run stopped before its "
            "first evaluation; continue it with patchpack train --resume"
        )
    checkpoint = load_newest(folder / "checkpoints", "best")
    spec = spec_in_checkpoint(checkpoint)
    module = _module(checkpoint, spec)
    return _predictor(module, spec, device, read_operating_point(folder, checkpoint.sums[MODEL]))


def _predictor(
    module: BackboneModule, spec: ModelSpec, device: torch.device, point: OperatingPoint
) -> Any:
    """The predictor of a module's task."""
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


def create_model(
    name: str,
    num_classes: int = 0,
    *,
    pretrained: str | Path | None = None,
    **changes: object,
) -> Classifier:
    """A named model; `list_models` gives the names.

    num_classes  logits per image; 0: pooled features instead of logits
    pretrained   weights of the backbone: a run folder, or weights of another library as for `load`;
                 the config follows them, its sizes must be those of the name. None: new weights
    changes      fields of the model's config (`NaViTConfig`) to replace

    Raises ValueError for a name or a field that does not exist, and for weights of other sizes.
    """
    if num_classes < 0:
        raise ValueError(f"num_classes must be 0 or more, not {num_classes}")
    if pretrained is None:
        return Classifier(model_config(name, **changes), num_classes)
    trained = read_trained(pretrained)
    named, config = model_config(name), with_fields(trained.spec.model, changes)
    _check_sizes(name, named, trained)
    module = Classifier(config, num_classes)
    initialize(module, trained, lambda spec: _same_head(spec, num_classes))
    return module


def _check_sizes(name: str, named: NaViTConfig, trained: TrainedModel) -> None:
    """Raise ValueError where the weights are of other sizes than a named model."""
    actual = trained.spec.model
    differences = [
        f"{field} {getattr(actual, field)}, not {getattr(named, field)}"
        for field in SHAPE
        if getattr(actual, field) != getattr(named, field)
    ]
    if differences or type(actual) is not type(named):
        raise ValueError(
            f"{trained.folder} holds no {name}: {', '.join(differences) or 'clips, not images'}"
        )


def _same_head(spec: ModelSpec, num_classes: int) -> bool:
    """Whether the classifier of the weights has this number of classes."""
    is_classifier = isinstance(spec.task, ClassificationConfig)
    return is_classifier and len(spec.classes) == num_classes


def round_matrices(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast weight matrices once to the dtype that autocast would cast them to in every pass: the
    same outputs, half the memory."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and not isinstance(module, Float32Linear):
            module.to(dtype)
