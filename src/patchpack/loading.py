"""A run's best weights, as whatever they were trained to be."""

from pathlib import Path

import torch
from torch import nn

from patchpack.checkpoint import (
    Checkpoint,
    CheckpointError,
    list_checkpoints,
    load_into,
    load_newest,
)
from patchpack.inference.model_spec import ModelSpec
from patchpack.inference.operating_point import read_operating_point
from patchpack.model.video import VideoConfig
from patchpack.serialization import ConfigError, from_json
from patchpack.tasks.classification.model import ClassificationConfig, Classifier
from patchpack.tasks.classification.predictor import ClassificationPredictor
from patchpack.tasks.classification.video_predictor import VideoClassificationPredictor
from patchpack.tasks.contrastive.model import Contrastive, ContrastiveConfig
from patchpack.tasks.contrastive.predictor import ImageTextPredictor
from patchpack.tasks.detection.model import DetectionConfig, Detector, Float32Linear
from patchpack.tasks.detection.predictor import DetectionPredictor
from patchpack.tasks.segmentation.model import Segmenter
from patchpack.tasks.segmentation.predictor import SegmentationPredictor


def load(
    folder: str | Path, *, device: str | torch.device | None = None
) -> ClassificationPredictor | ImageTextPredictor | DetectionPredictor | SegmentationPredictor:
    """The best weights of a run, ready for use: a Predictor of labels, or a
    ClipPredictor of those of clips, a Matcher of images and texts, a BoxModel that detects, or a
    PixelModel that segments.

    folder  a run's folder
    device  a GPU where there is one, when None

    Raises CheckpointError for a folder that holds no good checkpoint.
    """
    folder = Path(folder)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not list_checkpoints(folder / "checkpoints", "best"):
        raise CheckpointError(
            f"{folder} holds no weights to use: it is not a run, or was stopped before its first "
            "evaluation; continue it with patchpack train --resume"
        )
    checkpoint = load_newest(folder / "checkpoints", "best")
    spec = spec_in_checkpoint(checkpoint)
    operating_point = read_operating_point(folder)
    match spec.task:
        case ClassificationConfig() as task:
            model = Classifier(spec.model, len(spec.classes), task)
            kind = (
                VideoClassificationPredictor
                if isinstance(spec.model, VideoConfig)
                else ClassificationPredictor
            )
            served = kind(model, spec, device, operating_point)
        case ContrastiveConfig() as task:
            model = Contrastive(spec.model, task)
            served = ImageTextPredictor(model, spec, device, operating_point)
        case DetectionConfig() as task:
            model = Detector(spec.model, len(task.classes), task, spec.text_tower)
            served = DetectionPredictor(model, spec, device, operating_point)
        case task:
            model = Segmenter(spec.model, len(task.classes), task)
            served = SegmentationPredictor(model, spec, device, operating_point)
    load_into(model, checkpoint.tensors["model"], str(folder))
    round_matrices(model, served.dtype)
    return served


def spec_in_checkpoint(checkpoint: Checkpoint) -> ModelSpec:
    """How a checkpoint's weights are used; raises CheckpointError where it does not say."""
    try:
        return from_json(ModelSpec, checkpoint.state["model_spec"])
    except (KeyError, ConfigError) as error:
        raise CheckpointError(
            f"{checkpoint.folder} does not say how its weights are used: {error}"
        ) from error


def load_classifier(folder: Path) -> ClassificationPredictor:
    """The best weights of a run that was to be a classifier; raises CheckpointError for others."""
    served = load(folder)
    if not isinstance(served, ClassificationPredictor):
        raise CheckpointError(f"{folder} is {served.kind}, not a classifier")
    return served


def load_labelling(folder: Path) -> ClassificationPredictor | ImageTextPredictor:
    """The best weights of a run that tells labels: what suites judge; raises CheckpointError."""
    served = load(folder)
    if isinstance(served, VideoClassificationPredictor) or not isinstance(
        served, ClassificationPredictor | ImageTextPredictor
    ):
        raise CheckpointError(
            "suites judge classifiers of images and models of images and texts; "
            f"{folder} is {served.kind}"
        )
    return served


def round_matrices(model: nn.Module, dtype: torch.dtype) -> None:
    """Once, to what autocast would round them to in each pass: same answers, half the memory."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and not isinstance(module, Float32Linear):
            module.to(dtype)
