"""Positions learned by one model, for another that has more or fewer of them.

Where coordinates are relative to the image, or a table is resized to it, a table of another length
says the same at other points: it is resampled. Absolute places that were never learned cannot be
made up, so such a table can be cut and not grown. Kinds are never exchanged.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from patchpack.model.positions import Coordinates, Factorized, Interpolated, Learned2D, Positions
from patchpack.model.video import VideoConfig

PREFIX, TIME = "positions.", "time"


class IncompatiblePositions(ValueError):
    """Positions that cannot become those of another model, and why."""


def resize_positions(
    tensors: Mapping[str, Tensor], before: Positions, after: Positions
) -> dict[str, Tensor]:
    """A trunk's tensors with positions as `after` wants them; raises OtherPositions."""
    resized = dict(tensors)
    if before == after:
        return resized
    if type(before) is not type(after):
        raise IncompatiblePositions(f"{type(before).__name__} cannot become {type(after).__name__}")
    match before, after:
        case Factorized(), Factorized():
            if (before.combine, before.coordinates) != (after.combine, after.coordinates):
                raise IncompatiblePositions(
                    f"{before.combine} of {before.coordinates} coordinates cannot become "
                    f"{after.combine} of {after.coordinates} ones"
                )
            for name in ("y", "x"):
                rows = tensors[PREFIX + name]
                resized[PREFIX + name] = _of_length(rows, before.coordinates, after.table_size)
        case Learned2D(), Learned2D():
            n = before.table_size
            rows = tensors[PREFIX + "table"].unflatten(0, (n, n))
            cut = _first(_first(rows, after.table_size).transpose(0, 1), after.table_size)
            resized[PREFIX + "table"] = cut.transpose(0, 1).flatten(0, 1)
        case Interpolated(), Interpolated():
            resized[PREFIX + "table"] = _resampled(
                tensors[PREFIX + "table"], (after.side, after.side)
            )
        case _:
            raise IncompatiblePositions(f"{before} cannot become {after}")
    return resized


def resize_time(
    tensors: Mapping[str, Tensor], before: VideoConfig, after: VideoConfig
) -> dict[str, Tensor]:
    """A trunk's tensors with the table of time as `after` wants it; raises OtherPositions."""
    if before.time_coordinates != after.time_coordinates:
        raise IncompatiblePositions(
            f"time_coordinates are {before.time_coordinates}, not {after.time_coordinates}"
        )
    if before.time_table_size == after.time_table_size:
        return dict(tensors)
    return dict(tensors) | {
        TIME: _of_length(tensors[TIME], before.time_coordinates, after.time_table_size)
    }


def _of_length(rows: Tensor, coordinates: Coordinates, length: int) -> Tensor:
    """A table along one axis with another number of rows."""
    if coordinates == "absolute":
        return _first(rows, length)
    return _resampled(rows[:, None].repeat(1, 2, 1), (length, 2))[:, 0]


def _first(rows: Tensor, length: int) -> Tensor:
    if length > len(rows):
        raise IncompatiblePositions(
            f"{len(rows)} learned places cannot become {length}: those beyond were never learned"
        )
    return rows[:length].contiguous()


def _resampled(table: Tensor, size: tuple[int, int]) -> Tensor:
    """A table [h, w, dim] at another size.

    Trap: of a table that is one wide, PyTorch 2.13 gives zeros (bilinear, antialiased).
    """
    resized = F.interpolate(
        table.permute(2, 0, 1)[None], size, mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0].permute(1, 2, 0).contiguous()
