"""Differences of form that are folded into the weights: the outputs stay the same.

pixel normalization per channel   into the patch embedding
Conv2d [dim, channel, y, x]       a linear layer on patches flattened (y, x, channel)
quick GELU, x · σ(1.702 x)        SiLU with a scaled MLP: silu(1.702 x) / 1.702
class token plus its position     the first register
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from patchpack.pretrained.weights import Affine

QUICK_GELU = 1.702
PIXEL_MEAN = PIXEL_STD = 127.5  # the normalization of NaViTConfig, on the 0..255 scale


def conv_to_linear(kernel: Float[Tensor, "dim channel y x"]) -> Float[Tensor, "dim pixel"]:
    """The weight of a patch convolution as that of a linear layer."""
    return kernel.permute(0, 2, 3, 1).flatten(1).contiguous()


def fold_normalization(embedding: Affine, mean: Sequence[float], std: Sequence[float]) -> Affine:
    """The patch embedding of pixels (x - 127.5) / 127.5 that equals the given embedding of pixels
    (x / 255 - mean) / std.

    mean, std  per channel
    """
    weight, bias = (t.double() for t in embedding)
    m, s = torch.tensor(mean).double() * 255, torch.tensor(std).double() * 255
    per_channel = weight.unflatten(1, (-1, len(mean)))
    shift = (per_channel * ((PIXEL_MEAN - m) / s)).sum((1, 2))
    scaled = (per_channel * (PIXEL_STD / s)).flatten(1)
    return Affine(scaled.float(), (bias + shift).float())


def quick_gelu_to_silu(up: Affine, down: Affine) -> tuple[Affine, Affine]:
    """An MLP with SiLU that equals the given MLP with quick GELU."""
    return (
        Affine(up.weight * QUICK_GELU, up.bias * QUICK_GELU),
        Affine(down.weight / QUICK_GELU, down.bias),
    )


def square_side(rows: int) -> int | None:
    """The side of a square table of positions; None where it is not square."""
    side = round(rows**0.5)
    return side if side * side == rows and side else None
