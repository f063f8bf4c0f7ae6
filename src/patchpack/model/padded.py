"""The same model on padded rows: what batching without packing would cost.

    packed   a a a b c c            padded   a a a
                                             b . .
                                             c c .

Every image takes as many slots as the longest of the batch, in every layer; attention masks the
slots that hold nothing. Weights, tokens and answers are those of the packed model, so a comparison
of the two differs in the layout only.

Axes: token, slot (of all rows, one after the other), image, dim.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from patchpack.batch import PackedBatch, Segments
from patchpack.model.attention_layout import AttentionLayout
from patchpack.model.navit import EncoderOutput, NaViT


@dataclass(frozen=True, eq=False)
class PaddedAttention:
    """Attention within rows of equal length, keys that hold nothing masked."""

    used: Bool[Tensor, "image slot"]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout) -> Tensor:
        q, k, v = (x.unflatten(0, self.used.shape).transpose(1, 2) for x in (q, k, v))
        mask = self.used[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.transpose(1, 2).flatten(0, 1)


def encode_padded(model: NaViT, batch: PackedBatch) -> EncoderOutput:
    """What `model.encode` answers, computed in padded rows; raises ValueError for what it lacks."""
    if model.registers is not None or model.uses_rotary:
        raise ValueError("padded rows know neither registers nor rotary positions")
    if not batch.num_images:
        return model.encode(batch)
    lengths = torch.tensor(batch.lengths, device=batch.patches.device)
    rows = Segments((max(batch.lengths),) * batch.num_images, batch.patches.device)
    used = torch.arange(max(batch.lengths), device=lengths.device) < lengths[:, None]
    slots = used.flatten().nonzero()[:, 0]
    x = model.embed(batch)
    padded = x.new_zeros(rows.num_tokens, x.shape[-1]).index_copy(0, slots, x)
    encoded = model.encoder(padded, AttentionLayout.within(rows), PaddedAttention(used))
    encoded = encoded.index_select(0, slots)
    return EncoderOutput(encoded, model.pool(encoded, batch.segments))
