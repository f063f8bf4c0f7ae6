"""Attention inside each image of a packed stream: one contract, several ways to compute it.

    attend(q, k, v, segments) -> out          all [token, head, head_dim]

A token attends to the tokens of its own image and to no other, so the cost is Σ nᵢ² and never
(Σ nᵢ)². `attend_dense` is the paper's block-diagonal mask (arXiv 2307.06304, §3.1): slow, and what
the others are compared with. `backend` picks one for a device, once per forward pass; blocks are
handed the function and know nothing of devices.

    segments  0 0 0 1 1         mask   x x x . .
                                       x x x . .
                                       x x x . .
                                       . . . x x
                                       . . . x x

Where the segments are causal, as those of texts may be, it attends to none that come after it.

Trap: FlexAttention has no backward on CPUs and the varlen kernel takes half precision only.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache
from itertools import groupby

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from patchpack.batch import Segments
from patchpack.model.tiled_attention import TiledAttention

FLASH_CAPABILITY = (8, 0)  # of devices that have the varlen kernel: Ampere and later
SHORT = 512  # tokens of an image up to which writing down its attention matrix is faster
Stream = Float[Tensor, "token head head_dim"]
Attend = Callable[[Tensor, Tensor, Tensor, Segments], Tensor]


def attend_dense(q: Stream, k: Stream, v: Stream, segments: Segments) -> Stream:
    """The reference: one block-diagonal mask over the whole stream."""
    mask = segments.ids[:, None] == segments.ids[None, :]
    if segments.causal:
        mask = mask.tril()
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0].transpose(0, 1)


def attend_tiled(q: Stream, k: Stream, v: Stream, segments: Segments) -> Stream:
    """Short images in dense tiles, long ones one by one with the fused kernel. Any device."""
    outs, start = [], 0
    for short, run in groupby(segments.lengths, key=lambda length: length <= SHORT):
        lengths = tuple(run)
        for part in (lengths,) if short else ((length,) for length in lengths):
            image = slice(start, start := start + sum(part))
            if short:
                tokens = replace(segments, lengths=part)
                outs.append(TiledAttention.apply(q[image], k[image], v[image], tokens))
            else:
                outs.append(_attend_whole(q[image], k[image], v[image], segments.causal))
    return outs[0] if len(outs) == 1 else torch.cat(outs) if outs else _empty_output(q, k, v)


def _attend_whole(q: Stream, k: Stream, v: Stream, causal: bool) -> Stream:
    """Every token attends to every other, or to every earlier one."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)[0].transpose(0, 1)


def _empty_output(q: Stream, k: Stream, v: Stream) -> Stream:
    """What attention makes of a pack without images: no token, but a gradient for every weight,
    which processes that share gradients wait for."""
    return q + k + v


def attend_varlen(q: Stream, k: Stream, v: Stream, segments: Segments) -> Stream:
    """PyTorch's own variable-length flash kernel: CUDA, float16 or bfloat16."""
    from torch.nn.attention.varlen import varlen_attn

    if not segments.lengths:
        return _empty_output(q, k, v)
    longest = max(segments.lengths)
    offsets = segments.offsets
    window = (-1, 0) if segments.causal else (-1, -1)  # tokens seen to the left, to the right
    return varlen_attn(  # pyrefly: ignore
        q, k, v, offsets, offsets, longest, longest, window_size=window
    )


def attend_flex(q: Stream, k: Stream, v: Stream, segments: Segments) -> Stream:
    """FlexAttention with a block mask of the segments: CUDA, any precision."""
    if not segments.lengths:
        return _empty_output(q, k, v)
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return _compiled_flex()(q, k, v, block_mask=_block_mask(segments))[0].transpose(0, 1)


def attend_cuda(q: Stream, k: Stream, v: Stream, segments: Segments) -> Stream:
    """Varlen where its kernel takes precision and device, FlexAttention elsewhere."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    flash = half and torch.cuda.get_device_capability(q.device) >= FLASH_CAPABILITY
    return (attend_varlen if flash else attend_flex)(q, k, v, segments)


@lru_cache(maxsize=2)
def _block_mask(segments: Segments) -> object:
    """Which blocks of 128 x 128 tokens share an image; all layers share it."""
    from torch.nn.attention.flex_attention import create_block_mask

    ids, n = segments.ids, segments.num_tokens
    with torch.inference_mode(False):  # kept, and perhaps trained with later
        inside = (
            (lambda b, h, i, j: (ids[i] == ids[j]) & (j <= i))
            if segments.causal
            else (lambda b, h, i, j: ids[i] == ids[j])
        )
        return create_block_mask(inside, None, None, n, n, device=str(ids.device))


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def select_attention(device: torch.device) -> Attend:
    """The fastest exact attention for a device."""
    return attend_cuda if device.type == "cuda" else attend_tiled
