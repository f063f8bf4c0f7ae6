"""The transformer: pre-norm blocks over a packed stream.

Attention sees segments; everything else is position-wise and never notices packing. The noise of
training (dropout, stochastic depth) is drawn per image and shared by its tokens, so that a pack of
many images is regularised like a batch of them.

Axes: token, image, head, dim.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from patchpack.batch import Segments
from patchpack.model.attention import Attend, select_attention
from patchpack.model.attention_layout import AttentionLayout
from patchpack.model.rotary import apply_rotary


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """A stack of pre-norm transformer blocks."""

    dim: int  # width of a token
    depth: int  # blocks
    num_heads: int
    mlp_dim: int  # hidden width of the MLP
    bias: bool = False  # of every linear layer and norm (the paper: none; ViT, SigLIP: all)
    qk_norm: bool = True  # LayerNorm of queries and keys per head (ViT-22B, arXiv 2302.05442)
    norm_eps: float = 1e-6
    activation: Literal["gelu", "gelu_tanh"] = "gelu"
    layer_scale: float | None = None  # initial value of a learned scale of each branch
    dropout: float = 0.0  # share of a branch's channels dropped, per image
    drop_path: float = 0.0  # share of images that skip the last block; rises linearly from 0

    def __post_init__(self) -> None:
        for name in ("dim", "depth", "num_heads", "mlp_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")


def per_image_dropout(segments: Segments, width: int, rate: float) -> Float[Tensor, "token width"]:
    """Multiplicative dropout noise, one draw of `width` values for each image."""
    keep = torch.full((segments.num_images, width), 1 - rate, device=segments.device)
    return (torch.bernoulli(keep) / (1 - rate))[segments.ids]


def norm(config: EncoderConfig, dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=config.norm_eps, bias=config.bias)


@lru_cache(maxsize=8)
def _exclude_from_compile(function: Callable) -> Callable:
    """As it is, inside of compiled code; the compiler is imported only where it is used."""
    return torch.compiler.disable(function)


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.dim, config.mlp_dim, bias=config.bias)
        self.down = nn.Linear(config.mlp_dim, config.dim, bias=config.bias)
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"

    def forward(self, x: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any dim"]:
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


class SelfAttention(nn.Module):
    """Multihead attention with normalised and, given angles, rotated queries and keys."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=config.bias)
        self.out = nn.Linear(config.dim, config.dim, bias=config.bias)
        head_norm = partial(norm, config, config.dim // config.num_heads)
        self.q_norm = head_norm() if config.qk_norm else nn.Identity()
        self.k_norm = head_norm() if config.qk_norm else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "token dim"],
        layout: AttentionLayout,
        attend: Attend,
        angles: Float[Tensor, "token pair"] | None = None,
    ) -> Float[Tensor, "token dim"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if angles is not None:
            q, k = apply_rotary(q, angles), apply_rotary(k, angles)
        return self.out(attend(q, k, v, layout).flatten(1))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: EncoderConfig, drop_path: float) -> None:
        super().__init__()
        self.dropout, self.drop_path = config.dropout, drop_path
        self.noise = per_image_dropout
        self.attention_norm = norm(config, config.dim)
        self.attention = SelfAttention(config)
        self.mlp_norm = norm(config, config.dim)
        self.mlp = Mlp(config)
        self.layer_scale = config.layer_scale
        if config.layer_scale is not None:
            self.attention_scale = nn.Parameter(torch.empty(config.dim))
            self.mlp_scale = nn.Parameter(torch.empty(config.dim))

    def init_weights(self) -> None:
        if self.layer_scale is not None:
            nn.init.constant_(self.attention_scale, self.layer_scale)
            nn.init.constant_(self.mlp_scale, self.layer_scale)

    def forward(
        self,
        x: Float[Tensor, "token dim"],
        layout: AttentionLayout,
        attend: Attend,
        angles: Float[Tensor, "token pair"] | None = None,
    ) -> Float[Tensor, "token dim"]:
        segments = layout.queries
        attended = self.attention(self.attention_norm(x), layout, attend, angles)
        if self.layer_scale is not None:
            attended = attended * self.attention_scale
        x = x + self._regularize(attended, segments)
        changed = self.mlp(self.mlp_norm(x))
        if self.layer_scale is not None:
            changed = changed * self.mlp_scale
        return x + self._regularize(changed, segments)

    def _regularize(self, branch: Tensor, segments: Segments) -> Tensor:
        if self.training and self.dropout:
            branch = branch * self.noise(segments, branch.shape[-1], self.dropout)
        if self.training and self.drop_path:
            branch = branch * self.noise(segments, 1, self.drop_path)
        return branch


class Encoder(nn.Module):
    """Blocks and a final norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        last = max(config.depth - 1, 1)
        self.blocks = nn.ModuleList(
            Block(config, config.drop_path * i / last) for i in range(config.depth)
        )
        self.norm = norm(config, config.dim)
        self.checkpoint_blocks = False  # recompute each block in the backward pass
        self.compiled = False

    def compile_blocks(self) -> None:
        """Compile each block but for what follows the lengths of a pack: a new graph for each."""
        self.compiled = True
        for block in self.blocks:
            block.noise = _exclude_from_compile(per_image_dropout)  # pyrefly: ignore
            block.compile(dynamic=True)

    def forward(
        self,
        x: Float[Tensor, "token dim"],
        layout: AttentionLayout,
        attend: Attend | None = None,
        angles: Float[Tensor, "token pair"] | None = None,
    ) -> Float[Tensor, "token dim"]:
        return deque(self.layers(x, layout, attend, angles), maxlen=1).pop()  # others are freed

    def layers(
        self,
        x: Float[Tensor, "token dim"],
        layout: AttentionLayout,
        attend: Attend | None = None,
        angles: Float[Tensor, "token pair"] | None = None,
    ) -> Iterator[Float[Tensor, "token dim"]]:
        """What each block leaves, first to last, and what the norm makes of the last."""
        attend = attend or select_attention(x.device)
        if self.compiled:
            attend = _exclude_from_compile(attend)
        for block in self.blocks:
            if self.checkpoint_blocks and self.training:
                x = checkpoint(block, x, layout, attend, angles, use_reentrant=False)
            else:
                x = block(x, layout, attend, angles)
            yield x
        yield self.norm(x)


def encoder_flops(config: EncoderConfig, lengths: Sequence[int]) -> int:
    """Operations of a stack's forward pass over segments of these lengths.

    Matrix products only, a multiply-add counted as two; attention's Σ nᵢ² included, also where
    the segments are causal and half of it is hidden.
    """
    c = config
    linear = 2 * c.depth * (4 * c.dim**2 + 2 * c.dim * c.mlp_dim) * sum(lengths)
    return linear + 4 * c.dim * c.depth * sum(n * n for n in lengths)


@torch.no_grad()
def init_submodules(module: nn.Module) -> None:
    """Set every parameter of a module's parts; one forgotten stays NaN and shows at once."""
    for parameter in module.parameters():
        parameter.fill_(torch.nan)
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            init_linear(part, {"qkv": 3, "kv": 2}.get(name.rpartition(".")[2], 1))
        elif isinstance(part, nn.LayerNorm):
            part.reset_parameters()
        elif part is not module and hasattr(part, "init_weights"):
            part.init_weights()  # pyrefly: ignore


def init_linear(layer: nn.Linear, projections: int = 1) -> None:
    """Glorot normal, for each of the projections that are fused into one layer."""
    fan_out = layer.out_features // projections
    std = (2 / (layer.in_features + fan_out)) ** 0.5
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
