"""What the modules of all tasks share: a backbone, and the choice to freeze it.

A task's module offers `loss(batch)` for training, `encode(batch)` for the backbone's tokens and
pooled vectors, and `training_flops(batch)`; the training loop uses nothing else of it.

Axes: token, image, dim.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from patchpack.batch import PackedBatch, float_type
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
    """Raise ValueError where two classes have the same name."""
    if duplicates := sorted(name for name, count in Counter(classes).items() if count > 1):
        raise ValueError(f"class names must be unique: {', '.join(map(repr, duplicates))} repeats")


class BackboneModule(nn.Module):
    """A module whose images go through `backbone`."""

    def __init__(self, model: NaViTConfig) -> None:
        super().__init__()
        self.backbone = VideoNaViT(model) if isinstance(model, VideoConfig) else NaViT(model)
        self.frozen = False

    def freeze(self) -> None:
        """Freeze the backbone: no gradients, and no dropout or drop path in it."""
        self.backbone.requires_grad_(False)
        self.frozen = True
        self.train(self.training)

    def load_text_tower(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what this task needs of another task's weights beside the backbone; raises KeyError
        for a tensor that is missing."""

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def encode(self, batch: PackedBatch, attend: Attend | None = None) -> EncoderOutput:
        """Tokens and pooled vectors of the backbone."""
        return self.backbone.encode(batch, attend)

    def flops(self, lengths: Sequence[int]) -> int:
        """Operations of one forward pass over images of these token counts."""
        return self.backbone_flops(lengths)

    def backbone_flops(self, lengths: Sequence[int]) -> int:
        """Operations of the backbone's forward pass, as far as this task needs it."""
        return forward_flops(self.backbone.config, lengths)

    def backbone_training_flops(self, lengths: Sequence[int]) -> int:
        """Operations of the backbone's forward pass, and of its backward pass unless frozen."""
        forward = self.backbone_flops(lengths)
        return forward if self.frozen else 3 * forward - input_flops(self.backbone.config, lengths)


class DenseBackboneModule(BackboneModule):
    """A module that predicts from every token. The backbone's pooling is not trained: the vector
    of an image is the mean of its tokens."""

    def __init__(self, model: NaViTConfig) -> None:
        super().__init__(model)
        self.backbone.pool.requires_grad_(False)
        self.backbone.pool_norm.requires_grad_(False)

    def tokens(
        self, batch: PackedBatch, attend: Attend | None = None
    ) -> Float[Tensor, "token dim"]:
        """The backbone's tokens after the final norm."""
        return self.backbone.intermediate_features(batch, ("norm",), attend)["norm"]

    def encode(self, batch: PackedBatch, attend: Attend | None = None) -> EncoderOutput:
        tokens = self.tokens(batch, attend)
        return EncoderOutput(tokens, segment_mean(tokens, batch.segments))

    def backbone_flops(self, lengths: Sequence[int]) -> int:
        return token_flops(self.backbone.config, lengths)


class Float32Linear(nn.Linear):
    """A linear layer that stays in float32 under autocast: rounded scores would tie, and boxes
    would jump. With weights of half precision only the result is rounded."""

    def forward(self, x: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any out"]:  # pyrefly: ignore
        dtype = float_type(self.weight.dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(dtype), self.weight.to(dtype), bias).to(self.weight.dtype)
