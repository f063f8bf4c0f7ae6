"""Convert a packed token stream to one feature map per image, and back.

    tokens [token, c]  ⇄  maps: [c, h, w] per image, on its full grid

Dropped tokens leave holes in the map; the caller chooses their fill value.

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
    """Return one map per image, with each token at its coordinates and `fill` at dropped ones."""
    maps = []
    pieces = zip(
        x.split(list(batch.lengths)),
        batch.coords.split(list(batch.lengths)),
        batch.grids.tolist(),
        strict=True,
    )
    for tokens, coords, (h, w) in pieces:
        holes = tokens.new_zeros(h * w, tokens.shape[1]) + fill
        flat = holes.to(tokens.dtype).index_copy(0, _flat_index(coords, w), tokens)
        maps.append(flat.T.unflatten(1, (h, w)))
    return maps


def to_tokens(maps: Sequence[Float[Tensor, "c h w"]], batch: PackedBatch) -> Tensor:
    """Return the tokens [token, c] of a pack from the maps of its images; inverts `to_maps`."""
    pieces = zip(maps, batch.coords.split(list(batch.lengths)), strict=True)
    return torch.cat([x.flatten(1).T[_flat_index(coords, x.shape[2])] for x, coords in pieces])


def kept_map(batch: PackedBatch) -> list[Bool[Tensor, "h w"]]:
    """Return one mask per image: True where its grid has a token."""
    ones = torch.ones(batch.num_tokens, 1, device=batch.coords.device)
    return [x[0] > 0 for x in to_maps(ones, batch)]


def _flat_index(coords: Tensor, width: int) -> Tensor:
    """Return the row-major index of each (y, x) in a grid of this width."""
    return (coords[:, 0] * width + coords[:, 1]).long()
