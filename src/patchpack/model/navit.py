"""NaViT: a vision transformer over packed patches (arXiv 2307.06304).

    embed   patches, coords   → tokens = Linear(patch) + position(coords, grid)
    encode  tokens, segments  → tokens; attention within an image only
    pool    tokens, segments  → one vector per image

The config also covers the plain ViTs whose weights `pretrained/` reads: biases, interpolated table,
class token (the first register, pooling "first"), norms before the blocks and after pooling.

Axes: token, image, dim.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from patchpack.batch import PackedBatch, Segments, float_type, require_batch
from patchpack.model.attention import Attend, select_attention
from patchpack.model.attention_layout import AttentionLayout
from patchpack.model.encoder import Encoder, EncoderConfig, encoder_flops, init_submodules, norm
from patchpack.model.interpolation import Filter
from patchpack.model.pooling import build_pool, pool_flops
from patchpack.model.positions import Factorized, Positions, Rotary
from patchpack.model.rotary import rotary_angles

MAX_PIXEL = 2**16  # largest value of a pixel, of any camera


@dataclass(frozen=True, kw_only=True)
class NaViTConfig(EncoderConfig):
    """A vision transformer over packed images: patch embedding, positions, encoder, pooling."""

    patch_size: int = 16  # side of a square patch, in pixels
    channels: int = 3  # channels of a pixel
    positions: Positions = field(default_factory=Factorized)  # position type of the patches
    registers: int = 0  # learned register tokens before each image's patches (arXiv 2309.16588)
    # pooling of tokens: map is attention with a learned probe, mean is the average, first is the
    # first register: the class token of a ViT
    pooling: Literal["map", "mean", "first"] = "map"
    pool_registers: bool = True  # map and mean pooling read the registers, beside the patches
    # tokens: the final norm applies to tokens, before pooling; pooled: to pooled vectors only
    final_norm: Literal["tokens", "pooled"] = "tokens"
    embed_norm: bool = False  # normalize tokens, registers included, before the first block (CLIP)
    pixel_mean: float = 127.5  # mean subtracted from pixels, on the 0..255 scale
    pixel_std: float = 127.5  # standard deviation that pixels are divided by, on the 0..255 scale
    resize_filter: Filter = "bicubic"  # filter that images are resized with, antialiased

    def __post_init__(self) -> None:
        EncoderConfig.__post_init__(self)
        for name in ("patch_size", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.registers < 0:
            raise ValueError(f"registers must be 0 or more, not {self.registers}")
        if self.pooling == "first" and not self.registers:
            raise ValueError('pooling "first" takes the first register: set registers to 1 or more')
        head_dim = self.dim // self.num_heads
        if isinstance(self.positions, Rotary) and head_dim % 4:
            raise ValueError(f"rotary positions need a head_dim divisible by 4, not {head_dim}")
        if not self.pixel_std > 0:
            raise ValueError(f"pixel_std must be more than 0, not {self.pixel_std}")
        if max(abs(self.pixel_mean), self.pixel_std) > MAX_PIXEL:
            raise ValueError(f"pixel_mean and pixel_std must be at most {MAX_PIXEL}")

    @property
    def patch_dim(self) -> int:
        """Values in a flattened patch: patch_size² · channels."""
        return self.patch_size**2 * self.channels


class EncoderOutput(NamedTuple):
    """Outputs of the model for a pack."""

    tokens: Float[Tensor, "token dim"]  # patch tokens, without registers; normalized unless the
    # final norm applies to pooled vectors only
    pooled: Float[Tensor, "image dim"]


class TokenStream(NamedTuple):
    """The input of the blocks."""

    x: Float[Tensor, "token dim"]  # registers before the patches of each image
    layout: AttentionLayout
    attend: Attend
    angles: Float[Tensor, "token pair"] | None  # of rotary positions; 0 for registers
    token_index: Int[Tensor, " patch"] | None  # the token of each patch; None: no registers

    def select_patches(self, x: Float[Tensor, "token dim"]) -> Float[Tensor, "patch dim"]:
        """The rows of patches among those of all tokens."""
        return x if self.token_index is None else x.index_select(0, self.token_index)


class NaViT(nn.Module):
    """Packed images in, tokens and one vector per image out."""

    def __init__(self, config: NaViTConfig) -> None:
        super().__init__()
        self.config = config
        self._build()
        self.positions = config.positions.build(config.dim)
        self.registers = None
        if config.registers:
            self.registers = nn.Parameter(torch.empty(config.registers, config.dim))
        self.embed_norm = norm(config, config.dim) if config.embed_norm else nn.Identity()
        self.encoder = Encoder(config, final_norm=config.final_norm == "tokens")
        self.pool = build_pool(config, config.pooling)
        self.pool_norm = (
            nn.Identity() if config.final_norm == "tokens" else norm(config, config.dim)
        )
        self.init_weights()

    def _build(self) -> None:
        """Create the patch embedding."""
        c = self.config
        self.embedding: nn.Module = nn.Linear(c.patch_dim, c.dim, bias=c.bias)

    def _init_embedding(self) -> None:
        nn.init.normal_(self.embedding.weight, std=self.config.patch_dim**-0.5)  # pyrefly: ignore

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize every parameter."""
        init_submodules(self)
        self._init_embedding()
        if self.registers is not None:
            nn.init.normal_(self.registers, std=0.02)

    def forward(self, batch: PackedBatch) -> Float[Tensor, "image dim"]:
        return self.encode(batch).pooled

    def encode(self, batch: PackedBatch, attend: Attend | None = None) -> EncoderOutput:
        """Return tokens and pooled vectors; `attend` overrides the device's attention."""
        stream = self._stream(batch, attend)
        x = self.encoder(stream.x, stream.layout, stream.attend, stream.angles)
        tokens = stream.select_patches(x)
        if self.config.pooling == "first" or self.config.pool_registers:
            pooled = self.pool(x, stream.layout.queries)
        else:
            pooled = self.pool(tokens, batch.segments)
        return EncoderOutput(tokens, self.pool_norm(pooled))

    def intermediate_features(
        self, batch: PackedBatch, names: Collection[str], attend: Attend | None = None
    ) -> dict[str, Float[Tensor, "token dim"]]:
        """Return the tokens after the named layers: "embedding", "block 1" …, "norm".

        "embedding" is the input of the first block; "norm" equals the tokens of `encode`.
        Raise ValueError for an unknown name.
        """
        known = ("embedding", *(f"block {i + 1}" for i in range(self.config.depth)), "norm")
        if unknown := sorted(set(names) - set(known)):
            raise ValueError(f"unknown layers {unknown}: choose among {', '.join(known)}")
        stream = self._stream(batch, attend)
        blocks = self.encoder.layer_outputs(stream.x, stream.layout, stream.attend, stream.angles)
        return {
            name: stream.select_patches(x)
            for name, x in zip(known, chain([stream.x], blocks), strict=True)
            if name in names
        }

    def _stream(self, batch: PackedBatch, attend: Attend | None = None) -> "TokenStream":
        """Return the input of the blocks for a pack."""
        require_batch(batch, self.config.patch_size)
        segments = batch.segments
        x, angles = self.embed(batch), self._angles(batch)
        token_index = None
        if self.registers is not None:
            x, token_index, _ = prepend_tokens(x, self.registers, segments)
            segments = segments.extended(len(self.registers))
            if angles is not None:
                zeros = angles.new_zeros(len(x), angles.shape[1])
                angles = zeros.index_copy(0, token_index, angles)
        x = self.embed_norm(x)
        layout = AttentionLayout.within(segments)
        return TokenStream(x, layout, attend or select_attention(x.device), angles, token_index)

    def embed(self, batch: PackedBatch) -> Float[Tensor, "token dim"]:
        """Normalize pixels, project patches and add positions.

        The result has the dtype of the norms, also under autocast, so that the residual stream is
        never rounded to half precision.
        """
        self._check(batch)
        patches = self._normalized(batch, self.embedding.weight.dtype)  # pyrefly: ignore
        tokens = self.embedding(patches) + self.positions(batch.coords, _grid_of_tokens(batch))
        return tokens.to(self._stream_dtype)

    @property
    def _stream_dtype(self) -> torch.dtype:
        """The dtype of the norms."""
        return self.encoder.blocks[0].attention_norm.weight.dtype  # pyrefly: ignore

    def _normalized(self, batch: PackedBatch, dtype: torch.dtype) -> Float[Tensor, "token values"]:
        """Pixels without mean and scale, computed in float32 or more, in the type of weights."""
        pixels = batch.patches.to(float_type(dtype))
        return ((pixels - self.config.pixel_mean) / self.config.pixel_std).to(dtype)

    @property
    def uses_rotary(self) -> bool:
        """Whether positions rotate queries and keys instead of being added to tokens."""
        return isinstance(self.config.positions, Rotary)

    def _angles(self, batch: PackedBatch) -> Float[Tensor, "token pair"] | None:
        """Return the angles of rotary positions; None for the other position types."""
        c = self.config
        if not isinstance(c.positions, Rotary):
            return None
        return rotary_angles(
            c.positions, batch.coords, _grid_of_tokens(batch), c.dim // c.num_heads
        )

    def _check(self, batch: PackedBatch) -> None:
        require_batch(batch, self.config.patch_size)
        if batch.patches.shape[-1] != self.config.patch_dim:
            raise ValueError(
                f"patches of {batch.patches.shape[-1]} values, but this model takes "
                f"{self.config.patch_dim} ({self.config.patch_size} px squares of "
                f"{self.config.channels} channels): pack with patch_size={self.config.patch_size}"
            )
        max_side = self.config.positions.max_side
        longest = int(batch.grids[:, -2:].max()) if batch.num_images else 0
        if longest > max_side:
            raise ValueError(
                f"a grid is {longest} patches long, but the learned positions end at {max_side}: "
                f"pack with max_side={max_side}"
            )


def forward_flops(config: NaViTConfig, lengths: Sequence[int]) -> int:
    """Return the operations of one forward pass over images of these lengths.

    Matrix products only, a multiply-add counted as two; attention's Σ nᵢ² included.
    """
    pooled = config.registers if config.pool_registers else 0
    inner = [n + pooled for n in lengths]
    return token_flops(config, lengths) + pool_flops(config, config.pooling, inner)


def token_flops(config: NaViTConfig, lengths: Sequence[int]) -> int:
    """Return the operations of a forward pass without pooling."""
    inner = [n + config.registers for n in lengths]
    return input_flops(config, lengths) + encoder_flops(config, inner)


def input_flops(config: NaViTConfig, lengths: Sequence[int]) -> int:
    """Return the operations of patch embedding and positions, whose inputs need no gradient."""
    return (2 * config.patch_dim * config.dim + config.positions.flops(config.dim)) * sum(lengths)


def training_flops(config: NaViTConfig, lengths: Sequence[int]) -> int:
    """Return the operations of a forward and a backward pass: three times the forward pass, minus
    one input_flops, since pixels and coordinates need no gradient."""
    return 3 * forward_flops(config, lengths) - input_flops(config, lengths)


def _grid_of_tokens(batch: PackedBatch) -> Int[Tensor, "token 2"]:
    """Return the grid of each token's image."""
    return batch.grids.to(batch.coords.device, non_blocking=True)[batch.segments.ids]


def prepend_tokens(
    x: Float[Tensor, "token dim"], prefix: Float[Tensor, "prefix dim"], segments: Segments
) -> tuple[Tensor, Tensor, Tensor]:
    """Insert the same prefix tokens before each image.

    Return the new stream, the index in it of every token of x, and of every prefix token.
    """
    count, device = len(prefix), x.device
    token_index = torch.arange(len(x), device=device) + (segments.ids + 1) * count
    starts = segments.offsets[:-1] + torch.arange(segments.num_images, device=device) * count
    prefix_index = (starts[:, None] + torch.arange(count, device=device)).flatten()
    stream = x.new_empty(len(x) + len(prefix_index), x.shape[-1]).index_copy(0, token_index, x)
    repeated = prefix.to(x.dtype).repeat(segments.num_images, 1)
    return stream.index_copy(0, prefix_index, repeated), token_index, prefix_index
