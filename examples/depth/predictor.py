"""A trained depth estimator: from images to the depth of every pixel."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchpack.batch import PackedBatch
from patchpack.data.images import Pixels
from patchpack.data.pack import AnyImage, to_pixels
from patchpack.inference.predictor import Predictor, Unreadable, skip_unreadable


@dataclass(frozen=True, eq=False)
class DepthImage:
    """The predicted depth of one image."""

    meters: Float[np.ndarray, "height width"]


class DepthPredictor(Predictor):
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
        sizes: deque[tuple[int, int]] = deque()

        def pixels() -> Iterator[Pixels]:
            for image in skip_unreadable(to_pixels, images, unreadable):
                sizes.append(image.shape[:2])
                yield image

        return [
            DepthImage(depth.numpy())
            for batch in self.packs(pixels(), max_tokens)
            for depth in self.depth(batch, [sizes.popleft() for _ in batch.lengths])
        ]

    @torch.inference_mode()
    def depth(
        self, batch: PackedBatch, sizes: Sequence[tuple[int, ...]]
    ) -> list[Float[Tensor, "height width"]]:
        """Depth in meters of a pack's images, of these (height, width), on the host."""
        with self.precision():
            return [d.cpu() for d in self.model.depth(batch.to(self.device), sizes)]
