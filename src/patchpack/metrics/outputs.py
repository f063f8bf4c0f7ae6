"""Predictions of a model on labeled images: logits, labels, features and cost.

`collect_predictions` takes any callable from a batch to logits and any iterable of batches with
labels, so it also evaluates models from outside this library.

Axes: image, label, dim.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchpack.metrics.calibration import Link, softmax
from patchpack.metrics.undefined import ratio

NAMED = 5  # images that an error lists


class ModelOutput(NamedTuple):
    """The outputs of a model for one batch."""

    logits: Float[Tensor, "image label"]
    features: Float[Tensor, "image dim"] | None = None  # pooled encoder features


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of a model on labeled images under one evaluation condition."""

    logits: Float[np.ndarray, "image label"]
    labels: Int[np.ndarray, " image"]  # class indices >= 0
    keys: tuple[str, ...] = ()  # image keys; may be empty
    features: Float[np.ndarray, "image dim"] | None = None
    gflops: float = 0.0  # mean GFLOP of a forward pass per image
    ms: float = 0.0  # mean milliseconds of a forward pass per image, without data loading
    link: Link = softmax  # logits to probabilities: softmax or sigmoid

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> Int[np.ndarray, " image"]:
        """Class index with the highest logit."""
        return self.logits.argmax(1)

    @property
    def correct(self) -> Bool[np.ndarray, " image"]:
        """Whether the predicted class is the label."""
        return self.predicted == self.labels

    @property
    def top1(self) -> float:
        """Top-1 accuracy, in [0, 1]; higher is better.

        NaN without images, for a single class, and where logits are not finite.
        """
        if self.logits.shape[1] < 2 or not _finite(self.logits).all():
            return math.nan
        return ratio(float(self.correct.sum()), len(self))

    def probabilities(self, temperature: float = 1.0) -> Float[np.ndarray, "image label"]:
        """Return link(logits, temperature), in [0, 1]."""
        return self.link(self.logits, temperature)

    @property
    def confidence(self) -> Float[np.ndarray, " image"]:
        """Highest probability of each image, in [0, 1]."""
        return self.probabilities().max(1)

    def sorted(self) -> "Predictions":
        """Return the same predictions in the order of the keys.

        Packs group images by length, so the order of images differs between token budgets.
        """
        order = np.argsort(np.array(self.keys))
        return replace(
            self,
            logits=self.logits[order],
            labels=self.labels[order],
            keys=tuple(self.keys[i] for i in order),
            features=None if self.features is None else self.features[order],
        )


def collect_predictions(
    model: Callable[[Any], ModelOutput | Tensor],
    batches: Iterable[Any],
    *,
    label: str = "label",
    flops: Callable[[Any], float] = lambda batch: 0.0,
) -> Predictions:
    """Run a model on every batch and return its predictions.

    model    callable from a batch to logits [image, label] or to a ModelOutput
    batches  objects with `targets[label]`, one class index per image, and optionally `keys`
    label    key of the labels in `targets`
    flops    operations of the model for a batch

    Images without a label (-1) are skipped, but count for the mean cost. Only the time in the model
    is measured, not data loading. Raise ValueError without labeled images, and for logits that are
    not finite.
    """
    logits: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    features: list[np.ndarray] = []
    keys: list[str] = []
    images = seconds = operations = 0.0
    for batch in batches:
        targets = torch.as_tensor(batch.targets[label]).cpu().numpy() if batch.targets else None
        if targets is None or not len(targets):
            continue
        start = time.perf_counter()
        result = model(batch)
        output = result if isinstance(result, ModelOutput) else ModelOutput(result)
        batch_logits = output.logits.float().cpu().numpy()
        seconds += time.perf_counter() - start
        images += len(targets)
        operations += flops(batch)
        labeled = targets >= 0
        logits.append(batch_logits[labeled])
        labels.append(targets[labeled])
        if output.features is not None:
            features.append(output.features.float().cpu().numpy()[labeled])
        keys += [
            key for key, keep in zip(getattr(batch, "keys", ()), labeled, strict=False) if keep
        ]
    if not sum(map(len, labels)):
        raise ValueError("evaluation needs labeled images: the batches have none")
    rows = np.concatenate(logits)
    if wrong := np.flatnonzero(~_finite(rows)).tolist():
        names = ", ".join(keys[i] for i in wrong[:NAMED] if i < len(keys))
        raise ValueError(
            f"the logits of {len(wrong)} of {len(rows)} images are not finite ({names}): the "
            "model's weights are damaged or have diverged"
        )
    return Predictions(
        rows,
        np.concatenate(labels).astype(np.int64),
        tuple(keys),
        np.concatenate(features) if features else None,
        operations / images / 1e9,
        1000 * seconds / images,
    )


def _finite(logits: Float[np.ndarray, "image label"]) -> Bool[np.ndarray, " image"]:
    """Return whether the softmax of each image is defined: no logit is NaN or +∞."""
    return np.logical_and((logits < np.inf).all(1), (logits > -np.inf).any(1))
