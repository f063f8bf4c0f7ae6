"""Where a patch lies in its image, as a vector added to its token.

Each kind is a module with one method, `forward(coords, grids)`, both already per token; a config
dataclass beside it says how to build it. Positions come in with the batch, so any subset of an
image's patches, in any order, gets the right ones.

Axes: token, dim. coords (y, x) in patches; grids (h, w) of the token's image.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Factorized:
    """φ_y(y) + φ_x(x), learned, absolute: the paper's choice (arXiv 2307.06304, §3.2)."""

    max_side: int = 128  # longest side of a grid in patches; longer ones are refused


@dataclass(frozen=True, kw_only=True)
class Interpolated:
    """The ViT's learned square table, resized to each image's grid (bilinear, antialiased)."""

    side: int = 16  # of the table, in patches

    @property
    def max_side(self) -> int:
        """Any grid will do."""
        return 2**31 - 1


Positions = Factorized | Interpolated


class FactorizedPositions(nn.Module):
    """One learned table per axis, indexed by the patch's row and column, summed."""

    def __init__(self, config: Factorized, dim: int) -> None:
        super().__init__()
        self.max_side = config.max_side
        self.y = nn.Parameter(torch.empty(config.max_side, dim))
        self.x = nn.Parameter(torch.empty(config.max_side, dim))

    def init_weights(self) -> None:
        for table in (self.y, self.x):
            nn.init.normal_(table, std=table.shape[-1] ** -0.5)

    def forward(
        self, coords: Int[Tensor, "token 2"], grids: Int[Tensor, "token 2"]
    ) -> Float[Tensor, "token dim"]:
        y, x = coords.long().unbind(-1)
        return F.embedding(y, self.y) + F.embedding(x, self.x)


class InterpolatedPositions(nn.Module):
    """A learned [side, side] table, read as if antialias-resized to each image's grid.

    The resize is separable, so a token needs only its row and its column of weights: no loop over
    images and no wait for the device. Equal to `F.interpolate(mode="bilinear", antialias=True)`.
    """

    def __init__(self, config: Interpolated, dim: int) -> None:
        super().__init__()
        self.side = config.side
        self.table = nn.Parameter(torch.empty(config.side, config.side, dim))

    def init_weights(self) -> None:
        nn.init.normal_(self.table, std=self.table.shape[-1] ** -0.5)

    def forward(
        self, coords: Int[Tensor, "token 2"], grids: Int[Tensor, "token 2"]
    ) -> Float[Tensor, "token dim"]:
        wy, wx = triangle_weights(coords, grids, self.side).unbind(-2)
        weights = wy[:, :, None] * wx[:, None, :]
        return weights.flatten(1) @ self.table.flatten(0, 1)


def triangle_weights(
    coords: Int[Tensor, "token 2"], grids: Int[Tensor, "token 2"], side: int
) -> Float[Tensor, "token 2 side"]:
    """Weights of an antialiased bilinear resize from `side` cells to a grid, at given cells.

    The triangle filter is centred at (coord + ½)·scale - ½ and as wide as the larger of one
    source cell and one target cell; rows sum to one.
    """
    scale = side / grids.float()
    centre = (coords.float() + 0.5) * scale
    cells = torch.arange(side, device=coords.device) + 0.5
    distance = (cells - centre[..., None]).abs() / scale.clamp(min=1)[..., None]
    weights = (1 - distance).clamp(min=0)
    return weights / weights.sum(-1, keepdim=True)


def build_positions(config: Positions, dim: int) -> FactorizedPositions | InterpolatedPositions:
    match config:
        case Factorized():
            return FactorizedPositions(config, dim)
        case Interpolated():
            return InterpolatedPositions(config, dim)
