"""Depth estimation: the logarithm of depth from every token, upsampled to pixels.

Axes: token, image; height and width in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from patchpack.batch import PackedBatch
from patchpack.inference.model_spec import TaskConfig
from patchpack.losses import Loss
from patchpack.model.attention import Attend
from patchpack.model.feature_maps import to_maps
from patchpack.model.navit import NaViTConfig
from patchpack.tasks.backbone_module import DenseBackboneModule


@dataclass(frozen=True, kw_only=True)
class DepthConfig(TaskConfig):
    """Loss of a depth estimator."""

    variance_focus: float = 0.85  # weight of the mean error that scale invariance removes, 0 to 1

    def __post_init__(self) -> None:
        if not 0 <= self.variance_focus <= 1:
            raise ValueError(f"variance_focus must lie in [0, 1], not {self.variance_focus}")


class DepthEstimator(DenseBackboneModule):
    """Packed images in, log depth of every token out."""

    def __init__(self, model: NaViTConfig, config: DepthConfig) -> None:
        super().__init__(model)
        self.config = config
        self.head = nn.Linear(model.dim, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: PackedBatch, attend: Attend | None = None) -> Float[Tensor, "token 1"]:
        return self.head(self.tokens(batch, attend))

    def depth(
        self, batch: PackedBatch, sizes: Sequence[tuple[int, ...]]
    ) -> list[Float[Tensor, "height width"]]:
        """Depth in meters at every pixel of images of these (height, width)."""
        maps = to_maps(self(batch).float(), batch)
        return [
            F.interpolate(x[None], size, mode="bilinear", align_corners=False)[0, 0].exp()
            for x, size in zip(maps, sizes, strict=True)
        ]

    def loss(self, batch: PackedBatch) -> Loss:
        """Scale-invariant error of log depth (Eigen et al., arXiv 1406.2283, §3.2), an image at a
        time; pixels of unknown depth do not count."""
        targets = batch.targets.get("depth", [])
        if not batch.num_images:
            return Loss(0 * self(batch).sum(), 0)
        predictions = self.depth(batch, [tuple(target.shape) for target in targets])
        total = torch.zeros((), device=batch.patches.device)
        for pred, target in zip(predictions, targets, strict=True):
            known = target > 0
            if known.any():
                error = pred[known].log() - target[known].log()
                focus = self.config.variance_focus
                total = total + (error**2).mean() - focus * error.mean() ** 2
            else:
                total = total + 0 * pred.sum()
        return Loss(total, batch.num_images)

    def training_flops(self, batch: PackedBatch) -> int:
        head = 6 * self.head.weight.numel() * batch.num_tokens
        return self.backbone_training_flops(batch.lengths) + head
