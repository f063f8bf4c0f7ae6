"""The same model on padded rows: the cost of batching without packing.

    packed   a a a b c c            padded   a a a
                                             b . .
                                             c c .

Every image takes as many slots as the longest of the batch, in every layer; attention masks the
padding. Weights, tokens and outputs equal those of the packed model, so a comparison of the two
differs in the layout only.

Axes: token, slot (row-major over all images), image, dim.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from patchpack.batch import PackedBatch, Segments, require_batch
from patchpack.model.attention_layout import AttentionLayout
from patchpack.model.navit import EncoderOutput, NaViT


@dataclass(frozen=True, eq=False)
class PaddedAttention:
    """Attention within rows of equal length, with padding masked as keys."""

    used: Bool[Tensor, "image slot"]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout) -> Tensor:
        q, k, v = (x.unflatten(0, self.used.shape).transpose(1, 2) for x in (q, k, v))
        mask = self.used[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.transpose(1, 2).flatten(0, 1)


def encode_padded(model: NaViT, batch: PackedBatch) -> EncoderOutput:
    """Return `model.encode(batch)`, computed in padded rows.

    Raise ValueError for a model with registers or rotary positions.
    """
    if model.registers is not None or model.uses_rotary:
        raise ValueError("padded mode supports neither registers nor rotary positions")
    require_batch(batch, model.config.patch_size)
    if not batch.num_images:
        return model.encode(batch)
    lengths = torch.tensor(batch.lengths, device=batch.patches.device)
    rows = Segments((max(batch.lengths),) * batch.num_images, batch.patches.device)
    used = torch.arange(max(batch.lengths), device=lengths.device) < lengths[:, None]
    slots = used.flatten().nonzero()[:, 0]
    x = model.embed_norm(model.embed(batch))
    padded = x.new_zeros(rows.num_tokens, x.shape[-1]).index_copy(0, slots, x)
    encoded = model.encoder(padded, AttentionLayout.within(rows), PaddedAttention(used))
    encoded = encoded.index_select(0, slots)
    return EncoderOutput(encoded, model.pool_norm(model.pool(encoded, batch.segments)))
