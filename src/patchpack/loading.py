"""A run's best weights, as whatever they were trained to be."""

from pathlib import Path

import torch
from torch import nn

from patchpack.checkpoint import Checkpoint, CheckpointError, candidates, load_into, load_newest
from patchpack.inference.model_spec import ModelCard
from patchpack.inference.operating_point import read_serving
from patchpack.model.video import VideoConfig
from patchpack.serialization import ConfigError, from_json
from patchpack.tasks.classification.model import ClassificationConfig, Classifier
from patchpack.tasks.classification.predictor import Predictor
from patchpack.tasks.classification.video_predictor import ClipPredictor
from patchpack.tasks.contrastive.model import Contrastive, ContrastiveConfig
from patchpack.tasks.contrastive.predictor import Matcher
from patchpack.tasks.detection.model import DetectionConfig, Detector, Exact
from patchpack.tasks.detection.predictor import BoxModel
from patchpack.tasks.segmentation.model import Segmenter
from patchpack.tasks.segmentation.predictor import PixelModel


def load(
    folder: str | Path, *, device: str | torch.device | None = None
) -> Predictor | Matcher | BoxModel | PixelModel:
    """The best weights of a run, ready for use: a Predictor of labels, or a
    ClipPredictor of those of clips, a Matcher of images and texts, a BoxModel that detects, or a
    PixelModel that segments.

    folder  a run's folder
    device  a GPU where there is one, when None

    Raises CheckpointError for a folder that holds no good checkpoint.
    """
    folder = Path(folder)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not candidates(folder / "checkpoints", "best"):
        raise CheckpointError(
            f"{folder} holds no weights to use: it is not a run, or was stopped before its first "
            "evaluation; continue it with patchpack train --resume"
        )
    checkpoint = load_newest(folder / "checkpoints", "best")
    card = card_in(checkpoint)
    serving = read_serving(folder)
    match card.task:
        case ClassificationConfig() as task:
            model = Classifier(card.model, len(card.classes), task)
            kind = ClipPredictor if isinstance(card.model, VideoConfig) else Predictor
            served = kind(model, card, device, serving)
        case ContrastiveConfig() as task:
            model = Contrastive(card.model, task)
            served = Matcher(model, card, device, serving)
        case DetectionConfig() as task:
            model = Detector(card.model, len(task.classes), task, card.towers)
            served = BoxModel(model, card, device, serving)
        case task:
            model = Segmenter(card.model, len(task.classes), task)
            served = PixelModel(model, card, device, serving)
    load_into(model, checkpoint.tensors["model"], str(folder))
    round_matrices(model, served.dtype)
    return served


def card_in(checkpoint: Checkpoint) -> ModelCard:
    """How a checkpoint's weights are used; raises CheckpointError where it does not say."""
    try:
        return from_json(ModelCard, checkpoint.state["card"])
    except (KeyError, ConfigError) as error:
        raise CheckpointError(
            f"{checkpoint.folder} does not say how its weights are used: {error}"
        ) from error


def load_classifier(folder: Path) -> Predictor:
    """The best weights of a run that was to be a classifier; raises CheckpointError for others."""
    served = load(folder)
    if not isinstance(served, Predictor):
        raise CheckpointError(f"{folder} is {served.kind}, not a classifier")
    return served


def load_labelling(folder: Path) -> Predictor | Matcher:
    """The best weights of a run that tells labels: what suites judge; raises CheckpointError."""
    served = load(folder)
    if isinstance(served, ClipPredictor) or not isinstance(served, Predictor | Matcher):
        raise CheckpointError(
            "suites judge classifiers of images and models of images and texts; "
            f"{folder} is {served.kind}"
        )
    return served


def round_matrices(model: nn.Module, dtype: torch.dtype) -> None:
    """Once, to what autocast would round them to in each pass: same answers, half the memory."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and not isinstance(module, Exact):
            module.to(dtype)
