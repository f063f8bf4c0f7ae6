"""Cut a clip into tubelets of one or several shapes, and flatten them.

    frames [t, h, w, c]  →  for each shape (a, b, c): ⌊t/a⌋ · ⌊h/b⌋ · ⌊w/c⌋ tokens of a·b·c pixels

A tubelet is flattened (frame, row, column, channel), channel fastest, like a patch. A remainder at
the end of a side is dropped; the first shape must divide the height and the width.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int, UInt8

from patchpack.batch import ClipPatches, Target, Tubelet

Frames = UInt8[np.ndarray, "time height width channel"]


def tubelet_grid(size: tuple[int, int, int], shape: Tubelet) -> tuple[int, int, int]:
    """Return the (t, h, w) tubelets of a shape in a clip of (frames, height, width)."""
    return size[0] // shape.frames, size[1] // shape.height, size[2] // shape.width


def count_tubelets(
    frames: Int[np.ndarray, " clip"], grids: Int[np.ndarray, "clip 2"], shapes: Sequence[Tubelet]
) -> Int[np.ndarray, " clip"]:
    """Return the tokens per clip from its frames and its grid in tubelets of the first shape."""
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
    """Cut a clip into the tubelets of each shape in turn, and keep those with the indices `kept`.

    kept  ascending indices over the tubelets of all shapes (None: all)

    Raises ValueError if the first shape does not divide the clip's height and width, or has more
    frames than the clip.
    """
    time, height, width, channels = frames.shape
    first = shapes[0]
    if time < first.frames or height % first.height or width % first.width or not height * width:
        raise ValueError(
            f"{key or 'clip'}: {time} frames of {height} x {width} px do not divide into tubelets "
            f"of {first.frames} frames of {first.height} x {first.width} px"
        )
    grids = [tubelet_grid((time, height, width), shape) for shape in shapes]
    extents = [(time / s.frames, height / s.height, width / s.width) for s in shapes]
    cells = [_cells(frames, shape, grid) for shape, grid in zip(shapes, grids, strict=True)]
    coords = [np.indices(grid).reshape(3, -1).T for grid in grids]
    counts = [len(c) for c in coords]
    ends = np.cumsum(counts)
    indices = np.arange(ends[-1]) if kept is None else kept
    shape_of_token = np.searchsorted(ends, indices, side="right")
    patch_dim = max(shape.pixels for shape in shapes) * channels
    patches = np.zeros((len(indices), patch_dim), np.uint8)
    for number, (values, end, count) in enumerate(zip(cells, ends, counts, strict=True)):
        rows = shape_of_token == number
        patches[rows, : values.shape[1]] = values[indices[rows] - (end - count)]
    return ClipPatches(
        patches=torch.from_numpy(patches),
        coords=torch.from_numpy(np.concatenate(coords)[indices].astype(np.int32)),
        grid_extents=torch.from_numpy(np.array(extents, np.float32)[shape_of_token]),
        grid=grids[0],
        tokens_per_tubelet=tuple(np.bincount(shape_of_token, minlength=len(shapes)).tolist()),
        key=key,
        targets=targets or {},
    )


def _cells(frames: Frames, shape: Tubelet, grid: tuple[int, int, int]) -> np.ndarray:
    """Return all tubelets of a shape, flattened, row-major in (t, y, x)."""
    t, h, w = grid
    filled = frames[: t * shape.frames, : h * shape.height, : w * shape.width]
    channels = frames.shape[3]
    blocks = filled.reshape(t, shape.frames, h, shape.height, w, shape.width, channels)
    return blocks.transpose(0, 2, 4, 1, 3, 5, 6).reshape(t * h * w, shape.pixels * channels)
