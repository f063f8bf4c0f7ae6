"""Depth maps: a 16-bit PNG per image, in millimeters, 0 where the depth is unknown.

A manifest names them in the column `depth`, with paths relative to the manifest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image

from patchpack.batch import Patches
from patchpack.data.annotations.annotation import Affine, Hash, Size
from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.data.transforms.sample import warp

COLUMN = "depth"
DepthValues = Float[np.ndarray, "height width"]


@dataclass(frozen=True, eq=False)
class DepthMap:
    """The depth of every pixel of one image."""

    meters: DepthValues  # 0 where unknown; empty before it is read
    file: Path | None = None

    in_pixels: ClassVar[bool] = True

    def read(self, size: Size, key: str) -> "DepthMap":
        if self.file is None:
            return self
        try:
            with Image.open(self.file) as image:
                meters = np.asarray(image).astype(np.float32) / 1000
        except OSError as error:
            raise BadImage(
                key, f"its depth map {self.file.name} cannot be read: {error}"
            ) from error
        if meters.shape != size:
            raise BadImage(key, f"its depth map is {meters.shape} pixels, the image {size}")
        return DepthMap(meters)

    def crop(self, top: int, left: int, height: int, width: int) -> "DepthMap":
        return DepthMap(self.meters[top : top + height, left : left + width])

    def resize(self, before: Size, after: Size) -> "DepthMap":
        """Nearest neighbor: a mean of known and unknown depths would be neither."""
        image = Image.fromarray(np.ascontiguousarray(self.meters))
        return DepthMap(np.asarray(image.resize(after[::-1], Image.Resampling.NEAREST)))

    def hflip(self, size: Size) -> "DepthMap":
        return DepthMap(self.meters[:, ::-1])

    def rot90(self, k: int, size: Size) -> "DepthMap":
        return DepthMap(np.rot90(self.meters, k))

    def affine(self, matrix: Affine, inverse: Affine, size: Size) -> "DepthMap":
        values = np.ascontiguousarray(self.meters)
        return DepthMap(warp(values, matrix, (0,), Image.Resampling.NEAREST))

    def merge(
        self, parts: Sequence["DepthMap"], offsets: Sequence[tuple[int, int]], size: Size
    ) -> "DepthMap":
        canvas = np.zeros(size, np.float32)
        for part, (top, left) in zip(parts, offsets, strict=True):
            height, width = part.meters.shape
            canvas[top : top + height, left : left + width] = part.meters
        return DepthMap(canvas)

    def attach(self, patches: Patches, size: Size, original: "DepthMap | None") -> Patches:
        meters = np.require((original or self).meters, np.float32, requirements=["C", "W"])
        return replace(patches, targets=patches.targets | {"depth": torch.from_numpy(meters)})


@dataclass(frozen=True, eq=False)
class DepthMaps:
    """The depth maps of all images of an index."""

    keys: tuple[str, ...]  # paths relative to the root of the index

    name: ClassVar[str] = "depth"

    def select(self, rows: Int[np.ndarray, " row"]) -> "DepthMaps":
        return DepthMaps(tuple(self.keys[row] for row in rows))

    def item(self, row: int, seed: int, epoch: int, root: Path) -> DepthMap:
        return DepthMap(np.empty((0, 0), np.float32), root / self.keys[row])

    def stream_lengths(self, seed: int, epoch: int) -> None:
        return None

    def digest(self, hash: Hash) -> None:
        hash.update("\0".join(self.keys).encode("utf-8", "surrogatepass"))

    def files(self) -> Sequence[str]:
        return self.keys


def has_depth(index: Index) -> bool:
    """Whether a manifest names depth maps."""
    return any(index.columns.get(COLUMN, ()))


def attach_depth(index: Index) -> Index:
    """The images with a depth map; raises BadDataset where there is none."""
    if not has_depth(index):
        raise BadDataset(f"{index.root} has no depth maps: expected a manifest with a column depth")
    cells = index.columns[COLUMN]
    rows = [row for row, cell in enumerate(cells) if cell]
    return index.select(rows).with_annotation(DepthMaps(tuple(cells[row] for row in rows)))
