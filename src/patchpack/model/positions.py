"""Position embeddings of patches: all types that NaViT compares (arXiv 2307.06304, Table 3).

Each type is a config dataclass and a module. Most add a vector to the token:
`forward(coords, grids) -> [token, dim]`. Rotary rotates queries and keys (`model/rotary.py`).
Coordinates come with the batch, so any subset of an image's patches, in any order, gets the right
positions, and no type loops over images or syncs with the device.

    type          parameters      combination           grids larger than in training
    Factorized    two tables      sum, concat, product  up to table_size; any if fractional
    Learned2D     one table       by index              up to table_size
    Interpolated  one table       by index              any: the table is resized
    Sinusoidal    none            concat                any
    Fourier       one layer       joint                 any
    Rotary        none            in attention          any

Coordinates (Fig. 16) are in rows of a table of `length`, for a patch at p along a side of n:

    absolute      p
    fractional    (p + ½) / n · length - ½                 the same range for every image
    aspect        (p + ½) / longer side · length - ½       the longer side spans the table

Axes: token, dim. coords (y, x) in patches; grids (h, w) of the token's image.
"""

from dataclasses import dataclass
from math import log, pi
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from patchpack.model.interpolation import Filter, resize_weights

UNLIMITED = 2**31 - 1  # max_side of a type without a limit, in patches
Coordinates = Literal["absolute", "fractional", "aspect"]


def table_coordinates(
    coords: Int[Tensor, "token axis"],
    grids: Num[Tensor, "token axis"],
    coordinates: Coordinates,
    length: int,
) -> Float[Tensor, "token axis"]:
    """Return coordinates in rows of a table of `length`; sides of grids may be fractional."""
    if coordinates == "absolute":
        return coords.float()
    sides = grids if coordinates == "fractional" else grids.amax(-1, keepdim=True)
    return (coords + 0.5) / sides * length - 0.5


@dataclass(frozen=True, kw_only=True)
class Factorized:
    """Two learned tables φ_y(y) and φ_x(x); NaViT takes their sum (§3.2)."""

    table_size: int = 128  # rows of each table; the maximum grid side with absolute coordinates
    combine: Literal["sum", "concat", "product"] = "sum"  # combination of the y and x embeddings
    # table row of a patch: absolute is its index, fractional relative to its own side of the grid,
    # aspect relative to the longer side
    coordinates: Coordinates = "absolute"

    @property
    def max_side(self) -> int:
        return self.table_size if self.coordinates == "absolute" else UNLIMITED

    def flops(self, dim: int) -> int:
        """Return the operations of matrix products per token."""
        return 0

    def build(self, dim: int) -> nn.Module:
        return FactorizedPositions(self, dim)


@dataclass(frozen=True, kw_only=True)
class Learned2D:
    """A learned vector for every (y, x) (Pix2Struct, arXiv 2210.03347)."""

    table_size: int = 64  # rows and columns of the table; the maximum grid side

    @property
    def max_side(self) -> int:
        return self.table_size

    def flops(self, dim: int) -> int:
        return 0

    def build(self, dim: int) -> nn.Module:
        return Learned2DPositions(self, dim)


@dataclass(frozen=True, kw_only=True)
class Interpolated:
    """The ViT's learned square table, resized to each image's grid as `F.interpolate` would."""

    side: int = 16  # side of the learned table, in patches
    filter: Filter = "bilinear"  # interpolation filter of the resize
    antialias: bool = True  # antialias when the table is downsampled
    # extent of the table; fractional: each side of the grid, aspect: the longer side, on both axes
    coordinates: Literal["fractional", "aspect"] = "fractional"

    @property
    def max_side(self) -> int:
        return UNLIMITED

    def flops(self, dim: int) -> int:
        return 2 * self.side**2 * dim

    def build(self, dim: int) -> nn.Module:
        return InterpolatedPositions(self, dim)


@dataclass(frozen=True, kw_only=True)
class Sinusoidal:
    """Sines and cosines of y and of x, concatenated (Vaswani et al., arXiv 1706.03762, §3.5)."""

    # coordinate of a patch: absolute is its index, fractional relative to its own side of the grid,
    # aspect relative to the longer side
    coordinates: Coordinates = "absolute"
    table_size: int = 128  # range of fractional and aspect coordinates, in patches
    base: float = 10_000.0  # longest wavelength, in units of 2π patches

    @property
    def max_side(self) -> int:
        return UNLIMITED

    def flops(self, dim: int) -> int:
        return 0

    def build(self, dim: int) -> nn.Module:
        return SinusoidalPositions(self, dim)


@dataclass(frozen=True, kw_only=True)
class Fourier:
    """Sines and cosines of a learned linear map of (y, x) (Tancik et al., arXiv 2006.10739, §5)."""

    # coordinate of a patch: absolute is its index, fractional relative to its own side of the grid,
    # aspect relative to the longer side
    coordinates: Coordinates = "absolute"
    table_size: int = 128  # range of fractional and aspect coordinates, in patches
    wavelength: float = 16.0  # wavelength of the root-mean-square frequency at init, in patches

    @property
    def max_side(self) -> int:
        return UNLIMITED

    def flops(self, dim: int) -> int:
        return 0

    def build(self, dim: int) -> nn.Module:
        return FourierPositions(self, dim)


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """Queries and keys rotated by angles proportional to y in half of a head, x in the other half.

    RoPE (Su et al., arXiv 2104.09864), axial in two dimensions: attention depends on differences of
    coordinates only. Nothing is added to the tokens.
    """

    # coordinate of a patch: absolute is its index, fractional relative to its own side of the grid,
    # aspect relative to the longer side
    coordinates: Coordinates = "absolute"
    table_size: int = 128  # range of fractional and aspect coordinates, in patches
    base: float = 100.0  # longest wavelength, in units of 2π patches

    @property
    def max_side(self) -> int:
        return UNLIMITED

    def flops(self, dim: int) -> int:
        return 0

    def build(self, dim: int) -> nn.Module:
        return NoPositions()


Positions = Factorized | Learned2D | Interpolated | Sinusoidal | Fourier | Rotary


class FactorizedPositions(nn.Module):
    """One learned table per axis, indexed by the patch's row and column."""

    def __init__(self, config: Factorized, dim: int) -> None:
        super().__init__()
        self.config = config
        width = _half(dim, config) if config.combine == "concat" else dim
        self.y = nn.Parameter(torch.empty(config.table_size, width))
        self.x = nn.Parameter(torch.empty(config.table_size, width))

    def init_weights(self) -> None:
        dim = self.y.shape[-1]
        std = dim**-0.25 if self.config.combine == "product" else dim**-0.5
        for table in (self.y, self.x):
            nn.init.normal_(table, std=std)

    def forward(
        self, coords: Int[Tensor, "token 2"], grids: Num[Tensor, "token 2"]
    ) -> Float[Tensor, "token dim"]:
        if self.config.coordinates == "absolute":
            y, x = (F.embedding(c, t) for c, t in zip(coords.long().T, self._tables(), strict=True))
        else:
            rows = table_coordinates(coords, grids, self.config.coordinates, self.config.table_size)
            y, x = (interpolate_rows(r, t) for r, t in zip(rows.T, self._tables(), strict=True))
        match self.config.combine:
            case "sum":
                return y + x
            case "concat":
                return torch.cat([y, x], dim=-1)
            case "product":
                return y * x

    def _tables(self) -> tuple[Tensor, Tensor]:
        return self.y, self.x


def interpolate_rows(
    rows: Float[Tensor, " token"], table: Float[Tensor, "row dim"]
) -> Float[Tensor, "token dim"]:
    """Return table rows at fractional indices, linearly interpolated and clamped to the table."""
    rows = rows.clamp(0, len(table) - 1)
    lower = rows.long().clamp(max=max(0, len(table) - 2))
    share = (rows - lower)[:, None]
    upper = (lower + 1).clamp(max=len(table) - 1)
    return torch.lerp(F.embedding(lower, table), F.embedding(upper, table), share.to(table.dtype))


class Learned2DPositions(nn.Module):
    """A learned vector for every row and column."""

    def __init__(self, config: Learned2D, dim: int) -> None:
        super().__init__()
        self.table_size = config.table_size
        self.table = nn.Parameter(torch.empty(config.table_size**2, dim))

    def init_weights(self) -> None:
        nn.init.normal_(self.table, std=self.table.shape[-1] ** -0.5)

    def forward(
        self, coords: Int[Tensor, "token 2"], grids: Num[Tensor, "token 2"]
    ) -> Float[Tensor, "token dim"]:
        y, x = coords.long().unbind(-1)
        return F.embedding(y * self.table_size + x, self.table)


class InterpolatedPositions(nn.Module):
    """A learned [side, side] table, resized to each image's grid.

    The resize is separable, so each token needs only one row and one column of weights.
    """

    def __init__(self, config: Interpolated, dim: int) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Parameter(torch.empty(config.side, config.side, dim))

    def init_weights(self) -> None:
        nn.init.normal_(self.table, std=self.table.shape[-1] ** -0.5)

    def forward(
        self, coords: Int[Tensor, "token 2"], grids: Num[Tensor, "token 2"]
    ) -> Float[Tensor, "token dim"]:
        c = self.config
        if c.coordinates == "aspect":
            grids = grids.amax(-1, keepdim=True).expand_as(grids)
        wy, wx = resize_weights(coords, grids, c.side, c.filter, c.antialias).unbind(-2)
        weights = wy[:, :, None] * wx[:, None, :]
        return weights.flatten(1) @ self.table.flatten(0, 1).to(weights.dtype)


class SinusoidalPositions(nn.Module):
    """Half of the channels encode y, half x; half of each are sines, half cosines."""

    def __init__(self, config: Sinusoidal, dim: int) -> None:
        super().__init__()
        self.config, self.waves = config, _half(_half(dim, config), config)

    def init_weights(self) -> None:
        """No parameters."""

    def forward(
        self, coords: Int[Tensor, "token 2"], grids: Num[Tensor, "token 2"]
    ) -> Float[Tensor, "token dim"]:
        c = self.config
        angles = wave_angles(
            table_coordinates(coords, grids, c.coordinates, c.table_size), self.waves, c.base
        )
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
        return waves * (2 * self.waves) ** -0.5  # same norm as learned embeddings at init


def wave_angles(
    rows: Float[Tensor, "token 2"], waves: int, base: float
) -> Float[Tensor, "token 2 wave"]:
    """Return p · base^(-i / waves) for each axis and wave i."""
    numbers = torch.arange(waves, device=rows.device, dtype=torch.float32)
    return rows[..., None] * torch.exp(numbers * (-log(base) / waves))


class FourierPositions(nn.Module):
    """Sines and cosines of a learned linear map of (y, x)."""

    def __init__(self, config: Fourier, dim: int) -> None:
        super().__init__()
        self.config = config
        self.frequencies = nn.Parameter(torch.empty(2, _half(dim, config)))  # radians per patch

    def init_weights(self) -> None:
        nn.init.normal_(self.frequencies, std=2 * pi / self.config.wavelength)

    def forward(
        self, coords: Int[Tensor, "token 2"], grids: Num[Tensor, "token 2"]
    ) -> Float[Tensor, "token dim"]:
        c = self.config
        rows = table_coordinates(coords, grids, c.coordinates, c.table_size)
        # Not a matrix product: autocast would round it, and with it large coordinates.
        angles = rows[:, :1] * self.frequencies[0] + rows[:, 1:] * self.frequencies[1]
        return torch.cat([angles.sin(), angles.cos()], dim=-1) * angles.shape[-1] ** -0.5


class NoPositions(nn.Module):
    """Adds zero."""

    def init_weights(self) -> None:
        """No parameters."""

    def forward(
        self, coords: Int[Tensor, "token 2"], grids: Num[Tensor, "token 2"]
    ) -> Float[Tensor, ""]:
        return torch.zeros((), device=coords.device)


def _half(dim: int, config: Positions) -> int:
    if dim % 2:
        raise ValueError(f"{type(config).__name__} positions cannot split dim {dim} evenly")
    return dim // 2
