"""A trained segmenter as a function from images to the class of every pixel.

    model = load("runs/x")
    found = model.predict(["a.jpg"], max_tokens=1024)[0]
    found.mask                  [height, width], numbers of classes
    found.shares                {"background": 0.97, "crack": 0.03}

Masks have the image's own size, whatever the model was shown.
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
from patchpack.data.pack import AnyImage, to_pixels
from patchpack.data.packing.resolution import Native
from patchpack.inference.predictor import Predictor
from patchpack.model.feature_maps import to_maps
from patchpack.tasks.segmentation.model import upsample
from patchpack.tasks.segmentation.sliding_window import windows


@dataclass(frozen=True, eq=False)
class SegmentedImage:
    """What the pixels of one image were said to be."""

    mask: UInt8[np.ndarray, "height width"]  # numbers of classes
    classes: tuple[str, ...]

    @property
    def shares(self) -> dict[str, float]:
        """The share of the pixels that each class has, the largest first, none of 0."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        return {self.classes[i]: float(counts[i] / self.mask.size) for i in order if counts[i]}


class SegmentationPredictor(Predictor):
    """A segmenter ready for use, on one device."""

    kind, kinds = "a segmenter", "segmenters"

    @property
    def names(self) -> tuple[str, ...]:
        return self.spec.task.classes  # pyrefly: ignore

    def predict(
        self,
        images: Sequence[AnyImage],
        *,
        max_tokens: int | None = None,
        sliding_window: bool = False,
    ) -> list[SegmentedImage]:
        """The class of every pixel of each image, at its own size, in the order given.

        max_tokens  most tokens of one pass over an image: a larger one is resized to it …
        windowed    … or, left at its size, is seen through overlapping windows of so many

        Raises BadImage for a file that cannot be read, ValueError for anything else wrong.
        """
        pixels = [to_pixels(image, f"image {i}") for i, image in enumerate(images)]
        if sliding_window:
            tokens = self.spec.eval_tokens if max_tokens is None else max_tokens
            if tokens < 1:
                raise ValueError(f"max_tokens must be at least 1, not {tokens}")
            masks = [self._windowed(image, tokens) for image in pixels]
        else:
            sizes = iter([image.shape[:2] for image in pixels])
            masks = [
                mask
                for batch in self.packs(pixels, max_tokens)
                for mask in self.masks(batch, [next(sizes) for _ in batch.lengths])
            ]
        return [SegmentedImage(mask.numpy().astype(np.uint8), self.names) for mask in masks]

    @torch.inference_mode()
    def masks(
        self, batch: PackedBatch, sizes: Sequence[tuple[int, ...]]
    ) -> Iterator[Int[Tensor, "height width"]]:
        """The class of every pixel of a pack's images, of these (height, width), on the host."""
        with self.precision():
            found = self.model.classes(batch.to(self.device), sizes)
        return (mask.cpu() for mask in found)

    @torch.inference_mode()
    def _windowed(self, image: Pixels, tokens: int) -> Int[Tensor, "height width"]:
        """Scores add up where windows overlap; those of one row of windows are kept at a time."""
        height, width = image.shape[:2]
        parts = windows((height, width), self.spec.model.patch_size, tokens)
        crops = [image[p.top : p.top + p.height, p.left : p.left + p.width] for p in parts]
        found = torch.empty(height, width, dtype=torch.uint8)
        top, band = 0, torch.zeros(len(self.names), parts[0].height, width)
        waiting = iter(parts)
        for batch in self.packs(crops, tokens, Native()):
            for scores in self._scores(batch):
                p = next(waiting)
                if done := p.top - top:  # no window to come reaches above this one
                    found[top : p.top] = band[:, :done].argmax(0)
                    band = F.pad(band[:, done:], (0, 0, 0, done))
                    top = p.top
                band[..., p.left : p.left + p.width] += upsample([scores], [(p.height, p.width)])[0]
        found[top:] = band.argmax(0)
        return found

    def _scores(self, batch: PackedBatch) -> list[Float[Tensor, "label h w"]]:
        with self.precision():
            scores = self.model(batch.to(self.device))
        return to_maps(scores.float().cpu(), batch)
