"""Contrastive image-text pretraining (CLIP, SigLIP): embeddings of an image and its caption are
close.

    pack of images → backbone → linear ┐
                                       ├ embeddings of length 1 → loss over all pairs of a step
    pack of texts  → text     → linear ┘

Axes: image, text, dim (of the shared embedding space).
"""

from dataclasses import dataclass, field
from math import log
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from patchpack.batch import PackedBatch, PackedTexts, float_type, pack_texts, require_batch
from patchpack.inference.model_spec import TaskConfig
from patchpack.losses import Loss
from patchpack.model.encoder import init_linear
from patchpack.model.navit import NaViTConfig
from patchpack.model.text import TextConfig, TextTower, text_flops
from patchpack.tasks.backbone_module import BackboneModule
from patchpack.tasks.contrastive.loss import sigmoid_contrastive, softmax_contrastive


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(TaskConfig):
    """Text tower and loss of an image-text model.

    The negatives of an image are all other texts of its pack, and of the packs of other processes
    in the same step; packs that one process accumulates in a step share no negatives.
    """

    # Architecture and vocabulary of the text tower.
    text: TextConfig = field(
        default_factory=lambda: TextConfig(dim=384, depth=6, num_heads=6, mlp_dim=1536)
    )
    dim: int = 256  # dimension of the shared embedding space
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Contrastive loss; softmax: over all texts of the step (CLIP), sigmoid: each pair by itself
    (SigLIP)."""
    init_logit_scale: float = 14.3  # initial scale of the logits, learned (CLIP: 1 / 0.07)
    init_logit_bias: float = -10.0  # initial bias of sigmoid logits, learned (SigLIP, §3.2)
    max_logit_scale: float = 100.0  # upper limit of the learned scale (CLIP, §2.5)

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, not {self.dim}")
        if not 0 < self.init_logit_scale <= self.max_logit_scale:
            raise ValueError(
                f"init_logit_scale must lie in (0, {self.max_logit_scale:g}], "
                f"not {self.init_logit_scale}"
            )


class Contrastive(BackboneModule):
    """Packed images and packed texts in, embeddings of length 1 out."""

    def __init__(self, model: NaViTConfig, config: ContrastiveConfig) -> None:
        super().__init__(model)
        self.config = config
        self.text = TextTower(config.text)
        self.image_projection = nn.Linear(model.dim, config.dim, bias=False)
        self.text_projection = nn.Linear(config.text.dim, config.dim, bias=False)
        for layer in (self.image_projection, self.text_projection):
            init_linear(layer)
        self.log_scale = nn.Parameter(torch.tensor(log(config.init_logit_scale)))
        self.bias = nn.Parameter(torch.tensor(config.init_logit_bias), config.loss == "sigmoid")

    def forward(self, batch: PackedBatch) -> Float[Tensor, "image dim"]:
        """The embeddings of the images."""
        return self._unit_length(self.image_projection(self.backbone(batch)))

    def encode_texts(self, texts: PackedTexts) -> Float[Tensor, "text dim"]:
        """The embeddings of the texts."""
        return self._unit_length(self.text_projection(self.text(texts)))

    def _unit_length(self, vectors: Tensor) -> Tensor:
        """Vectors of length 1, computed in float32 or more, in the type of the weights."""
        dtype = self.log_scale.dtype
        return F.normalize(vectors.to(float_type(dtype)), dim=-1).to(dtype)

    @property
    def scale(self) -> Float[Tensor, ""]:
        """The learned logit scale."""
        return self.log_scale.exp().clamp(max=self.config.max_logit_scale)

    def loss(self, batch: PackedBatch) -> Loss:
        """The sum over the image-text pairs of the pack, and their count."""
        require_batch(batch, self.backbone.config.patch_size)
        texts = batch.texts
        if texts is None:
            if batch.num_images:
                raise ValueError("contrastive training needs a text for every image")
            texts = pack_texts([]).to(batch.patches.device)
        images, captions = self(batch), self.encode_texts(texts)
        if self.config.loss == "sigmoid":
            return sigmoid_contrastive(images, captions, self.scale, self.bias)
        return softmax_contrastive(images, captions, self.scale)

    def training_flops(self, batch: PackedBatch) -> int:
        """Operations of a forward and a backward pass, and of the loss over this pack's pairs."""
        c, model, n = self.config, self.backbone.config, batch.num_images
        texts = text_flops(c.text, batch.texts.lengths) if batch.texts else 0
        projections = 2 * n * c.dim * (model.dim + c.text.dim)
        loss = 4 * 2 * n * n * c.dim  # logits, again in the backward pass, and two gradients
        return self.backbone_training_flops(batch.lengths) + 3 * (texts + projections) + loss
