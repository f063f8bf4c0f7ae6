"""A trained depth estimator: from images to the depth of every pixel."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchpack.batch import PackedBatch
from patchpack.data.pack import AnyImage
from patchpack.inference.dense import DensePredictor
from patchpack.inference.predictor import Unreadable


@dataclass(frozen=True, eq=False)
class DepthImage:
    """The predicted depth of one image."""

    meters: Float[np.ndarray, "height width"]


class DepthPredictor(DensePredictor):
    """A depth estimator on one device."""

    description = "a depth estimator"

    def predict(
        self,
        images: Sequence[AnyImage],
        *,
        max_tokens: int | None = None,
        unreadable: Unreadable = None,
    ) -> list[DepthImage]:
        """The depth of every pixel of each image, at its own size, in the order given."""
        return [
            DepthImage(depth.numpy())
            for batch, sizes in self.sized_packs(images, max_tokens, unreadable)
            for depth in self.depth(batch, sizes)
        ]

    @torch.inference_mode()
    def depth(
        self, batch: PackedBatch, sizes: Sequence[tuple[int, ...]]
    ) -> list[Float[Tensor, "height width"]]:
        """Depth in meters of a pack's images, of these (height, width), on the host."""
        with self.precision():
            return [d.cpu() for d in self.model.depth(batch.to(self.device), sizes)]
