"""Object detection: one box and one class from every token (OWL-ViT, arXiv 2205.06230).

    tokens → scores of classes [token, label]
           → box = σ(MLP(token) + where the token lies)      centre and size, shares of the image

Boxes and objects of an image are matched one to one, at the least cost (Carion et al., arXiv
2005.12872, §3.1); what is matched learns its object, everything else learns to score nothing.

Axes: token, image, label, object, pair (a token and an object of the same image).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from patchpack.batch import PackedBatch, PackedTexts
from patchpack.losses import Loss, focal_terms
from patchpack.model.attention import Attend
from patchpack.model.encoder import init_linear
from patchpack.model.navit import NaViTConfig
from patchpack.tasks.backbone_module import DenseBackboneModule, check_unique_class_names
from patchpack.tasks.contrastive.model import ContrastiveConfig
from patchpack.tasks.detection.box_ops import iou_and_giou, to_corners
from patchpack.tasks.detection.open_vocabulary import TextClassifierHead

BOXES, LABELS = "boxes", "box_labels"  # the targets this task reads, of one image each
PRIOR = 0.01  # probability of every class at the start, as focal loss wants it


@dataclass(frozen=True, kw_only=True)
class DetectionConfig:
    """What is found, and what the loss weighs; the same weights rule the matching."""

    classes: tuple[str, ...] = ()  # all categories of the data when empty
    open_vocabulary: bool = False  # classes by their names, as the two towers of `init` read them
    class_weight: float = (
        2.0  # weight of the focal loss of classes (Deformable DETR, arXiv 2010.04159) …
    )
    l1_weight: float = 5.0  # … of the distance of centres and sizes …
    giou_weight: float = 2.0  # … and of 1 − generalised IoU
    focal_alpha: float = (
        0.25  # of the focal loss: weight of what is there, beside 1 − α of what is not
    )
    focal_gamma: float = 2.0  # of the focal loss: how little what is easy counts

    def __post_init__(self) -> None:
        check_unique_class_names(self.classes)
        if (
            min(self.class_weight, self.l1_weight, self.giou_weight, self.focal_gamma) < 0
            or not 0 <= self.focal_alpha <= 1
        ):
            raise ValueError("weights and gamma must not be negative, alpha must lie in [0, 1]")


class DetectorOutput(NamedTuple):
    """What every token says."""

    scores: Float[Tensor, "token label"]  # logits
    boxes: Float[Tensor, "token 4"]  # centre and size (y, x, height, width), shares of the image


class Detector(DenseBackboneModule):
    """Packed images in, a box and scores of classes for every token out."""

    def __init__(
        self,
        model: NaViTConfig,
        num_classes: int,
        config: DetectionConfig | None = None,
        text_tower: ContrastiveConfig | None = None,
        names: PackedTexts | None = None,
    ) -> None:
        """
        towers  whose text side tells classes by their names; a class is a learned row when None
        names   of the classes, as that side reads them, for `adopt`
        """
        super().__init__(model)
        self.config, self.names = config or DetectionConfig(), names
        self.head = DetectionHead(model.dim, num_classes, text_tower)

    def load_text_tower(self, tensors: Mapping[str, Tensor]) -> None:
        if isinstance(self.head.scores, TextClassifierHead) and self.names is not None:
            self.head.scores.load_text_tower(tensors, self.names)

    def forward(
        self,
        batch: PackedBatch,
        attend: Attend | None = None,
        names: Float[Tensor, "label dim"] | None = None,
    ) -> DetectorOutput:
        """What every token says; of other names than those trained on, given as vectors."""
        return self.head(self.tokens(batch, attend), own_places(batch), names)

    def loss(self, batch: PackedBatch) -> Loss:
        """Over all tokens; divided, by the loop, by the objects, an image counting for one at
        least."""
        boxes, labels = (batch.targets.get(name, []) for name in (BOXES, LABELS))
        if len(boxes) != batch.num_images:
            raise ValueError(f"detection needs the target {BOXES!r} for every image")
        found = DetectorOutput(*(x.float() for x in self(batch)))
        if not batch.num_images:
            return Loss(found.scores.sum() + found.boxes.sum(), 0)
        counts = [len(b) for b in boxes]
        truth, classes = torch.cat(list(boxes)).float(), torch.cat(list(labels))
        tokens, objects = self._match(found, truth, classes, batch.lengths, counts)
        told = torch.zeros_like(found.scores)
        told[tokens, classes[objects]] = 1
        total = (
            self.config.class_weight
            * focal_terms(
                found.scores, told, self.config.focal_alpha, self.config.focal_gamma
            ).sum()
        )
        mine, theirs = found.boxes.index_select(0, tokens), truth[objects]
        _, giou = iou_and_giou(to_corners(mine), theirs)
        total = total + self.config.l1_weight * (mine - to_center_size(theirs)).abs().sum()
        total = total + self.config.giou_weight * (1 - giou).sum()
        return Loss(total, sum(max(1, count) for count in counts))

    @torch.no_grad()
    def _match(
        self,
        found: DetectorOutput,
        truth: Float[Tensor, "object 4"],
        classes: Int[Tensor, " object"],
        lengths: Sequence[int],
        counts: Sequence[int],
    ) -> tuple[Int[Tensor, " match"], Int[Tensor, " match"]]:
        """Numbers of tokens and of the objects they are to find, images one after the other.

        The costs of all pairs are computed at once, and copied to the host once.
        """
        from scipy.optimize import linear_sum_assignment

        tokens, objects = _pairs(lengths, counts)
        device = truth.device
        cost = self._costs(found, truth, classes, tokens.to(device), objects.to(device))
        costs = cost.nan_to_num().cpu().double().numpy()  # NaN: the loss will say so
        matched: list[tuple[np.ndarray, np.ndarray]] = []
        place = token = first = 0
        for n, m in zip(lengths, counts, strict=True):
            rows, columns = linear_sum_assignment(costs[place : place + n * m].reshape(n, m))
            matched.append((rows + token, columns + first))
            place, token, first = place + n * m, token + n, first + m
        return tuple(  # pyrefly: ignore
            torch.from_numpy(np.concatenate(side)).long().to(device)
            for side in zip(*matched, strict=True)
        )

    def _costs(
        self, found: DetectorOutput, truth: Tensor, classes: Tensor, tokens: Tensor, objects: Tensor
    ) -> Float[Tensor, " pair"]:
        c = self.config
        score = found.scores[tokens, classes[objects]]
        there, absent = (
            focal_terms(score, torch.full_like(score, value), c.focal_alpha, c.focal_gamma)
            for value in (1.0, 0.0)
        )
        mine, theirs = found.boxes[tokens], truth[objects]
        _, giou = iou_and_giou(to_corners(mine), theirs)
        distance = (mine - to_center_size(theirs)).abs().sum(-1)
        return c.class_weight * (there - absent) + c.l1_weight * distance - c.giou_weight * giou

    def flops(self, lengths: Sequence[int]) -> int:
        """Operations of one forward pass over images of these lengths (`token_flops`)."""
        return self.backbone_flops(lengths) + self.head.flops(sum(lengths))

    def training_flops(self, batch: PackedBatch) -> int:
        """Operations of a forward and a backward pass."""
        head = 3 * self.head.flops(batch.num_tokens)
        return self.backbone_training_flops(batch.lengths) + head


class Float32Linear(nn.Linear):
    """In float32, whatever autocast says: rounded scores would tie, and boxes jump."""

    def forward(self, x: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any out"]:  # pyrefly: ignore
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class DetectionHead(nn.Module):
    """Scores and boxes from tokens."""

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
        # Start from boxes that are the tokens' own patches, and from low scores.
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
        places: Float[Tensor, "token 4"],
        names: Float[Tensor, "label dim"] | None = None,
    ) -> DetectorOutput:
        hidden = x
        for layer in self.hidden:
            hidden = F.gelu(layer(hidden))
        scores = self.scores(x) if names is None else self.scores(x, names)
        return DetectorOutput(scores, (self.boxes(hidden) + places).sigmoid())

    def flops(self, tokens: int) -> int:
        """Operations on so many tokens."""
        layers = [*self.hidden, self.boxes]
        if isinstance(self.scores, TextClassifierHead):
            numbers = self.scores.projection.weight.numel() + self.scores.names.numel()
        else:
            numbers = self.scores.weight.numel()
        return 2 * tokens * (numbers + sum(la.weight.numel() for la in layers))  # pyrefly: ignore


def own_places(batch: PackedBatch) -> Float[Tensor, "token 4"]:
    """Of every token, what a sigmoid turns into the centre and size of its patch."""
    grids = batch.grids.to(batch.coords.device, non_blocking=True)[batch.segments.ids].float()
    shares = torch.cat([(batch.coords.float() + 0.5) / grids, 1 / grids], dim=-1)
    return shares.clamp(1e-4, 1 - 1e-4).logit()


def to_center_size(boxes: Float[Tensor, "*any 4"]) -> Float[Tensor, "*any 4"]:
    """Centre and size (y, x, height, width) of boxes given by their corners."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def _pairs(
    lengths: Sequence[int], counts: Sequence[int]
) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """Numbers of all tokens with those of all objects of the same image, token by token."""
    tokens, objects = [], []
    token = first = 0
    for n, m in zip(lengths, counts, strict=True):
        tokens.append(torch.arange(token, token + n).repeat_interleave(m))
        objects.append(torch.arange(first, first + m).repeat(n))
        token, first = token + n, first + m
    return torch.cat(tokens), torch.cat(objects)
