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

Trap: FlexAttention has no backward on CPUs and the varlen kernel takes half precision only.
"""

from collections.abc import Callable
from functools import cache, partial
from itertools import groupby

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from patchpack.batch import Segments

SHORT = 512  # tokens of an image up to which its attention matrix is worth writing down
Stream = Float[Tensor, "token head head_dim"]
Images = Float[Tensor, "image head token head_dim"]  # of equal length
Attend = Callable[[Tensor, Tensor, Tensor, Segments], Tensor]


def attend_dense(q: Stream, k: Stream, v: Stream, segments: Segments) -> Stream:
    """The reference: one block-diagonal mask over the whole stream."""
    mask = segments.ids[:, None] == segments.ids[None, :]
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0].transpose(0, 1)


def attend_by_length(q: Stream, k: Stream, v: Stream, segments: Segments) -> Stream:
    """One dense call for every run of neighbouring images of equal length.

    The plan lays the images of a pack in order of length, so equal ones are neighbours and each
    run is a view of the stream: nothing is copied, padded or masked. Runs on every device.
    """
    runs = [(n, len(list(same))) for n, same in groupby(segments.lengths)]
    if not runs:
        return q
    sizes = [n * count for n, count in runs]
    outs = []
    for (n, _), *qkv in zip(runs, q.split(sizes), k.split(sizes), v.split(sizes), strict=True):
        image = [x.unflatten(0, (-1, n)).transpose(1, 2) for x in qkv]
        outs.append(_attend_equal(*image).transpose(1, 2).flatten(0, 1))
    return torch.cat(outs)


def _attend_equal(q: Images, k: Images, v: Images) -> Images:
    """Full attention over images of equal length.

    On CPUs, two matrix products in half precision beat the fused kernel for short images: its
    backward pass took 1.5 times as long at 16 to 256 tokens.
    """
    if q.device.type == "cpu" and q.dtype != torch.float32 and q.shape[2] <= SHORT:
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1)
        return weights @ v
    return F.scaled_dot_product_attention(q, k, v)


def attend_varlen(q: Stream, k: Stream, v: Stream, segments: Segments) -> Stream:
    """PyTorch's own variable-length flash kernel: CUDA, float16 or bfloat16."""
    from torch.nn.attention.varlen import varlen_attn

    if not segments.lengths:
        return q
    longest = max(segments.lengths)
    offsets = segments.offsets
    return varlen_attn(q, k, v, offsets, offsets, longest, longest)  # pyrefly: ignore


def attend_flex(q: Stream, k: Stream, v: Stream, segments: Segments) -> Stream:
    """FlexAttention with a block mask of the segments: CUDA, any precision."""
    from torch.nn.attention.flex_attention import create_block_mask

    if not segments.lengths:
        return q
    ids = segments.ids
    mask = create_block_mask(
        lambda b, h, i, j: ids[i] == ids[j], None, None, len(ids), len(ids), device=str(ids.device)
    )
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return _compiled_flex()(q, k, v, block_mask=mask)[0].transpose(0, 1)


def attend_cuda(q: Stream, k: Stream, v: Stream, segments: Segments) -> Stream:
    """Varlen where its kernel takes the precision, FlexAttention elsewhere."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    return (attend_varlen if half else attend_flex)(q, k, v, segments)


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(partial(flex_attention), dynamic=True)


def backend(device: torch.device) -> Attend:
    """The fastest exact attention for a device."""
    return attend_cuda if device.type == "cuda" else attend_by_length
