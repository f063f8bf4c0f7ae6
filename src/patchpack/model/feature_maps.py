"""Between a packed stream of tokens and one map for each image.

    tokens [token, c]  ⇄  maps, one an image, [c, h, w] on the image's full grid

Tokens that were dropped leave holes in the map; what stands there is the caller's choice.

Axes: token, image, c (channel), h, w.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patchpack.batch import PackedBatch


def to_maps(
    x: Float[Tensor, "token c"],
    batch: PackedBatch,
    fill: float | Float[Tensor, " c"] = 0.0,
) -> list[Float[Tensor, "c h w"]]:
    """Every token at its place in the grid of its image; `fill` where one was dropped."""
    maps = []
    pieces = zip(
        x.split(list(batch.lengths)),
        batch.coords.split(list(batch.lengths)),
        batch.grids.tolist(),
        strict=True,
    )
    for tokens, coords, (h, w) in pieces:
        holes = tokens.new_zeros(h * w, tokens.shape[1]) + fill
        flat = holes.to(tokens.dtype).index_copy(0, _numbers(coords, w), tokens)
        maps.append(flat.T.unflatten(1, (h, w)))
    return maps


def to_tokens(maps: Sequence[Float[Tensor, "c h w"]], batch: PackedBatch) -> Tensor:
    """The tokens of a pack [token, c] from the maps of its images: what `to_maps` made, undone."""
    pieces = zip(maps, batch.coords.split(list(batch.lengths)), strict=True)
    return torch.cat([x.flatten(1).T[_numbers(coords, x.shape[2])] for x, coords in pieces])


def kept_map(batch: PackedBatch) -> list[Bool[Tensor, "h w"]]:
    """Where each image has a token, on its full grid."""
    ones = torch.ones(batch.num_tokens, 1, device=batch.coords.device)
    return [x[0] > 0 for x in to_maps(ones, batch)]


def _numbers(coords: Tensor, width: int) -> Tensor:
    """Of places (y, x) in the order of the rows."""
    return (coords[:, 0] * width + coords[:, 1]).long()
