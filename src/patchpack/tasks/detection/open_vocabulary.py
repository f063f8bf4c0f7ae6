"""Open-vocabulary classification: class scores from the cosine of tokens and text embeddings.

The text tower of a contrastive model is frozen; its image projection is trained further. So the
detector takes class names that it was not trained on (OWL-ViT, arXiv 2205.06230, §3.1).

Axes: token, label, dim (of the shared embedding space).
"""

from collections.abc import Mapping
from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from patchpack.batch import PackedTexts, float_type
from patchpack.model.encoder import init_linear
from patchpack.model.text import TextTower
from patchpack.tasks.contrastive.model import ContrastiveConfig

INIT_SCALE = 10.0  # initial scale of the cosines, learned


class TextClassifierHead(nn.Module):
    """Class scores of every token, by cosine with the embeddings of the class names."""

    def __init__(
        self, dim: int, text_tower: ContrastiveConfig, num_classes: int, bias: float
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, text_tower.dim, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(log(INIT_SCALE)))
        self.bias = nn.Parameter(torch.tensor(bias))
        self.text = TextTower(text_tower.text).requires_grad_(False)
        self.text_projection = nn.Linear(text_tower.text.dim, text_tower.dim, bias=False)
        self.text_projection.requires_grad_(False)
        for layer in (self.projection, self.text_projection):
            init_linear(layer)
        self.names: Tensor
        self.register_buffer("names", torch.zeros(num_classes, text_tower.dim))

    def forward(
        self,
        x: Float[Tensor, "token dim"],
        class_embeddings: Float[Tensor, "label dim"] | None = None,
    ) -> Float[Tensor, "token label"]:
        """class_embeddings  of other class names than those of training"""
        vectors = self.names if class_embeddings is None else class_embeddings
        dtype = float_type(self.log_scale.dtype)
        tokens = F.normalize(self.projection(x).to(dtype), dim=-1)
        with torch.autocast(x.device.type, enabled=False):  # rounded scores would tie
            scores = tokens @ vectors.T.to(dtype) * self.log_scale.exp() + self.bias
        return scores.to(self.log_scale.dtype)

    def train(self, mode: bool = True) -> "TextClassifierHead":
        super().train(mode)
        self.text.eval()
        return self

    @torch.no_grad()
    def encode(self, names: PackedTexts) -> Float[Tensor, "label dim"]:
        """The embeddings of class names, of length 1."""
        vectors = self.text_projection(self.text(names))
        return F.normalize(vectors.to(float_type(self.log_scale.dtype)), dim=-1)

    @torch.no_grad()
    def load_text_tower(self, tensors: Mapping[str, Tensor], names: PackedTexts) -> None:
        """Take text tower and image projection from the tensors of a contrastive model, or of an
        open-vocabulary detector; raises KeyError for a tensor that is missing."""
        parts = {"image_projection.": "projection.", "text.": "text.",
                 "text_projection.": "text_projection."}  # fmt: skip
        if "head.scores.projection.weight" in tensors:
            parts = {f"head.scores.{part}": part for part in parts.values()}
        taken = {
            new + name.removeprefix(old): tensor
            for name, tensor in tensors.items()
            for old, new in parts.items()
            if name.startswith(old)
        }
        state = self.state_dict()
        for name in state.keys() - taken.keys():
            if name.startswith(tuple(parts.values())):
                raise KeyError(name)
        self.load_state_dict(state | taken)
        self.names.copy_(self.encode(names))
