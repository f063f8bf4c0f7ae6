"""Pooling: from packed tokens to one vector per image.

The stream has many images back to back, so a plain mean over tokens would mix them. All pools
reduce over the tokens of one image only.

Trap: the backward pass of `x[ids]` adds in no fixed order on CPUs; that of `index_select` does.

Axes: token (all images of the pack), image, head, dim.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchpack.batch import Segments, float_type
from patchpack.model.encoder import EncoderConfig, Mlp, norm

Pooling = Literal["map", "mean", "first", "last"]


def segment_mean(x: Float[Tensor, "token dim"], segments: Segments) -> Float[Tensor, "image dim"]:
    """Return the mean of the tokens of each image, computed in float32 or more.

    ids   0 0 0 1 1 2
    x     a b c d e f   →    (a+b+c)/3  (d+e)/2  f
    """
    sums = segment_sum(x.to(float_type(x.dtype)), segments)
    lengths = segments.offsets.diff()
    return (sums / lengths[:, None]).to(x.dtype)


def segment_sum(x: Float[Tensor, "token ..."], segments: Segments) -> Float[Tensor, "image ..."]:
    """Return the sum of the tokens of each image."""
    return x.new_zeros(segments.num_images, *x.shape[1:]).index_add(0, segments.ids, x)


def segment_softmax(
    scores: Float[Tensor, "token head"], segments: Segments
) -> Float[Tensor, "token head"]:
    """Return the softmax over the tokens of each image, in float32 or more."""
    scores = scores.to(float_type(scores.dtype))
    ids = segments.ids[:, None].expand_as(scores)
    highest = scores.new_full((segments.num_images, scores.shape[1]), -torch.inf)
    highest = highest.scatter_reduce(0, ids, scores.detach(), "amax")
    weights = (scores - highest[segments.ids]).exp()
    return weights / segment_sum(weights, segments).index_select(0, segments.ids)


class MeanPool(nn.Module):
    """The mean of the tokens of each image."""

    def init_weights(self) -> None:
        """No parameters."""

    def forward(
        self, x: Float[Tensor, "token dim"], segments: Segments
    ) -> Float[Tensor, "image dim"]:
        return segment_mean(x, segments)


class FirstPool(nn.Module):
    """The first token of each segment: a register, the class token of a ViT (arXiv 2010.11929)."""

    def init_weights(self) -> None:
        """No parameters."""

    def forward(
        self, x: Float[Tensor, "token dim"], segments: Segments
    ) -> Float[Tensor, "image dim"]:
        return x.index_select(0, segments.offsets[:-1])


class LastPool(nn.Module):
    """The last token of each segment: under a causal mask, the only one that attends to all."""

    def init_weights(self) -> None:
        """No parameters."""

    def forward(
        self, x: Float[Tensor, "token dim"], segments: Segments
    ) -> Float[Tensor, "image dim"]:
        return x.index_select(0, segments.offsets[1:] - 1)


class MapPool(nn.Module):
    """Multihead attention pooling: a learned probe attends to the tokens of each image.

    Zhai et al., Scaling Vision Transformers (arXiv 2106.04560), §2.1; as in big_vision's MAPHead:
    x = MHA(probe, tokens); x + MLP(LN(x)). The probe carries no residual.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        dim, bias = config.dim, config.bias
        self.num_heads = config.num_heads
        self.probe = nn.Parameter(torch.empty(dim))
        self.q = nn.Linear(dim, dim, bias=bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias)
        self.norm = norm(config, dim)
        self.mlp = Mlp(config)

    def init_weights(self) -> None:
        """Initialize the probe; submodules are set by `init_submodules`."""
        nn.init.normal_(self.probe, std=len(self.probe) ** -0.5)

    def forward(
        self, x: Float[Tensor, "token dim"], segments: Segments
    ) -> Float[Tensor, "image dim"]:
        q = self.q(self.probe).unflatten(-1, (self.num_heads, -1))
        k, v = self.kv(x).unflatten(-1, (2, self.num_heads, -1)).unbind(1)
        scores = (k * q).sum(-1) * q.shape[-1] ** -0.5
        weights = segment_softmax(scores, segments)
        pooled = segment_sum((weights[..., None] * v).flatten(1), segments)
        pooled = self.out(pooled.to(self.out.weight.dtype))
        return pooled + self.mlp(self.norm(pooled))


def build_pool(
    config: EncoderConfig, pooling: Pooling
) -> MapPool | MeanPool | FirstPool | LastPool:
    """Create a pool for the tokens of this encoder."""
    match pooling:
        case "map":
            return MapPool(config)
        case "mean":
            return MeanPool()
        case "first":
            return FirstPool()
        case "last":
            return LastPool()


def pool_flops(config: EncoderConfig, pooling: Pooling, lengths: Sequence[int]) -> int:
    """Return the operations of pooling segments of these lengths; matrix products only."""
    if pooling != "map":
        return 0
    dim = config.dim
    per_segment = 2 * (dim**2 + 2 * dim * config.mlp_dim)
    return 2 * dim**2 + 4 * dim**2 * sum(lengths) + per_segment * len(lengths)
