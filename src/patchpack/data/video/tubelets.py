"""From frames to tubelets: cut a clip into blocks of one or several shapes, and flatten them.

    frames [t, h, w, c]  →  for each shape (a, b, c): ⌊t/a⌋ · ⌊h/b⌋ · ⌊w/c⌋ tokens of a·b·c pixels

A tubelet is flattened (frame, row, column, channel), channel fastest, as patches are. What a shape
does not fill at the end of a side is left out; the first shape must fill the sides in space.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int, UInt8

from patchpack.batch import ClipPatches, Target, Tubelet

Frames = UInt8[np.ndarray, "time height width channel"]


def tubelet_grid(size: tuple[int, int, int], shape: Tubelet) -> tuple[int, int, int]:
    """(t, h, w) tubelets of a shape in a clip of (frames, height, width)."""
    return size[0] // shape.frames, size[1] // shape.height, size[2] // shape.width


def count_tubelets(
    frames: Int[np.ndarray, " clip"], grids: Int[np.ndarray, "clip 2"], shapes: Sequence[Tubelet]
) -> Int[np.ndarray, " clip"]:
    """Tokens of clips of so many frames, whose sides have so many tubelets of the first shape."""
    first = shapes[0]
    heights, widths = grids[:, 0] * first.height, grids[:, 1] * first.width
    counts = [(frames // s.frames) * (heights // s.height) * (widths // s.width) for s in shapes]
    return np.sum(counts, axis=0)


def cut_tubelets(
    frames: Frames,
    shapes: Sequence[Tubelet],
    *,
    kept: Int[np.ndarray, " token"] | None = None,
    key: str = "",
    targets: dict[str, Target] | None = None,
) -> ClipPatches:
    """Cut a clip into tubelets of each shape, one after the other, keeping those numbered in `kept`
    (ascending over all shapes; all when None).

    Raises ValueError where the first shape does not fill the clip's height and width, and where
    the clip has fewer frames than it.
    """
    time, height, width, channels = frames.shape
    first = shapes[0]
    if time < first.frames or height % first.height or width % first.width or not height * width:
        raise ValueError(
            f"{key or 'clip'}: {time} frames of {height} x {width} px do not divide into tubelets "
            f"of {first.frames} frames of {first.height} x {first.width} px"
        )
    grids = [tubelet_grid((time, height, width), shape) for shape in shapes]
    grid_extents = [(time / s.frames, height / s.height, width / s.width) for s in shapes]
    cells = [_cells(frames, shape, grid) for shape, grid in zip(shapes, grids, strict=True)]
    coords = [np.indices(grid).reshape(3, -1).T for grid in grids]
    counts = [len(c) for c in coords]
    ends = np.cumsum(counts)
    numbers = np.arange(ends[-1]) if kept is None else kept
    tokens_per_tubelet = np.searchsorted(ends, numbers, side="right")
    longest = max(shape.pixels for shape in shapes) * channels
    patches = np.zeros((len(numbers), longest), np.uint8)
    for kind, (values, end, count) in enumerate(zip(cells, ends, counts, strict=True)):
        mine = tokens_per_tubelet == kind
        patches[mine, : values.shape[1]] = values[numbers[mine] - (end - count)]
    return ClipPatches(
        patches=torch.from_numpy(patches),
        coords=torch.from_numpy(np.concatenate(coords)[numbers].astype(np.int32)),
        grid_extents=torch.from_numpy(np.array(grid_extents, np.float32)[tokens_per_tubelet]),
        grid=grids[0],
        tokens_per_tubelet=tuple(
            int((tokens_per_tubelet == kind).sum()) for kind in range(len(shapes))
        ),
        key=key,
        targets=targets or {},
    )


def _cells(frames: Frames, shape: Tubelet, grid: tuple[int, int, int]) -> np.ndarray:
    """All tubelets of one shape, flattened, row-major in (t, y, x)."""
    t, h, w = grid
    filled = frames[: t * shape.frames, : h * shape.height, : w * shape.width]
    channels = frames.shape[3]
    blocks = filled.reshape(t, shape.frames, h, shape.height, w, shape.width, channels)
    return blocks.transpose(0, 2, 4, 1, 3, 5, 6).reshape(t * h * w, shape.pixels * channels)
