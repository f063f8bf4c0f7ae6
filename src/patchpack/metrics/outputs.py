"""What a model says of many images, kept once and looked at by every suite.

`collect` takes any callable from a batch to logits and any iterable of batches that tell their
labels, so a model that is not of this library can be judged too.

Axes: image, label, dim.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchpack.metrics.calibration import Link, softmax


class ModelOutput(NamedTuple):
    """What a model makes of one batch."""

    logits: Float[Tensor, "image label"]
    features: Float[Tensor, "image dim"] | None = None  # of its encoder


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said of labelled images, in one way of showing them."""

    logits: Float[np.ndarray, "image label"]
    labels: Int[np.ndarray, " image"]
    keys: tuple[str, ...] = ()
    features: Float[np.ndarray, "image dim"] | None = None
    gflops: float = 0.0  # of a forward pass of an image, the mean
    ms: float = 0.0  # of a forward pass of an image, the mean, loading left out
    link: Link = softmax  # from logits to the probabilities that the model says

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> Int[np.ndarray, " image"]:
        return self.logits.argmax(1)

    @property
    def correct(self) -> Bool[np.ndarray, " image"]:
        return self.predicted == self.labels

    @property
    def top1(self) -> float:
        return float(self.correct.mean()) if len(self) else 0.0

    def probabilities(self, temperature: float = 1.0) -> Float[np.ndarray, "image label"]:
        return self.link(self.logits, temperature)

    @property
    def confidence(self) -> Float[np.ndarray, " image"]:
        """The probability of the likeliest label."""
        return self.probabilities().max(1)

    def sorted(self) -> "Predictions":
        """In the order of the keys: packs are made by length, which differs between budgets."""
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
    """Ask a model about every batch; images without a label (-1) are left out.

    model   from a batch to logits [image, label], or to an Answer
    batches anything with `targets[label]`, a tensor of one class number an image, and, if wanted,
            `keys`
    flops   operations of the model on a batch

    The time of the model is counted, that of making the batches is not.
    """
    logits: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    features: list[np.ndarray] = []
    keys: list[str] = []
    images = spent = operations = 0.0
    for batch in batches:
        truth = torch.as_tensor(batch.targets[label]).cpu().numpy() if batch.targets else None
        if truth is None or not len(truth):
            continue
        began = time.perf_counter()
        found = model(batch)
        answer = found if isinstance(found, ModelOutput) else ModelOutput(found)
        said = answer.logits.float().cpu().numpy()
        spent += time.perf_counter() - began
        images += len(truth)
        operations += flops(batch)
        known = truth >= 0
        logits.append(said[known])
        labels.append(truth[known])
        if answer.features is not None:
            features.append(answer.features.float().cpu().numpy()[known])
        keys += [key for key, kept in zip(getattr(batch, "keys", ()), known, strict=False) if kept]
    if not labels:
        raise ValueError("there are no labelled images to judge with")
    return Predictions(
        np.concatenate(logits),
        np.concatenate(labels).astype(np.int64),
        tuple(keys),
        np.concatenate(features) if features else None,
        operations / images / 1e9,
        1000 * spent / images,
    )
