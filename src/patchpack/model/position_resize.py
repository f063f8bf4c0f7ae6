"""Resize learned position tables when a checkpoint is loaded into another config.

Tables of fractional coordinates and interpolated tables are resampled to the new size. Tables of
absolute coordinates can be truncated but not extended: the additional rows were never trained. The
position type never changes.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from patchpack.model.positions import Coordinates, Factorized, Interpolated, Learned2D, Positions
from patchpack.model.video import VideoConfig

PREFIX, TIME = "positions.", "time"


class IncompatiblePositions(ValueError):
    """Positions of a checkpoint that cannot be resized to the new config."""


def resize_positions(
    tensors: Mapping[str, Tensor], before: Positions, after: Positions
) -> dict[str, Tensor]:
    """Return a backbone's tensors with positions for the config `after`.

    Raise IncompatiblePositions if they cannot be resized.
    """
    resized = dict(tensors)
    if before == after:
        return resized
    if type(before) is not type(after):
        raise IncompatiblePositions(
            f"{type(before).__name__} cannot be converted to {type(after).__name__}"
        )
    match before, after:
        case Factorized(), Factorized():
            if (before.combine, before.coordinates) != (after.combine, after.coordinates):
                raise IncompatiblePositions(
                    f"{before.combine} of {before.coordinates} coordinates cannot be converted to "
                    f"{after.combine} of {after.coordinates} ones"
                )
            for name in ("y", "x"):
                rows = tensors[PREFIX + name]
                resized[PREFIX + name] = _resize_axis(rows, before.coordinates, after.table_size)
        case Learned2D(), Learned2D():
            n = before.table_size
            rows = tensors[PREFIX + "table"].unflatten(0, (n, n))
            columns = _truncated(rows, after.table_size).transpose(0, 1)
            table = _truncated(columns, after.table_size).transpose(0, 1)
            resized[PREFIX + "table"] = table.flatten(0, 1)
        case Interpolated(), Interpolated():
            if replace(before, side=after.side) != after:
                raise IncompatiblePositions(f"{before} cannot be converted to {after}")
            resized[PREFIX + "table"] = _resampled(
                tensors[PREFIX + "table"], (after.side, after.side)
            )
        case _:
            raise IncompatiblePositions(f"{before} cannot be converted to {after}")
    return resized


def resize_time(
    tensors: Mapping[str, Tensor], before: VideoConfig, after: VideoConfig
) -> dict[str, Tensor]:
    """Return a video backbone's tensors with the time table for the config `after`.

    Raise IncompatiblePositions if it cannot be resized.
    """
    if before.time_coordinates != after.time_coordinates:
        raise IncompatiblePositions(
            f"time_coordinates are {before.time_coordinates}, not {after.time_coordinates}"
        )
    if before.time_table_size == after.time_table_size:
        return dict(tensors)
    return dict(tensors) | {
        TIME: _resize_axis(tensors[TIME], before.time_coordinates, after.time_table_size)
    }


def _resize_axis(rows: Tensor, coordinates: Coordinates, length: int) -> Tensor:
    """Return the table of one axis with another number of rows."""
    if coordinates == "absolute":
        return _truncated(rows, length)
    return _resampled(rows[:, None].repeat(1, 2, 1), (length, 2))[:, 0]


def _truncated(rows: Tensor, length: int) -> Tensor:
    if length > len(rows):
        raise IncompatiblePositions(
            f"{len(rows)} learned positions cannot be extended to {length}: the rest is untrained"
        )
    return rows[:length].contiguous()


def _resampled(table: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a table [h, w, dim] resized to another size.

    Trap: for a table of width 1, PyTorch 2.13 returns zeros (bilinear, antialiased).
    """
    resized = F.interpolate(
        table.permute(2, 0, 1)[None], size, mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0].permute(1, 2, 0).contiguous()
