"""The weights of a resize, for each target cell by itself: all images of a pack at once.

`F.interpolate` resizes one grid to one other. Here every token asks for the weights of its own row
and its own column, in a resize of the same [side, side] table to its image's grid; what it gets
equals `F.interpolate` in all four modes, in two small matrices instead of a loop over images.

Axes: token, cell (of the table, along one side).
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Filter = Literal["bilinear", "bicubic"]
REACH = {"bilinear": 1, "bicubic": 2}  # cells from the centre to where a filter ends


def resize_weights(
    coords: Int[Tensor, "token 2"],
    grids: Int[Tensor, "token 2"],
    side: int,
    filter: Filter,
    antialias: bool,
) -> Float[Tensor, "token 2 cell"]:
    """What each cell of a side adds to the value at a coordinate of a grid; sums to one.

    The filter is centred at (coord + ½)·scale - ½, scale = side / grid. With `antialias` it is as
    wide as the larger of a source and a target cell and is cut off at the border; without, it is
    as wide as a source cell, and what lies beyond the border repeats the cell there.
    """
    scale = (side / grids.float())[..., None]
    centre = (coords[..., None] + 0.5) * scale - 0.5
    beyond = 0 if antialias else REACH[filter]
    cells = torch.arange(-beyond, side + beyond, device=coords.device)
    distance = (cells - centre).abs()
    if antialias:
        weights = _filter(distance / scale.clamp(min=1), filter, sharpness=-0.5)
        return weights / weights.sum(-1, keepdim=True)
    weights = _filter(distance, filter, sharpness=-0.75)
    before, inside, after = weights.split([beyond, side, beyond], dim=-1)
    inside = inside.clone()
    inside[..., 0] += before.sum(-1)
    inside[..., -1] += after.sum(-1)
    return inside


def resize_matrix(before: int, after: int) -> Float[Tensor, "after before"]:
    """What an antialiased bilinear resize of a side multiplies its cells with."""
    coords = torch.arange(after)[:, None].expand(after, 2)
    return resize_weights(coords, torch.full((after, 2), after), before, "bilinear", True)[:, 0]


def _filter(distance: Tensor, filter: Filter, sharpness: float) -> Tensor:
    """A triangle, or Keys' cubic with the sharpness that PyTorch takes (-0.5 antialiased)."""
    if filter == "bilinear":
        return (1 - distance).clamp(min=0)
    a, d = sharpness, distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * a * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, 0))
