"""Where a patch lies in its image: every way that the paper compares (arXiv 2307.06304, Table 3).

Each kind is a config dataclass and a module. Most add a vector to the token:
`forward(coords, grids) -> [token, dim]`. Rotary turns queries and keys instead (`model/rotary.py`).
Positions come in with the batch, so any subset of an image's patches, in any order, gets the right
ones, and no kind loops over images or waits for the device.

    kind          learned         combined             beyond the sizes of training
    Factorized    two tables      sum, stack, product  up to its length; any size when fractional
    Learned2D     one table       by index             up to its length
    Interpolated  one table       by index             any: the table is resized
    Sinusoidal    nothing         stack                any
    Fourier       one layer       jointly              any
    Rotary        nothing         in attention         any

Coordinates (Fig. 16) count patches; of a patch at p in a grid n long, for a table of `length` rows:

    absolute      p
    fractional    (p + ½) / n · length - ½                 the same span for every image
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

UNLIMITED = 2**31 - 1  # longest side of a grid where a method has no limit
Coordinates = Literal["absolute", "fractional", "aspect"]


def table_coordinates(
    coords: Int[Tensor, "token axis"],
    grids: Num[Tensor, "token axis"],
    coordinates: Coordinates,
    length: int,
) -> Float[Tensor, "token axis"]:
    """Coordinates in rows of a table of `length`; sides of grids need not be whole."""
    if coordinates == "absolute":
        return coords.float()
    sides = grids if coordinates == "fractional" else grids.amax(-1, keepdim=True)
    return (coords + 0.5) / sides * length - 0.5


@dataclass(frozen=True, kw_only=True)
class Factorized:
    """φ_y(y) and φ_x(x), two learned tables; their sum is the paper's choice (§3.2)."""

    table_size: int = 128  # rows of each table; absolute coordinates end there
    combine: Literal["sum", "concat", "product"] = "sum"
    coordinates: Coordinates = "absolute"  # the other two read between the rows

    @property
    def max_side(self) -> int:
        return self.table_size if self.coordinates == "absolute" else UNLIMITED

    def flops(self, dim: int) -> int:
        """Operations of matrix products, for each token."""
        return 0

    def build(self, dim: int) -> nn.Module:
        return FactorizedPositions(self, dim)


@dataclass(frozen=True, kw_only=True)
class Learned2D:
    """A learned vector for every place (Pix2Struct, arXiv 2210.03347)."""

    table_size: int = 64  # rows and columns of the table

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

    side: int = 16  # of the table, in patches
    filter: Filter = "bilinear"
    antialias: bool = True

    @property
    def max_side(self) -> int:
        return UNLIMITED

    def flops(self, dim: int) -> int:
        return 2 * self.side**2 * dim

    def build(self, dim: int) -> nn.Module:
        return InterpolatedPositions(self, dim)


@dataclass(frozen=True, kw_only=True)
class Sinusoidal:
    """Sines and cosines of y and of x, stacked (Vaswani et al., arXiv 1706.03762, §3.5)."""

    coordinates: Coordinates = "absolute"
    table_size: int = 128  # patches that fractional coordinates span
    base: float = 10_000.0  # the longest wave is 2π · base patches

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

    coordinates: Coordinates = "absolute"
    table_size: int = 128  # patches that fractional coordinates span
    wavelength: float = 16.0  # patches, of the root mean square frequency at the start

    @property
    def max_side(self) -> int:
        return UNLIMITED

    def flops(self, dim: int) -> int:
        return 0

    def build(self, dim: int) -> nn.Module:
        return FourierPositions(self, dim)


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """Queries and keys turned by angles that grow with y in one half of a head, x in the other.

    RoPE (Su et al., arXiv 2104.09864), axial in two dimensions: attention sees differences of
    places only. Nothing is added to the tokens.
    """

    coordinates: Coordinates = "absolute"
    table_size: int = 128  # patches that fractional coordinates span
    base: float = 100.0  # the longest wave is 2π · base patches

    @property
    def max_side(self) -> int:
        return UNLIMITED

    def flops(self, dim: int) -> int:
        return 0

    def build(self, dim: int) -> nn.Module:
        return NoPositions()


Positions = Factorized | Learned2D | Interpolated | Sinusoidal | Fourier | Rotary


class FactorizedPositions(nn.Module):
    """One learned table per axis, read at the patch's row and column."""

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
    """Rows of a table at fractions, linearly from the two around; at its ends, the last one."""
    rows = rows.clamp(0, len(table) - 1)
    lower = rows.long().clamp(max=max(0, len(table) - 2))
    share = (rows - lower)[:, None]
    upper = (lower + 1).clamp(max=len(table) - 1)
    return torch.lerp(F.embedding(lower, table), F.embedding(upper, table), share.to(table.dtype))


class Learned2DPositions(nn.Module):
    """A learned vector for every row and column."""

    def __init__(self, config: Learned2D, dim: int) -> None:
        super().__init__()
        self.length = config.table_size
        self.table = nn.Parameter(torch.empty(config.table_size**2, dim))

    def init_weights(self) -> None:
        nn.init.normal_(self.table, std=self.table.shape[-1] ** -0.5)

    def forward(
        self, coords: Int[Tensor, "token 2"], grids: Num[Tensor, "token 2"]
    ) -> Float[Tensor, "token dim"]:
        y, x = coords.long().unbind(-1)
        return F.embedding(y * self.length + x, self.table)


class InterpolatedPositions(nn.Module):
    """A learned [side, side] table, read as if resized to each image's grid.

    The resize is separable, so a token needs only its row and its column of weights.
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
        wy, wx = resize_weights(coords, grids, c.side, c.filter, c.antialias).unbind(-2)
        weights = wy[:, :, None] * wx[:, None, :]
        return weights.flatten(1) @ self.table.flatten(0, 1)


class SinusoidalPositions(nn.Module):
    """Half of the vector says y, half x; of each half, half are sines and half cosines."""

    def __init__(self, config: Sinusoidal, dim: int) -> None:
        super().__init__()
        self.config, self.waves = config, _half(_half(dim, config), config)

    def init_weights(self) -> None:
        """Nothing to learn."""

    def forward(
        self, coords: Int[Tensor, "token 2"], grids: Num[Tensor, "token 2"]
    ) -> Float[Tensor, "token dim"]:
        c = self.config
        angles = wave_angles(
            table_coordinates(coords, grids, c.coordinates, c.table_size), self.waves, c.base
        )
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
        return waves * (2 * self.waves) ** -0.5  # as long as learned ones are at the start


def wave_angles(
    rows: Float[Tensor, "token 2"], waves: int, base: float
) -> Float[Tensor, "token 2 wave"]:
    """p · base^(-i / waves) for each axis and wave i."""
    numbers = torch.arange(waves, device=rows.device, dtype=torch.float32)
    return rows[..., None] * torch.exp(numbers * (-log(base) / waves))


class FourierPositions(nn.Module):
    """A joint linear map of (y, x), then its sines and cosines."""

    def __init__(self, config: Fourier, dim: int) -> None:
        super().__init__()
        self.config = config
        self.frequencies = nn.Parameter(torch.empty(2, _half(dim, config)))  # radians a patch

    def init_weights(self) -> None:
        nn.init.normal_(self.frequencies, std=2 * pi / self.config.wavelength)

    def forward(
        self, coords: Int[Tensor, "token 2"], grids: Num[Tensor, "token 2"]
    ) -> Float[Tensor, "token dim"]:
        c = self.config
        rows = table_coordinates(coords, grids, c.coordinates, c.table_size)
        # Written out: autocast would round a matrix product, and with it far away places.
        angles = rows[:, :1] * self.frequencies[0] + rows[:, 1:] * self.frequencies[1]
        return torch.cat([angles.sin(), angles.cos()], dim=-1) * angles.shape[-1] ** -0.5


class NoPositions(nn.Module):
    """Adds nothing."""

    def init_weights(self) -> None:
        """Nothing to learn."""

    def forward(
        self, coords: Int[Tensor, "token 2"], grids: Num[Tensor, "token 2"]
    ) -> Float[Tensor, ""]:
        return torch.zeros((), device=coords.device)


def _half(dim: int, config: Positions) -> int:
    if dim % 2:
        raise ValueError(f"{type(config).__name__} positions need a dim that divides: not {dim}")
    return dim // 2
