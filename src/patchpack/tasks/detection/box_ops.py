"""Boxes (top, left, bottom, right) as tensors: how much two of them overlap.

Axes: pair (a box and another), box.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def area(boxes: Float[Tensor, "*any 4"]) -> Float[Tensor, "*any"]:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def iou_and_giou(
    a: Float[Tensor, "*any 4"], b: Float[Tensor, "*any 4"]
) -> tuple[Float[Tensor, "*any"], Float[Tensor, "*any"]]:
    """Intersection over union, and the same less the share of the smallest box around both that
    neither fills (Rezatofighi et al., arXiv 1902.09630, Alg. 1); shapes may broadcast."""
    top = torch.maximum(a[..., :2], b[..., :2])
    bottom = torch.minimum(a[..., 2:], b[..., 2:])
    both = (bottom - top).clamp(min=0).prod(-1)
    either = area(a) + area(b) - both
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    around = (high - low).prod(-1)
    iou = both / either.clamp(min=1e-9)
    return iou, iou - (around - either) / around.clamp(min=1e-9)


def to_corners(boxes: Float[Tensor, "*any 4"]) -> Float[Tensor, "*any 4"]:
    """(top, left, bottom, right) of boxes given by centre and size (y, x, height, width)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def nms(
    boxes: Float[Tensor, "box 4"],
    scores: Float[Tensor, " box"],
    labels: Int[Tensor, " box"],
    most: float,
) -> Int[Tensor, " kept"]:
    """The boxes to keep, best first: none that overlaps a better one of its class by an IoU of
    more than `most` (non-maximum suppression)."""
    order = scores.argsort(descending=True, stable=True)
    boxes, labels = boxes[order], labels[order]
    overlap = iou_and_giou(boxes[:, None], boxes[None])[0]
    hides: Bool[Tensor, "box box"] = (overlap > most) & (labels[:, None] == labels[None])
    kept = torch.ones(len(order), dtype=torch.bool)
    for number in range(len(order)):
        if kept[number]:
            kept[number + 1 :] &= ~hides[number, number + 1 :].cpu()
    return order[kept.to(order.device)]
