"""What all tasks share: a trunk, and the choice to leave it as it was given.

A task module offers `loss(batch)` for training, `encode(batch)` for its trunk's tokens and pooled
vectors, and `training_flops(batch)`; the training loop knows no more of it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Self

from jaxtyping import Float
from torch import Tensor, nn

from patchpack.batch import PackedBatch
from patchpack.model.attention import Attend
from patchpack.model.navit import (
    EncoderOutput,
    NaViT,
    NaViTConfig,
    forward_flops,
    input_flops,
    token_flops,
)
from patchpack.model.pooling import segment_mean
from patchpack.model.video import VideoConfig, VideoNaViT


def check_unique_class_names(classes: Sequence[str]) -> None:
    """Raise ValueError where two classes have one name: results go by it."""
    if twice := sorted(name for name, count in Counter(classes).items() if count > 1):
        raise ValueError(
            f"names of classes must differ: {', '.join(map(repr, twice))} stands twice"
        )


class BackboneModule(nn.Module):
    """A module whose images go through `trunk`."""

    def __init__(self, model: NaViTConfig) -> None:
        super().__init__()
        self.backbone = VideoNaViT(model) if isinstance(model, VideoConfig) else NaViT(model)
        self.frozen = False

    def freeze(self) -> None:
        """Train what is on the trunk alone: no gradient reaches it, no noise of training either."""
        self.backbone.requires_grad_(False)
        self.frozen = True
        self.train(self.training)

    def load_text_tower(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what else, beside the trunk, another task's weights have for this one; raises
        KeyError for what they lack."""

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def encode(self, batch: PackedBatch, attend: Attend | None = None) -> EncoderOutput:
        return self.backbone.encode(batch, attend)

    def backbone_flops(self, lengths: Sequence[int]) -> int:
        """Operations of the trunk's forward pass, as far as this task needs it."""
        return forward_flops(self.backbone.config, lengths)

    def backbone_training_flops(self, lengths: Sequence[int]) -> int:
        """Operations of the trunk's forward pass, and of its backward pass where there is one."""
        forward = self.backbone_flops(lengths)
        return forward if self.frozen else 3 * forward - input_flops(self.backbone.config, lengths)


class DenseBackboneModule(BackboneModule):
    """A task of every token. Nothing is pooled for it, and so no pooling is learned: the vector of
    an image is the mean of its tokens."""

    def __init__(self, model: NaViTConfig) -> None:
        super().__init__(model)
        self.backbone.pool.requires_grad_(False)

    def tokens(
        self, batch: PackedBatch, attend: Attend | None = None
    ) -> Float[Tensor, "token dim"]:
        """What the trunk makes of every token."""
        return self.backbone.intermediate_features(batch, ("norm",), attend)["norm"]

    def encode(self, batch: PackedBatch, attend: Attend | None = None) -> EncoderOutput:
        tokens = self.tokens(batch, attend)
        return EncoderOutput(tokens, segment_mean(tokens, batch.segments))

    def backbone_flops(self, lengths: Sequence[int]) -> int:
        return token_flops(self.backbone.config, lengths)
