"""A trained segmenter: from images to the class of every pixel.

    model = load("runs/x")
    prediction = model.predict(["a.jpg"], max_tokens=1024)[0]
    prediction.mask                  [height, width], class numbers
    prediction.shares                {"background": 0.97, "crack": 0.03}

Masks have the size of the image file at every token budget.

Axes: label; height and width in pixels, h and w in patches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from patchpack.batch import PackedBatch
from patchpack.data.images import Pixels
from patchpack.data.pack import AnyImage, check_list, to_pixels
from patchpack.data.packing.resolution import Native
from patchpack.inference.dense import DensePredictor
from patchpack.inference.predictor import Unreadable, finite, skip_unreadable
from patchpack.model.feature_maps import to_maps
from patchpack.tasks.segmentation.model import argmax_pixels, upsample
from patchpack.tasks.segmentation.sliding_window import windows


@dataclass(frozen=True, eq=False)
class SegmentedImage:
    """The predicted mask of one image."""

    mask: UInt8[np.ndarray, "height width"]  # class numbers
    classes: tuple[str, ...]

    @property
    def shares(self) -> dict[str, float]:
        """Share of the pixels of each class that occurs, the largest first."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        return {self.classes[i]: float(counts[i] / self.mask.size) for i in order if counts[i]}


class SegmentationPredictor(DensePredictor):
    """A segmenter on one device."""

    description = "a segmenter"

    @property
    def classes(self) -> tuple[str, ...]:
        return self.spec.task.classes  # pyrefly: ignore

    def predict(
        self,
        images: Sequence[AnyImage],
        *,
        max_tokens: int | None = None,
        sliding_window: bool = False,
        unreadable: Unreadable = None,
    ) -> list[SegmentedImage]:
        """The class of every pixel of each image, at its own size, in the order given.

        max_tokens      maximum tokens of one forward pass: a larger image is resized to it …
        sliding_window  … or keeps its size, and is predicted in overlapping windows of that many

        Raises BadImage for a file that cannot be read, unless `unreadable` collects it, and
        ValueError for any other wrong argument.
        """
        if sliding_window:
            check_list(images)
            tokens = self.tokens_or_default(max_tokens)
            pixels = skip_unreadable(to_pixels, images, unreadable)
            masks = (self._windowed(image, tokens) for image in pixels)
        else:
            masks = (
                mask
                for batch, sizes in self.sized_packs(images, max_tokens, unreadable)
                for mask in self.masks(batch, sizes)
            )
        return [SegmentedImage(mask.numpy().astype(np.uint8), self.classes) for mask in masks]

    @torch.inference_mode()
    def masks(
        self, batch: PackedBatch, sizes: Sequence[tuple[int, ...]]
    ) -> Iterator[Int[Tensor, "height width"]]:
        """The class of every pixel of a pack's images at these (height, width), on the host."""
        with self.precision():
            scores = finite(self.model(batch.to(self.device)).float(), batch)
        maps = zip(to_maps(scores, batch), sizes, strict=True)
        return (argmax_pixels(x, size).cpu() for x, size in maps)

    @torch.inference_mode()
    def _windowed(self, image: Pixels, tokens: int) -> Int[Tensor, "height width"]:
        """Scores are summed where windows overlap; one row of windows is in memory at a time."""
        height, width = image.shape[:2]
        parts = windows((height, width), self.spec.model.patch_size, tokens)
        crops = [image[p.top : p.top + p.height, p.left : p.left + p.width] for p in parts]
        mask = torch.empty(height, width, dtype=torch.uint8)
        top, band = 0, torch.zeros(len(self.classes), parts[0].height, width)
        remaining = iter(parts)
        for batch in self.packs(crops, tokens, resolution=Native()):
            for scores in self._scores(batch):
                p = next(remaining)
                if done := p.top - top:  # no further window reaches above this one
                    mask[top : p.top] = band[:, :done].argmax(0)
                    band = F.pad(band[:, done:], (0, 0, 0, done))
                    top = p.top
                band[..., p.left : p.left + p.width] += upsample([scores], [(p.height, p.width)])[0]
        mask[top:] = band.argmax(0)
        return mask

    def _scores(self, batch: PackedBatch) -> list[Float[Tensor, "label h w"]]:
        with self.precision():
            scores = self.model(batch.to(self.device))
        return to_maps(finite(scores.float().cpu(), batch), batch)
