"""Classification: a backbone, one linear layer, and a loss.

Axes: image, label.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from patchpack.batch import PackedBatch, require_batch
from patchpack.inference.model_spec import TaskConfig
from patchpack.losses import Loss, sigmoid_cross_entropy, softmax_cross_entropy
from patchpack.model.navit import NaViTConfig
from patchpack.tasks.backbone_module import BackboneModule

LABEL = "label"  # the target that this task reads: one class number per image


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig(TaskConfig):
    """Loss of a classifier."""

    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Loss over classes; softmax: cross-entropy, sigmoid: a binary cross-entropy for each class."""
    label_smoothing: float = 0.0  # label smoothing of the softmax loss, 0 to 1

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), not {self.label_smoothing}")


class Classifier(BackboneModule):
    """Packed images in, one logit per image and class out; pooled features without classes."""

    def __init__(
        self,
        model: NaViTConfig,
        num_classes: int,
        config: ClassificationConfig | None = None,
    ) -> None:
        super().__init__(model)
        self.config = config or ClassificationConfig()
        self.head = nn.Linear(model.dim, num_classes) if num_classes else nn.Identity()
        self.init_head()

    def init_head(self) -> None:
        """Zero logits; with sigmoids, a low prior of every class (arXiv 2006.07159, §5)."""
        if isinstance(self.head, nn.Linear):
            nn.init.zeros_(self.head.weight)
            prior = -10.0 if self.config.loss == "sigmoid" else 0.0
            nn.init.constant_(self.head.bias, prior)

    def forward(self, batch: PackedBatch) -> Float[Tensor, "image label"]:
        return self.head(self.backbone(batch))

    def flops(self, lengths: Sequence[int]) -> int:
        """Operations of one forward pass over images of these token counts (`forward_flops`)."""
        return self.backbone_flops(lengths) + self._head_flops(len(lengths))

    def training_flops(self, batch: PackedBatch) -> int:
        """Operations of a forward and a backward pass."""
        backbone = self.backbone_training_flops(batch.lengths)
        return backbone + 3 * self._head_flops(batch.num_images)

    def _head_flops(self, images: int) -> int:
        return 2 * self.head.weight.numel() * images if isinstance(self.head, nn.Linear) else 0

    def loss(self, batch: PackedBatch) -> Loss:
        """The sum over the images of the pack, and their count."""
        require_batch(batch, self.backbone.config.patch_size)
        labels = batch.targets.get(LABEL)
        if not isinstance(labels, Tensor):
            if batch.num_images:
                raise ValueError(f"a classifier needs the target {LABEL!r} for every image")
            labels = batch.coords.new_empty(0).long()
        logits = self(batch)
        if self.config.loss == "sigmoid":
            return sigmoid_cross_entropy(logits, labels)
        return softmax_cross_entropy(logits, labels, self.config.label_smoothing)
