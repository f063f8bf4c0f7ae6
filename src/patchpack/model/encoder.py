"""The transformer: pre-norm blocks over a packed stream.

Attention takes the segments of a pack; everything else is position-wise and independent of packing.
Dropout and stochastic depth are drawn per image and shared by its tokens, so a pack of many images
is regularized like a batch of them.

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

    dim: int  # channels of a token
    depth: int  # number of transformer blocks
    num_heads: int  # attention heads per block; must divide dim
    mlp_dim: int  # hidden channels of each MLP
    # add biases to all linear layers and norms; NaViT uses none, ViT and SigLIP do
    bias: bool = False
    # normalize queries and keys per head with LayerNorm (ViT-22B, arXiv 2302.05442)
    qk_norm: bool = True
    norm_eps: float = 1e-6  # epsilon of every LayerNorm
    # MLP activation; gelu: exact GELU, gelu_tanh: its tanh form, silu: x · sigmoid(x)
    activation: Literal["gelu", "gelu_tanh", "silu"] = "gelu"
    layer_scale: float | None = None  # initial value of LayerScale on both branches; None: off
    dropout: float = 0.0  # drop rate of each branch's channels, drawn once per image
    drop_path: float = 0.0  # stochastic-depth rate of the last block; rises linearly from 0

    def __post_init__(self) -> None:
        for name in ("dim", "depth", "num_heads", "mlp_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        if not 0 < self.norm_eps < 1:
            raise ValueError(f"norm_eps must lie in (0, 1), not {self.norm_eps}")
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")


def per_image_dropout(segments: Segments, width: int, rate: float) -> Float[Tensor, "token width"]:
    """Return dropout factors: one draw of `width` values per image, repeated for its tokens."""
    keep = torch.full((segments.num_images, width), 1 - rate, device=segments.device)
    return (torch.bernoulli(keep) / (1 - rate))[segments.ids]


def norm(config: EncoderConfig, dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=config.norm_eps, bias=config.bias)


@lru_cache(maxsize=8)
def _exclude_from_compile(function: Callable) -> Callable:
    """Return the function excluded from torch.compile; the compiler is imported on first use."""
    return torch.compiler.disable(function)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
}


class Mlp(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.dim, config.mlp_dim, bias=config.bias)
        self.down = nn.Linear(config.mlp_dim, config.dim, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any dim"]:
        return self.down(self.activation(self.up(x)))


class SelfAttention(nn.Module):
    """Multihead self-attention; queries and keys are normalized and, given angles, rotated."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
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
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
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
        """Set the LayerScale parameters; submodules are set by `init_submodules`."""
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
        x = x + self._regularize(attended, segments).to(x.dtype)
        hidden = self.mlp(self.mlp_norm(x))
        if self.layer_scale is not None:
            hidden = hidden * self.mlp_scale
        return x + self._regularize(hidden, segments).to(x.dtype)

    def _regularize(self, branch: Tensor, segments: Segments) -> Tensor:
        if self.training and self.dropout:
            branch = branch * self.noise(segments, branch.shape[-1], self.dropout)
        if self.training and self.drop_path:
            branch = branch * self.noise(segments, 1, self.drop_path)
        return branch


class Encoder(nn.Module):
    """Blocks and a final norm.

    final_norm  False: the output of the last block is not normalized
    """

    def __init__(self, config: EncoderConfig, final_norm: bool = True) -> None:
        super().__init__()
        last = max(config.depth - 1, 1)
        self.blocks = nn.ModuleList(
            Block(config, config.drop_path * i / last) for i in range(config.depth)
        )
        self.norm = norm(config, config.dim) if final_norm else nn.Identity()
        self.activation_checkpointing = False  # recompute each block in the backward pass
        self.compiled = False

    def compile_blocks(self) -> None:
        """Compile each block, without attention and dropout: they would recompile for each pack."""
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
        return deque(self.layer_outputs(x, layout, attend, angles), maxlen=1).pop()

    def layer_outputs(
        self,
        x: Float[Tensor, "token dim"],
        layout: AttentionLayout,
        attend: Attend | None = None,
        angles: Float[Tensor, "token pair"] | None = None,
    ) -> Iterator[Float[Tensor, "token dim"]]:
        """Yield the output of each block, first to last, then that of the final norm."""
        attend = attend or select_attention(x.device)
        if self.compiled:
            attend = _exclude_from_compile(attend)
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, layout, attend, angles, use_reentrant=False)
            else:
                x = block(x, layout, attend, angles)
            yield x
        yield self.norm(x)


def encoder_flops(config: EncoderConfig, lengths: Sequence[int]) -> int:
    """Return the operations of a forward pass over segments of these lengths.

    Matrix products only, a multiply-add counted as two; attention counts Σ nᵢ² under every mask.
    """
    c = config
    linear = 2 * c.depth * (4 * c.dim**2 + 2 * c.dim * c.mlp_dim) * sum(lengths)
    return linear + 4 * c.dim * c.depth * sum(n * n for n in lengths)


@torch.no_grad()
def init_submodules(module: nn.Module) -> None:
    """Initialize every parameter of a module's submodules; a forgotten one stays NaN."""
    for parameter in module.parameters():
        parameter.fill_(torch.nan)
    for name, submodule in module.named_modules():
        if isinstance(submodule, nn.Linear):
            init_linear(submodule, {"qkv": 3, "kv": 2}.get(name.rpartition(".")[2], 1))
        elif isinstance(submodule, nn.LayerNorm):
            submodule.reset_parameters()
        elif submodule is not module and hasattr(submodule, "init_weights"):
            submodule.init_weights()  # pyrefly: ignore


def init_linear(layer: nn.Linear, projections: int = 1) -> None:
    """Initialize with Glorot normal; fan-out is that of one of the fused projections."""
    fan_out = layer.out_features // projections
    std = (2 / (layer.in_features + fan_out)) ** 0.5
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
