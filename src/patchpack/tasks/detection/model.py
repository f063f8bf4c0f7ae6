"""Object detection: one box and one class from every token (OWL-ViT, arXiv 2205.06230).

    tokens → class logits [token, label]
           → box = σ(MLP(token) + bias of the token's patch)    center and size, shares of the image

Tokens and objects of an image are matched one to one; matched tokens are trained on their object,
all others as background.

Axes: token, image, label, object, pair (a token and an object of the same image).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from patchpack.batch import PackedBatch, require_batch
from patchpack.data.tokenizer import Tokenizer, tokenize_and_pack
from patchpack.inference.model_spec import TaskConfig
from patchpack.losses import Loss, focal_terms
from patchpack.model.attention import Attend
from patchpack.model.encoder import init_linear
from patchpack.model.navit import NaViTConfig
from patchpack.tasks.backbone_module import (
    DenseBackboneModule,
    Float32Linear,
    check_unique_class_names,
)
from patchpack.tasks.contrastive.model import ContrastiveConfig
from patchpack.tasks.detection.box_ops import iou_and_giou, to_center_size, to_corners
from patchpack.tasks.detection.matching import match
from patchpack.tasks.detection.open_vocabulary import TextClassifierHead

BOXES, LABELS = "boxes", "box_labels"  # the targets that this task reads, one tensor per image
PRIOR = 0.01  # probability of every class in new weights (Lin et al., arXiv 1708.02002, §3.3)


@dataclass(frozen=True, kw_only=True)
class DetectionConfig(TaskConfig):
    """Classes and loss weights of a detector; the same weights give the matching cost."""

    classes: tuple[str, ...] = ()  # class names to detect; empty: all categories of the data
    open_vocabulary: bool = False
    """Score classes by the text embeddings of their names, with the text tower of --init."""
    class_weight: float = 2.0  # weight of the focal loss of classes (arXiv 2010.04159)
    l1_weight: float = 5.0  # weight of the L1 loss of box centers and sizes
    giou_weight: float = 2.0  # weight of the generalized IoU loss
    focal_alpha: float = 0.25
    """Weight of positives in the focal loss, 0 to 1; negatives get the rest."""
    focal_gamma: float = 2.0  # focusing exponent of the focal loss; 0: cross-entropy

    def __post_init__(self) -> None:
        check_unique_class_names(self.classes)
        weights = self.class_weight, self.l1_weight, self.giou_weight, self.focal_gamma
        if min(weights) < 0 or not 0 <= self.focal_alpha <= 1:
            raise ValueError(
                "loss weights and focal_gamma must be at least 0, focal_alpha must lie in [0, 1]"
            )


class DetectorOutput(NamedTuple):
    """A class and a box from every token."""

    scores: Float[Tensor, "token label"]  # logits
    boxes: Float[Tensor, "token 4"]  # center and size (y, x, height, width), shares of the image


class Detector(DenseBackboneModule):
    """Packed images in, a box and class logits for every token out."""

    def __init__(
        self,
        model: NaViTConfig,
        num_classes: int,
        config: DetectionConfig | None = None,
        text_tower: ContrastiveConfig | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """
        text_tower  whose text side encodes the class names; None: a class is a learned vector
        tokenizer   of that text side
        """
        super().__init__(model)
        self.config, self.tokenizer = config or DetectionConfig(), tokenizer
        self.head = DetectionHead(model.dim, num_classes, text_tower)

    def load_text_tower(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the text tower and the image projection of an image-text model, and embed the class
        names; raises KeyError where tensors are missing."""
        scores = self.head.scores
        if isinstance(scores, TextClassifierHead) and self.tokenizer is not None:
            text = scores.text.config
            names = tokenize_and_pack(
                self.config.classes,
                self.tokenizer,
                max_length=text.max_length,
                vocab_size=text.vocab_size,
            )
            scores.load_text_tower(tensors, names)

    def forward(
        self,
        batch: PackedBatch,
        attend: Attend | None = None,
        class_embeddings: Float[Tensor, "label dim"] | None = None,
    ) -> DetectorOutput:
        """class_embeddings  of other class names than those of training"""
        tokens = self.tokens(batch, attend)
        return self.head(tokens, box_bias(batch), class_embeddings)

    def loss(self, batch: PackedBatch) -> Loss:
        """The sum over all tokens; the count is that of objects, at least one per image."""
        require_batch(batch, self.backbone.config.patch_size)
        boxes, labels = (batch.targets.get(name, []) for name in (BOXES, LABELS))
        if len(boxes) != batch.num_images:
            raise ValueError(f"detection needs the target {BOXES!r} for every image")
        output = DetectorOutput(*(x.float() for x in self(batch)))
        if not batch.num_images:
            return Loss(output.scores.sum() + output.boxes.sum(), 0)
        counts = [len(b) for b in boxes]
        truth, classes = torch.cat(list(boxes)).float(), torch.cat(list(labels))

        def pair_cost(tokens: Tensor, objects: Tensor) -> Float[Tensor, " pair"]:
            return self._pair_cost(output, truth, classes, tokens, objects)

        tokens, objects = match(batch.lengths, counts, pair_cost, truth.device)
        c = self.config
        targets = torch.zeros_like(output.scores)
        targets[tokens, classes[objects]] = 1
        focal = focal_terms(output.scores, targets, c.focal_alpha, c.focal_gamma).sum()
        pred, target = output.boxes.index_select(0, tokens), truth[objects]
        _, giou = iou_and_giou(to_corners(pred), target)
        total = c.class_weight * focal
        total = total + c.l1_weight * (pred - to_center_size(target)).abs().sum()
        total = total + c.giou_weight * (1 - giou).sum()
        return Loss(total, sum(max(1, count) for count in counts))

    def _pair_cost(
        self,
        output: DetectorOutput,
        truth: Tensor,
        classes: Tensor,
        tokens: Tensor,
        objects: Tensor,
    ) -> Float[Tensor, " pair"]:
        c = self.config
        score = output.scores[tokens, classes[objects]]
        positive, negative = (
            focal_terms(score, torch.full_like(score, value), c.focal_alpha, c.focal_gamma)
            for value in (1.0, 0.0)
        )
        pred, target = output.boxes[tokens], truth[objects]
        _, giou = iou_and_giou(to_corners(pred), target)
        distance = (pred - to_center_size(target)).abs().sum(-1)
        return (
            c.class_weight * (positive - negative) + c.l1_weight * distance - c.giou_weight * giou
        )

    def flops(self, lengths: Sequence[int]) -> int:
        """Operations of one forward pass over images of these token counts (`token_flops`)."""
        return self.backbone_flops(lengths) + self.head.flops(sum(lengths))

    def training_flops(self, batch: PackedBatch) -> int:
        """Operations of a forward and a backward pass."""
        head = 3 * self.head.flops(batch.num_tokens)
        return self.backbone_training_flops(batch.lengths) + head


class DetectionHead(nn.Module):
    """Class logits and boxes from tokens."""

    def __init__(
        self, dim: int, num_classes: int, text_tower: ContrastiveConfig | None = None
    ) -> None:
        super().__init__()
        prior = float(np.log(PRIOR / (1 - PRIOR)))
        self.scores = Float32Linear(dim, num_classes)
        if text_tower is not None:
            self.scores = TextClassifierHead(dim, text_tower, num_classes, prior)
        self.hidden = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim)])
        self.boxes = Float32Linear(dim, 4)
        # New weights predict the token's own patch as its box, with low scores.
        for layer in self.hidden:
            init_linear(layer)  # pyrefly: ignore
        nn.init.zeros_(self.boxes.weight)
        nn.init.zeros_(self.boxes.bias)
        if isinstance(self.scores, nn.Linear):
            nn.init.normal_(self.scores.weight, std=0.01)
            nn.init.constant_(self.scores.bias, prior)

    def forward(
        self,
        x: Float[Tensor, "token dim"],
        bias: Float[Tensor, "token 4"],
        class_embeddings: Float[Tensor, "label dim"] | None = None,
    ) -> DetectorOutput:
        hidden = x
        for layer in self.hidden:
            hidden = F.gelu(layer(hidden))
        if class_embeddings is None:
            scores = self.scores(x)
        else:
            scores = self.scores(x, class_embeddings)
        boxes = self.boxes(hidden)
        return DetectorOutput(scores, (boxes + bias).sigmoid().to(boxes.dtype))

    def flops(self, tokens: int) -> int:
        """Operations on a number of tokens."""
        layers = [*self.hidden, self.boxes]
        if isinstance(self.scores, TextClassifierHead):
            weights = self.scores.projection.weight.numel() + self.scores.names.numel()
        else:
            weights = self.scores.weight.numel()
        return 2 * tokens * (weights + sum(la.weight.numel() for la in layers))  # pyrefly: ignore


def box_bias(batch: PackedBatch) -> Float[Tensor, "token 4"]:
    """Logits whose sigmoid is the center and size of each token's patch (OWL-ViT's box bias)."""
    grids = batch.grids.to(batch.coords.device, non_blocking=True)[batch.segments.ids].float()
    shares = torch.cat([(batch.coords.float() + 0.5) / grids, 1 / grids], dim=-1)
    return shares.clamp(1e-4, 1 - 1e-4).logit()
