"""A trained classifier as a function from images to labels or vectors.

    model = load("runs/x")
    model.predict(["a.jpg", array], max_tokens=256)

`max_tokens` is the cost dial: the most tokens that one image may take. Many images are packed into
few forward passes; the answers do not depend on which images share a pack.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from patchpack.batch import PackedBatch
from patchpack.data.pack import AnyImage
from patchpack.inference.predictor import Predictor
from patchpack.metrics.outputs import ModelOutput
from patchpack.tasks.classification.model import ClassificationConfig


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


class ClassificationPredictor(Predictor):
    """A classifier ready for use, on one device."""

    kind, kinds = "a classifier", "classifiers"

    def predict(
        self, images: Sequence[AnyImage], *, max_tokens: int | None = None, top: int = 5
    ) -> list[Prediction]:
        """The `top` likeliest labels of each image, in the order given.

        Without `max_tokens`, as was chosen for the model: images that it is not sure of may be
        shown again with more tokens. Raises BadImage for a file that cannot be read, ValueError
        for anything else wrong.
        """
        logits = self.as_chosen(self._logits, images, max_tokens)
        return top_predictions(self.probabilities(logits), self.spec.classes, top)

    @property
    def sigmoids(self) -> bool:
        """Whether each label has a probability of its own: how the model was trained."""
        task = self.spec.task
        return isinstance(task, ClassificationConfig) and task.loss == "sigmoid"

    def probabilities(self, logits: Float[Tensor, "image label"]) -> Float[Tensor, "image label"]:
        return logits.sigmoid() if self.sigmoids else logits.softmax(1)

    def _logits(
        self, images: Sequence[AnyImage], max_tokens: int | None
    ) -> Float[Tensor, "image label"]:
        """The logits of images, in one pass over them."""
        found = [self.logits(batch) for batch in self.packs(images, max_tokens)]
        return torch.cat(found) if found else torch.empty(0, len(self.spec.classes))

    @torch.inference_mode()
    def answer(self, batch: PackedBatch) -> ModelOutput:
        """Logits and pooled features of a pack, float32 on the host."""
        with self.precision():
            pooled = self.model.encode(batch.to(self.device)).pooled
            logits = self.model.head(pooled)
        return ModelOutput(logits.float().cpu(), pooled.float().cpu())

    @torch.inference_mode()
    def logits(self, batch: PackedBatch) -> Float[Tensor, "image label"]:
        """The logits of a pack, float32 on the host."""
        with self.precision():
            return self.model(batch.to(self.device)).float().cpu()


def top_predictions(
    probabilities: Float[Tensor, "image label"], names: Sequence[str], top: int
) -> list[Prediction]:
    """The `top` likeliest labels of each image; raises ValueError for less than one."""
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    values, labels = probabilities.topk(min(top, len(names)), dim=1)
    return [
        Prediction(tuple(names[i] for i in numbers), tuple(row))
        for row, numbers in zip(values.tolist(), labels.tolist(), strict=True)
    ]
