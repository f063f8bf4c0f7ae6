"""Rotary positions: queries and keys rotated by the coordinates of their patches.

Channels i and i + head_dim / 2 of a head form a pair. Each pair is rotated by an angle: the first
half of the pairs by y, the second by x. The product of a query and a key then depends only on the
difference of their coordinates (RoPE, Su et al., arXiv 2104.09864, §3.2; axial).

Axes: token, head, head_dim, pair (head_dim / 2).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchpack.batch import float_type
from patchpack.model.positions import Rotary, table_coordinates, wave_angles


def rotary_angles(
    config: Rotary, coords: Int[Tensor, "token 2"], grids: Int[Tensor, "token 2"], head_dim: int
) -> Float[Tensor, "token pair"]:
    """Return the rotation of each pair, in radians."""
    rows = table_coordinates(coords, grids, config.coordinates, config.table_size)
    return wave_angles(rows, head_dim // 4, config.base).flatten(1)


def apply_rotary(
    x: Float[Tensor, "token head head_dim"], angles: Float[Tensor, "token pair"]
) -> Float[Tensor, "token head head_dim"]:
    """Rotate the pairs of every head, in float32 or more; return the dtype of x."""
    a, b = x.to(float_type(x.dtype)).chunk(2, dim=-1)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)
