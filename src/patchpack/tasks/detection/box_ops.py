"""Operations on boxes (top, left, bottom, right): area, IoU, conversion, non-maximum suppression.

Axes: pair (two boxes), box.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def area(boxes: Float[Tensor, "*any 4"]) -> Float[Tensor, "*any"]:
    """Areas; 0 for a box whose sides are in the wrong order."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def iou_and_giou(
    a: Float[Tensor, "*any 4"], b: Float[Tensor, "*any 4"]
) -> tuple[Float[Tensor, "*any"], Float[Tensor, "*any"]]:
    """Intersection over union, and generalized IoU; shapes may broadcast.

    GIoU = IoU − share of the smallest enclosing box that neither box covers (Rezatofighi et al.,
    arXiv 1902.09630, Alg. 1).
    """
    top = torch.maximum(a[..., :2], b[..., :2])
    bottom = torch.minimum(a[..., 2:], b[..., 2:])
    intersection = (bottom - top).clamp(min=0).prod(-1)
    union = area(a) + area(b) - intersection
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    enclosing = (high - low).prod(-1)
    iou = intersection / union.clamp(min=1e-9)
    return iou, iou - (enclosing - union) / enclosing.clamp(min=1e-9)


def to_corners(boxes: Float[Tensor, "*any 4"]) -> Float[Tensor, "*any 4"]:
    """(top, left, bottom, right) from center and size (y, x, height, width)."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([center - half, center + half], dim=-1)


def to_center_size(boxes: Float[Tensor, "*any 4"]) -> Float[Tensor, "*any 4"]:
    """Center and size (y, x, height, width) from (top, left, bottom, right)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def nms(
    boxes: Float[Tensor, "box 4"],
    scores: Float[Tensor, " box"],
    labels: Int[Tensor, " box"],
    iou_threshold: float,
) -> Int[Tensor, " kept"]:
    """Per-class non-maximum suppression: indices of the kept boxes, best score first.

    A box is dropped where its IoU with a better box of its class is above `iou_threshold`.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes, labels = boxes[order], labels[order]
    overlap = iou_and_giou(boxes[:, None], boxes[None])[0]
    same_class = labels[:, None] == labels[None]
    suppresses: Bool[Tensor, "box box"] = (overlap > iou_threshold) & same_class
    kept = torch.ones(len(order), dtype=torch.bool)
    for number in range(len(order)):
        if kept[number]:
            kept[number + 1 :] &= ~suppresses[number, number + 1 :].cpu()
    return order[kept.to(order.device)]
