"""A trained classifier: from images to labels with probabilities.

    model = load("runs/x")
    model.predict(["a.jpg", array], max_tokens=256)

`max_tokens` is the cost dial: the maximum tokens per image. Many images share few forward passes;
predictions do not depend on which images share a pack.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from patchpack.batch import PackedBatch
from patchpack.data.pack import AnyImage
from patchpack.inference.labels import LabelPrediction, top_predictions
from patchpack.inference.predictor import Predictor, Unreadable, finite
from patchpack.metrics.outputs import ModelOutput
from patchpack.tasks.classification.model import ClassificationConfig


class ClassificationPredictor(Predictor):
    """A classifier on one device."""

    @property
    def description(self) -> str:  # pyrefly: ignore
        return "a classifier" if self.classes else "a model of feature vectors, without classes"

    @property
    def scores_labels(self) -> bool:
        return bool(self.classes)

    def predict(
        self,
        images: Sequence[AnyImage],
        *,
        max_tokens: int | None = None,
        top: int = 5,
        unreadable: Unreadable = None,
    ) -> list[LabelPrediction]:
        """The `top` most probable labels of each image, in the order given.

        Without `max_tokens`, at the saved operating point: low-confidence images may get a second
        pass with more tokens. Raises BadImage for a file that cannot be read, unless `unreadable`
        collects it, and ValueError for any other wrong argument.
        """
        self.require_classes()
        logits = self.at_operating_point(self._logits, images, max_tokens, unreadable)
        return top_predictions(self.probabilities(logits), self.classes, top)

    def require_classes(self) -> None:
        """Raise ValueError for a model of feature vectors only."""
        if not self.classes:
            raise ValueError(
                "this model has no classes, it gives feature vectors only: use embed, or train a "
                "classifier that starts from it (patchpack train --init)"
            )

    @property
    def sigmoids(self) -> bool:
        """Whether each label has a probability of its own, as in training with sigmoids."""
        task = self.spec.task
        return isinstance(task, ClassificationConfig) and task.loss == "sigmoid"

    def probabilities(self, logits: Float[Tensor, "image label"]) -> Float[Tensor, "image label"]:
        return logits.sigmoid() if self.sigmoids else logits.softmax(1)

    def _logits(
        self, images: Sequence[AnyImage], max_tokens: int | None, unreadable: Unreadable
    ) -> Float[Tensor, "image label"]:
        """Logits in one pass over the images."""
        packs = self.packs(images, max_tokens, unreadable=unreadable)
        rows = [self.logits(batch) for batch in packs]
        return torch.cat(rows) if rows else torch.empty(0, len(self.classes))

    @torch.inference_mode()
    def outputs(self, batch: PackedBatch) -> ModelOutput:
        """Logits and pooled features of a pack, float32 on the host."""
        with self.precision():
            pooled = self.model.encode(batch.to(self.device)).pooled
            logits = self.model.head(pooled)
        return ModelOutput(finite(logits.float().cpu(), batch), pooled.float().cpu())

    @torch.inference_mode()
    def logits(self, batch: PackedBatch) -> Float[Tensor, "image label"]:
        """The logits of a pack, float32 on the host."""
        with self.precision():
            return finite(self.model(batch.to(self.device)).float().cpu(), batch)
