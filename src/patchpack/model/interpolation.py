"""Resize weights for each target cell, for all images of a pack at once.

`F.interpolate` resizes one grid to one size. Here each token gets the weights of its row and its
column in a resize of one [side, side] table to its image's grid. They equal `F.interpolate` in all
four modes, without a loop over images.

Axes: token, cell (of the table, along one side).
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Filter = Literal["bilinear", "bicubic"]
RADIUS = {"bilinear": 1, "bicubic": 2}  # half the width of a filter, in cells


def resize_weights(
    coords: Int[Tensor, "token 2"],
    grids: Int[Tensor, "token 2"],
    side: int,
    filter: Filter,
    antialias: bool,
) -> Float[Tensor, "token 2 cell"]:
    """Return the weight of each table cell at each coordinate, along y and x; they sum to 1.

    The filter is centered at (coord + ½)·scale - ½, scale = side / grid. With `antialias` its width
    is the larger of a source and a target cell, and it is cut off at the border; without, its width
    is a source cell, and cells beyond the border repeat the last one.
    """
    scale = (side / grids.float())[..., None]
    center = (coords[..., None] + 0.5) * scale - 0.5
    beyond = 0 if antialias else RADIUS[filter]
    cells = torch.arange(-beyond, side + beyond, device=coords.device)
    distance = (cells - center).abs()
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
    """Return the matrix of an antialiased bilinear resize along one side."""
    coords = torch.arange(after)[:, None].expand(after, 2)
    return resize_weights(coords, torch.full((after, 2), after), before, "bilinear", True)[:, 0]


def _filter(distance: Tensor, filter: Filter, sharpness: float) -> Tensor:
    """Triangle, or Keys' cubic with PyTorch's coefficient a: -0.5 antialiased, else -0.75."""
    if filter == "bilinear":
        return (1 - distance).clamp(min=0)
    a, d = sharpness, distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * a * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, 0))
