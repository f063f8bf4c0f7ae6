"""Classes by their names: scores from how near tokens are to the vectors of texts.

The text side is that of two towers trained on images and texts (`heads.contrastive`), and stays as
it was; the projection of images is theirs too, and is trained on. So a model can be asked for names
that it was never trained to find (OWL-ViT, arXiv 2205.06230, §3.1).

Axes: token, label, dim (of the vectors that images and texts share).
"""

from collections.abc import Mapping
from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from patchpack.batch import PackedTexts
from patchpack.model.encoder import init_linear
from patchpack.model.text import TextTower
from patchpack.tasks.contrastive.model import ContrastiveConfig

SCALE = 10.0  # of cosines, at the start; learned


class TextClassifierHead(nn.Module):
    """Scores of classes for every token, by cosine with the vectors of their names."""

    def __init__(
        self, dim: int, text_tower: ContrastiveConfig, num_classes: int, bias: float
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, text_tower.dim, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(log(SCALE)))
        self.bias = nn.Parameter(torch.tensor(bias))
        self.text = TextTower(text_tower.text).requires_grad_(False)
        self.text_projection = nn.Linear(text_tower.text.dim, text_tower.dim, bias=False)
        self.text_projection.requires_grad_(False)
        for layer in (self.projection, self.text_projection):
            init_linear(layer)
        self.names: Tensor
        self.register_buffer("names", torch.zeros(num_classes, text_tower.dim))

    def forward(
        self, x: Float[Tensor, "token dim"], names: Float[Tensor, "label dim"] | None = None
    ) -> Float[Tensor, "token label"]:
        """Of the classes trained on, or of others, given as the vectors of their names."""
        vectors = self.names if names is None else names
        own = F.normalize(self.projection(x).float(), dim=-1)
        with torch.autocast(x.device.type, enabled=False):  # rounded scores would tie
            return own @ vectors.T * self.log_scale.exp() + self.bias

    def train(self, mode: bool = True) -> "TextClassifierHead":
        super().train(mode)
        self.text.eval()
        return self

    @torch.no_grad()
    def encode(self, names: PackedTexts) -> Float[Tensor, "label dim"]:
        """The vectors of names, of length 1."""
        return F.normalize(self.text_projection(self.text(names)).float(), dim=-1)

    @torch.no_grad()
    def load_text_tower(self, tensors: Mapping[str, Tensor], names: PackedTexts) -> None:
        """Take the towers of a contrastive model by the names of its tensors, or of another model
        that has taken them; raises KeyError where there are none."""
        parts = {"image_projection.": "projection.", "text.": "text.",
                 "text_projection.": "text_projection."}  # fmt: skip
        if "head.scores.projection.weight" in tensors:
            parts = {f"head.scores.{own}": own for own in parts.values()}
        own = {
            new + name.removeprefix(old): tensor
            for name, tensor in tensors.items()
            for old, new in parts.items()
            if name.startswith(old)
        }
        state = self.state_dict()
        for name in state.keys() - own.keys():
            if name.startswith(tuple(parts.values())):
                raise KeyError(name)
        self.load_state_dict(state | own)
        self.names.copy_(self.encode(names))
