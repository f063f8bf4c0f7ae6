"""A trained detector as a function from images to boxes.

    model = load("runs/x")
    for box in model.predict(["a.jpg"], max_tokens=1024, least=0.3)[0]:
        box.label, box.score, box.top, box.left, box.bottom, box.right     px of the image

Of two boxes of a class that overlap much, the better one is told.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchpack.batch import PackedBatch
from patchpack.data.pack import AnyImage, to_pixels
from patchpack.data.tokenizer import tokenize_and_pack
from patchpack.inference.predictor import Predictor
from patchpack.metrics.detection import Detections
from patchpack.tasks.detection.box_ops import nms, to_corners
from patchpack.tasks.detection.model import DetectorOutput

CANDIDATES = 1000  # best pairs of a token and a class, of each image
NMS_IOU = 0.5  # IoU from which the worse of two boxes of a class is the same object
SCORE_THRESHOLD = 0.3  # score of a box that is shown


@dataclass(frozen=True)
class Box:
    """One object that was found."""

    label: str
    score: float
    top: float  # px of the image, as the others
    left: float
    bottom: float
    right: float


def decode_detections(
    found: DetectorOutput,
    batch: PackedBatch,
    sizes: Sequence[tuple[int, ...]],
    overlap: float = NMS_IOU,
) -> list[Detections]:
    """The boxes of each image of a pack, best first, in pixels of images of these (height, width);
    of two of a class that overlap by more than an IoU of `overlap`, the better one."""
    scores = found.scores.float().sigmoid().cpu().split(list(batch.lengths))
    boxes = to_corners(found.boxes.float()).clamp(0, 1).cpu().split(list(batch.lengths))
    results = []
    for mine, places, (height, width) in zip(scores, boxes, sizes, strict=True):
        values, order = mine.flatten().topk(min(CANDIDATES, mine.numel()))
        labels = order % mine.shape[1]
        scale = torch.tensor([height, width, height, width], dtype=torch.float32)
        pixels = places[order // mine.shape[1]] * scale
        kept = nms(pixels, values, labels, overlap)
        results.append(Detections(pixels[kept].numpy(), values[kept].numpy(), labels[kept].numpy()))
    return results


class DetectionPredictor(Predictor):
    """A detector ready for use, on one device."""

    kind, kinds = "a detector", "detectors"

    @property
    def names(self) -> tuple[str, ...]:
        return self.spec.task.classes  # pyrefly: ignore

    def predict(
        self,
        images: Sequence[AnyImage],
        names: Sequence[str] = (),
        *,
        max_tokens: int | None = None,
        score_threshold: float = SCORE_THRESHOLD,
    ) -> list[list[Box]]:
        """The objects of each image with a score of `least` or more, best first.

        names  what to look for, with a model that reads names; its own classes when empty

        Raises BadImage for a file that cannot be read, ValueError for anything else wrong.
        """
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold must lie in [0, 1], not {score_threshold}")
        vectors = self.embed_names(names) if names else None
        pixels = [to_pixels(image, f"image {i}") for i, image in enumerate(images)]
        sizes = iter([image.shape[:2] for image in pixels])
        return [
            self._shown(found, names or self.names, score_threshold)
            for batch in self.packs(pixels, max_tokens)
            for found in self.boxes(batch, [next(sizes) for _ in batch.lengths], vectors)
        ]

    def embed_names(self, names: Sequence[str]) -> Float[Tensor, "label dim"]:
        """The vectors of names; raises ValueError where the model reads none, or one is empty."""
        text_tower, tokenizer = self.spec.text_tower, self.spec.tokenizer
        if text_tower is None or tokenizer is None:
            raise ValueError(f"this detector knows its own classes alone: {', '.join(self.names)}")
        packed = tokenize_and_pack(names, tokenizer, text_tower.text.max_length).to(self.device)
        with self.precision():
            return self.model.head.scores.encode(packed)

    @torch.inference_mode()
    def boxes(
        self,
        batch: PackedBatch,
        sizes: Sequence[tuple[int, ...]],
        names: Float[Tensor, "label dim"] | None = None,
    ) -> list[Detections]:
        """All boxes of a pack's images, of these (height, width); names are vectors of others than
        the model's own classes."""
        with self.precision():
            return decode_detections(self.model(batch.to(self.device), names=names), batch, sizes)

    def _shown(self, found: Detections, names: Sequence[str], score_threshold: float) -> list[Box]:
        shown = np.flatnonzero(found.scores >= score_threshold)
        return [
            Box(names[found.labels[i]], float(found.scores[i]), *map(float, found.boxes[i]))
            for i in shown
        ]
