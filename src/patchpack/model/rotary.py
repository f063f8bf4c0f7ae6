"""Rotary positions: queries and keys turned by where their patches lie.

A head's numbers are taken for pairs (i, i + half); each pair is turned by an angle, the first half
of the pairs by y and the second by x. The product of a query and a key then depends on the
difference of their places only (Su et al., arXiv 2104.09864, §3.2; axial).

Axes: token, head, head_dim, pair (head_dim / 2).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchpack.model.positions import Rotary, table_coordinates, wave_angles


def rotary_angles(
    config: Rotary, coords: Int[Tensor, "token 2"], grids: Int[Tensor, "token 2"], head_dim: int
) -> Float[Tensor, "token pair"]:
    """Radians that each pair is turned by."""
    rows = table_coordinates(coords, grids, config.coordinates, config.table_size)
    return wave_angles(rows, head_dim // 4, config.base).flatten(1)


def apply_rotary(
    x: Float[Tensor, "token head head_dim"], angles: Float[Tensor, "token pair"]
) -> Float[Tensor, "token head head_dim"]:
    """Every head's pairs turned, computed in float32."""
    a, b = x.float().chunk(2, dim=-1)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)
