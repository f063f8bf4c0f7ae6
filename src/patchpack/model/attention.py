"""Attention inside each image of a packed stream: one contract, several ways to compute it.

    attend(q, k, v, layout) -> out        q, out [query, head, head_dim]; k, v [key, head, head_dim]

An `AttentionLayout` has the segments of queries and keys and the mask inside each of them (full,
causal or prefix). A token attends to its own image only, so the cost is Σ nᵢ² and never (Σ nᵢ)².
`attend_dense` is the paper's block-diagonal mask (arXiv 2307.06304, §3.1): slow, and the reference
of the others. `select_attention` picks one for a device, once per forward pass; blocks take the
function and do not depend on devices.

    kernel      masks                 cross-attention
    dense       all                   yes
    tiled       all                   segment by segment: exact, without tiles
    varlen      full, causal          yes
    flex        all                   yes

Trap: FlexAttention has no backward on CPUs and the varlen kernel takes half precision only.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from itertools import groupby

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from patchpack.model.attention_layout import AttentionLayout
from patchpack.model.tiled_attention import TiledAttention

FLASH_CAPABILITY = (8, 0)  # of devices that have the varlen kernel: Ampere and later
SHORT = 512  # tokens of an image up to which a dense attention matrix is faster
Queries = Float[Tensor, "query head head_dim"]
Keys = Float[Tensor, "key head head_dim"]
Attend = Callable[[Tensor, Tensor, Tensor, AttentionLayout], Tensor]


def attend_dense(q: Queries, k: Keys, v: Keys, layout: AttentionLayout) -> Queries:
    """The reference: one mask over the whole stream."""
    query, key = (torch.arange(len(x), device=x.device) for x in (q, k))
    mask = layout.is_visible(query[:, None], key[None, :])
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0].transpose(0, 1)


def attend_tiled(q: Queries, k: Keys, v: Keys, layout: AttentionLayout) -> Queries:
    """Short images in dense tiles, long ones one by one with the fused kernel. Any device.

    All segments are computed one by one if keys and queries differ in length or one is empty.
    """
    lengths = layout.queries.lengths
    if not layout.queries.num_tokens:
        return _empty_output(q, k, v)
    if not layout.same_lengths or 0 in lengths:
        return _attend_each(q, k, v, layout)
    outs, image, token = [], 0, 0
    for short, run in groupby(lengths, key=lambda length: length <= SHORT):
        part = layout.select(image, image := image + len(tuple(run)))
        tokens = slice(token, token := token + part.queries.num_tokens)
        attend = TiledAttention.apply if short else _attend_each
        outs.append(attend(q[tokens], k[tokens], v[tokens], part))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def _attend_each(q: Queries, k: Keys, v: Keys, layout: AttentionLayout) -> Queries:
    """One call of the fused kernel for each segment."""
    queries, keys = list(layout.queries.lengths), list(layout.keys.lengths)
    streams = zip(q.split(queries), k.split(keys), v.split(keys), strict=True)
    outs = []
    for number, qkv in enumerate(streams):
        mask = None
        if layout.mask == "prefix":
            n, prefix = queries[number], layout.prefix_lengths[number]
            mask = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
            mask[:, :prefix] = True
        out = F.scaled_dot_product_attention(
            *(x.transpose(0, 1)[None] for x in qkv),
            attn_mask=mask,
            is_causal=layout.mask == "causal",
        )
        outs.append(out[0].transpose(0, 1))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def _empty_output(q: Queries, k: Keys, v: Keys) -> Queries:
    """Return no tokens, with a gradient for every input: DistributedDataParallel waits for them."""
    return q + k[:0] + v[:0]


def attend_varlen(q: Queries, k: Keys, v: Keys, layout: AttentionLayout) -> Queries:
    """PyTorch's variable-length flash kernel: CUDA, float16 or bfloat16.

    Raise ValueError for a prefix mask, which the kernel does not have.
    """
    from torch.nn.attention.varlen import varlen_attn

    if layout.mask == "prefix":
        raise ValueError("the varlen kernel has no prefix mask: use attend_flex")
    queries, keys = layout.queries, layout.keys
    if not queries.num_tokens:
        return _empty_output(q, k, v)
    window = (-1, 0) if layout.mask == "causal" else (-1, -1)  # visible tokens: left, right
    return varlen_attn(  # pyrefly: ignore
        q,
        k,
        v,
        queries.offsets,
        keys.offsets,
        max(queries.lengths),
        max(keys.lengths),
        window_size=window,
    )


def attend_flex(q: Queries, k: Keys, v: Keys, layout: AttentionLayout) -> Queries:
    """FlexAttention with a block mask of the layout: CUDA, any precision."""
    if not layout.queries.num_tokens:
        return _empty_output(q, k, v)
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return _compiled_flex()(q, k, v, block_mask=_block_mask(layout))[0].transpose(0, 1)


def attend_cuda(q: Queries, k: Keys, v: Keys, layout: AttentionLayout) -> Queries:
    """Varlen if its kernel supports dtype, device and mask, else FlexAttention."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    flash = half and torch.cuda.get_device_capability(q.device) >= FLASH_CAPABILITY
    return (attend_varlen if flash and layout.mask != "prefix" else attend_flex)(q, k, v, layout)


@lru_cache(maxsize=2)
def _block_mask(layout: AttentionLayout) -> object:
    """Return the block mask, in blocks of 128 x 128 tokens; all layers share it."""
    from torch.nn.attention.flex_attention import create_block_mask

    queries, keys = layout.queries, layout.keys
    with torch.inference_mode(False):  # cached, and perhaps used in training later
        return create_block_mask(
            lambda b, h, query, key: layout.is_visible(query, key),
            None,
            None,
            queries.num_tokens,
            keys.num_tokens,
            device=str(queries.device),
        )


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def select_attention(device: torch.device) -> Attend:
    """Return the fastest exact attention for a device."""
    return attend_cuda if device.type == "cuda" else attend_tiled
