"""The text tower: the same encoder over packed texts.

    embed   tokens            → vocabulary[token] + positions[index in its text]
    encode  tokens, segments  → tokens; attention within a text only
    pool    tokens, segments  → one vector per text

Texts lie back to back like images, without padding: short captions cost few tokens.

Axes: token, text, dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from patchpack.batch import PackedTexts, Segments, require_texts
from patchpack.model.attention_layout import AttentionLayout
from patchpack.model.encoder import Encoder, EncoderConfig, encoder_flops, init_submodules
from patchpack.model.pooling import Pooling, build_pool, pool_flops


@dataclass(frozen=True, kw_only=True)
class TextConfig(EncoderConfig):
    """A transformer over texts: vocabulary, encoder, pooling."""

    vocab_size: int = 4096  # number of different tokens
    max_length: int = 24  # maximum tokens per text; longer texts are truncated (NaViT: 24)
    causal: bool = False  # causal attention: a token attends to itself and to earlier tokens only
    # pooling of tokens: map is attention with a learned probe, mean the average, last the last one
    pooling: Pooling = "map"

    def __post_init__(self) -> None:
        EncoderConfig.__post_init__(self)
        for name in ("vocab_size", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


class TextTower(nn.Module):
    """Packed texts in, one vector per text out."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = nn.Embedding(config.vocab_size, config.dim)
        self.positions = nn.Embedding(config.max_length, config.dim)
        self.encoder = Encoder(config)
        self.pool = build_pool(config, config.pooling)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize every parameter."""
        init_submodules(self)
        for table in (self.vocabulary, self.positions):
            nn.init.normal_(table.weight, std=self.config.dim**-0.5)

    def forward(self, texts: PackedTexts) -> Float[Tensor, "text dim"]:
        require_texts(texts)
        segments = texts.segments
        layout = AttentionLayout.within(segments, "causal" if self.config.causal else "full")
        x = self.vocabulary(texts.tokens) + self.positions(self._positions(segments))
        return self.pool(self.encoder(x, layout), segments)

    def _positions(self, segments: Segments) -> Int[Tensor, " token"]:
        """Return the index of each token in its text."""
        longest = max(segments.lengths, default=0)
        if longest > self.config.max_length:
            raise ValueError(
                f"a text has {longest} tokens, but this model takes {self.config.max_length}: "
                "truncate it when it is tokenized"
            )
        starts = segments.offsets.index_select(0, segments.ids)
        return torch.arange(segments.num_tokens, device=segments.device) - starts


def text_flops(config: TextConfig, lengths: Sequence[int]) -> int:
    """Return the operations of a forward pass over texts of these lengths; matrix products only."""
    return encoder_flops(config, lengths) + pool_flops(config, config.pooling, lengths)
