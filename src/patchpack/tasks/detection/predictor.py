"""A trained detector: from images to boxes.

    model = load("runs/x")
    for box in model.predict(["a.jpg"], max_tokens=1024, score_threshold=0.3)[0]:
        box.label, box.score, box.top, box.left, box.bottom, box.right     px of the image file

Per-class non-maximum suppression is applied.

Axes: token, label, dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchpack.batch import PackedBatch
from patchpack.data.pack import AnyImage
from patchpack.data.tokenizer import tokenize_and_pack
from patchpack.inference.dense import DensePredictor
from patchpack.inference.predictor import Unreadable, finite
from patchpack.metrics.detection import Detections
from patchpack.tasks.backbone_module import check_unique_class_names
from patchpack.tasks.contrastive.model import ContrastiveConfig
from patchpack.tasks.detection.box_ops import nms, to_corners
from patchpack.tasks.detection.model import DetectorOutput

CANDIDATES = 1000  # best pairs of a token and a class per image, before nms
NMS_IOU = 0.5  # IoU above which the worse of two boxes of a class is dropped
SCORE_THRESHOLD = 0.3  # minimum score of a reported box


@dataclass(frozen=True)
class Box:
    """One detected object."""

    label: str
    score: float
    top: float  # px of the image file, as the other sides
    left: float
    bottom: float
    right: float


def decode_detections(
    output: DetectorOutput,
    batch: PackedBatch,
    sizes: Sequence[tuple[int, ...]],
    nms_iou: float = NMS_IOU,
) -> list[Detections]:
    """The boxes of each image of a pack, best first, after nms.

    sizes  (height, width) in pixels of the images that the boxes are given in
    """
    scores = output.scores.float().sigmoid().cpu().split(list(batch.lengths))
    boxes = to_corners(output.boxes.float()).clamp(0, 1).cpu().split(list(batch.lengths))
    detections = []
    for image_scores, image_boxes, (height, width) in zip(scores, boxes, sizes, strict=True):
        num_classes = image_scores.shape[1]
        values, order = image_scores.flatten().topk(min(CANDIDATES, image_scores.numel()))
        labels = order % num_classes
        scale = torch.tensor([height, width, height, width], dtype=torch.float32)
        pixels = image_boxes[order // num_classes] * scale
        kept = nms(pixels, values, labels, nms_iou)
        detections.append(
            Detections(pixels[kept].numpy(), values[kept].numpy(), labels[kept].numpy())
        )
    return detections


class DetectionPredictor(DensePredictor):
    """A detector on one device."""

    description = "a detector"

    @property
    def classes(self) -> tuple[str, ...]:
        return self.spec.task.classes  # pyrefly: ignore

    def predict(
        self,
        images: Sequence[AnyImage],
        names: Sequence[str] = (),
        *,
        max_tokens: int | None = None,
        score_threshold: float = SCORE_THRESHOLD,
        unreadable: Unreadable = None,
    ) -> list[list[Box]]:
        """The boxes of each image with at least a score of `score_threshold`, best first.

        names  classes to detect, for an open-vocabulary detector; empty: those of training

        Raises BadImage for a file that cannot be read, unless `unreadable` collects it, and
        ValueError for any other wrong argument.
        """
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold must lie in [0, 1], not {score_threshold}")
        embeddings = self.embed_classes(names) if names else None
        return [
            _boxes(detections, names or self.classes, score_threshold)
            for batch, sizes in self.sized_packs(images, max_tokens, unreadable)
            for detections in self.detect(batch, sizes, embeddings)
        ]

    def embed_classes(self, names: Sequence[str]) -> Float[Tensor, "label dim"]:
        """The embeddings of class names; raises ValueError for a detector of fixed classes, and
        for names that are empty or repeat."""
        check_unique_class_names(names)
        text_tower, tokenizer = self.spec.text_tower, self.spec.tokenizer
        if not isinstance(text_tower, ContrastiveConfig) or tokenizer is None:
            raise ValueError(
                f"this detector has fixed classes, and takes no --labels: {', '.join(self.classes)}"
            )
        text = text_tower.text
        packed = tokenize_and_pack(
            names, tokenizer, max_length=text.max_length, vocab_size=text.vocab_size
        )
        with self.precision():
            return self.model.head.scores.encode(packed.to(self.device))

    @torch.inference_mode()
    def detect(
        self,
        batch: PackedBatch,
        sizes: Sequence[tuple[int, ...]],
        class_embeddings: Float[Tensor, "label dim"] | None = None,
    ) -> list[Detections]:
        """All detections of a pack's images, in pixels of these (height, width).

        class_embeddings  of other class names than those of training
        """
        with self.precision():
            output = self.model(batch.to(self.device), class_embeddings=class_embeddings)
            for values in output:
                finite(values, batch)
            return decode_detections(output, batch, sizes)


def _boxes(detections: Detections, names: Sequence[str], score_threshold: float) -> list[Box]:
    return [
        Box(
            names[detections.labels[i]],
            float(detections.scores[i]),
            *map(float, detections.boxes[i]),
        )
        for i in np.flatnonzero(detections.scores >= score_threshold)
    ]
