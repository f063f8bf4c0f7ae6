"""A trained model as a function from images to labels or vectors.

    model = load("runs/x")
    model.predict(["a.jpg", array], max_tokens=256)

`max_tokens` is the cost dial: the most tokens that one image may take. Many images are packed into
few forward passes; the answers do not depend on which images share a pack.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from patchpack.batch import PackedBatch, Patches, collate
from patchpack.checkpoint import CheckpointError, candidates, load_into, load_newest
from patchpack.data.pack import AnyImage, check_list, to_patches
from patchpack.data.resolution import Native, Resolution
from patchpack.heads.classification import ClassificationConfig, Classifier
from patchpack.model.navit import NaViTConfig
from patchpack.serial import ConfigError, from_json

PACK_TOKENS = 8192  # at most, in one forward pass


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What weights need beside them to be used; kept in every checkpoint."""

    model: NaViTConfig
    task: ClassificationConfig
    classes: tuple[str, ...]
    resolution: Resolution = field(default_factory=Native)  # of training
    eval_tokens: int = 256  # most tokens of an image, where nothing else is asked
    dtype: str = "float32"


@dataclass(frozen=True)
class Prediction:
    """The likeliest labels of one image, best first."""

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def label(self) -> str:
        return self.labels[0]

    @property
    def probability(self) -> float:
        return self.probabilities[0]


class Predictor:
    """A classifier ready for use, on one device."""

    def __init__(self, model: Classifier, card: ModelCard, device: torch.device) -> None:
        self.model, self.card, self.device = model.to(device).eval(), card, device
        self.dtype: torch.dtype = getattr(torch, card.dtype)

    def predict(
        self, images: Sequence[AnyImage], *, max_tokens: int | None = None, top: int = 5
    ) -> list[Prediction]:
        """The `top` likeliest labels of each image, in the order given.

        Raises BadImage for a file that cannot be read, ValueError for anything else wrong.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, not {top}")
        answers = []
        for batch in self._packs(images, max_tokens):
            probabilities = self._probabilities(batch)
            values, labels = probabilities.topk(min(top, len(self.card.classes)), dim=1)
            for row, numbers in zip(values.tolist(), labels.tolist(), strict=True):
                names = tuple(self.card.classes[i] for i in numbers)
                answers.append(Prediction(names, tuple(row)))
        return answers

    def embed(
        self, images: Sequence[AnyImage], *, max_tokens: int | None = None
    ) -> Float[np.ndarray, "image dim"]:
        """The pooled vector of each image, float32."""
        vectors = [self.forward(batch)[0] for batch in self._packs(images, max_tokens)]
        if not vectors:
            return np.empty((0, self.card.model.dim), np.float32)
        return torch.cat(vectors).numpy()

    @torch.inference_mode()
    def forward(self, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Pooled vectors and logits of a pack, float32 on the host."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            pooled = self.model.encode(batch.to(self.device)).pooled
            logits = self.model.head(pooled)
        return pooled.float().cpu(), logits.float().cpu()

    def _probabilities(self, batch: PackedBatch) -> torch.Tensor:
        logits = self.forward(batch)[1]
        return logits.sigmoid() if self.card.task.loss == "sigmoid" else logits.softmax(1)

    def _packs(self, images: Sequence[AnyImage], max_tokens: int | None) -> Iterator[PackedBatch]:
        """Packs of at most PACK_TOKENS, or of one larger image, in the order given."""
        check_list(images)
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
        tokens = max_tokens or self.card.eval_tokens
        model, resolution = self.card.model, self.card.resolution.at(tokens)
        waiting: list[Patches] = []
        room = PACK_TOKENS
        for number, image in enumerate(images):
            patches = to_patches(
                image, f"image {number}", model.patch_size, tokens, resolution,
                model.positions.max_side,
            )  # fmt: skip
            if waiting and len(patches.patches) > room:
                yield collate(waiting, model.patch_dim)
                waiting, room = [], PACK_TOKENS
            waiting.append(patches)
            room -= len(patches.patches)
        if waiting:
            yield collate(waiting, model.patch_dim)


def load(folder: str | Path, *, device: str | torch.device | None = None) -> Predictor:
    """The best weights of a run, ready for use.

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
    try:
        card = from_json(ModelCard, checkpoint.state["card"])
    except (KeyError, ConfigError) as error:
        raise CheckpointError(f"{folder} does not hold a classifier: {error}") from error
    model = Classifier(card.model, len(card.classes), card.task)
    load_into(model, checkpoint.tensors["model"], str(folder))
    predictor = Predictor(model, card, device)
    _round_matrices(model, predictor.dtype)
    return predictor


def _round_matrices(model: nn.Module, dtype: torch.dtype) -> None:
    """Once, to what autocast would round them to in each pass: same answers, half the memory."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.to(dtype)
