"""Cut an image into square patches and flatten the kept ones.

    pixels [gh·p, gw·p, c]   →   patches [token, p·p·c], coords [token, 2]

A patch is flattened (row, column, channel), channel fastest. Pixels stay uint8; the model
normalizes them on its device.
"""

import numpy as np
import torch
from jaxtyping import Int, UInt8

from patchpack.batch import Patches, Target


def patchify(
    pixels: UInt8[np.ndarray, "height width channel"],
    patch_size: int,
    *,
    kept: Int[np.ndarray, " token"] | None = None,
    key: str = "",
    targets: dict[str, Target] | None = None,
) -> Patches:
    """Cut `pixels` into patches and keep those with the indices `kept` (row-major; None: all).

    Raises ValueError if a side is not a multiple of the patch size.
    """
    height, width, channels = pixels.shape
    p = patch_size
    if height % p or width % p or not height or not width:
        raise ValueError(f"{key or 'image'}: {height} x {width} px does not divide into {p} px")
    h, w = height // p, width // p
    cells = pixels.reshape(h, p, w, p, channels).transpose(0, 2, 1, 3, 4).reshape(h * w, -1)
    indices = np.arange(h * w) if kept is None else kept
    cells = cells[indices] if kept is not None else np.require(cells, requirements=["C", "W"])
    coords = np.stack(np.divmod(indices, w), axis=-1).astype(np.int32)
    return Patches(
        patches=torch.from_numpy(cells),
        coords=torch.from_numpy(coords),
        grid=(h, w),
        key=key,
        targets=targets or {},
    )


def unpatchify(
    patches: UInt8[np.ndarray, "token patch_dim"],
    coords: Int[np.ndarray, "token 2"],
    grid: tuple[int, int],
    patch_size: int,
    blank: int = 128,
) -> UInt8[np.ndarray, "height width channel"]:
    """Rebuild the image from its patches; fill dropped patches with the gray value `blank`."""
    h, w = grid
    p = patch_size
    cells = np.full((h, w, p, p, patches.shape[1] // p**2), blank, np.uint8)
    cells[coords[:, 0], coords[:, 1]] = patches.reshape(len(patches), p, p, -1)
    return cells.transpose(0, 2, 1, 3, 4).reshape(h * p, w * p, -1)
