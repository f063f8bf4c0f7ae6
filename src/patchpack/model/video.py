"""Clips in the encoder of images: tubelets are embedded, places get a time, the rest is the same.

    token = Linear_shape(tubelet) + position(y, x) + time(t)

Tubelets of several shapes lie side by side in one clip (TubeViT, Piergiovanni et al., arXiv
2212.03229); each shape has a projection of its own, and since their grids differ, places are then
told as fractions of the clip. The paper fine-tunes NaViT on video in this way (§5, App. I).

`inflate` makes the weights of an image model those of a clip model (ViViT, Arnab et al., arXiv
2103.15691, §3.4). Time begins at zero there, so without registers, whose share of
attention copies of patches would lessen, a clip that stands still is exactly what its image was.

Axes: token, dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchpack.batch import PackedBatch, PackedClips, Tubelet
from patchpack.model.interpolation import resize_matrix
from patchpack.model.navit import NaViT, NaViTConfig
from patchpack.model.positions import (
    Coordinates,
    Factorized,
    Rotary,
    interpolate_rows,
    table_coordinates,
)

Inflation = Literal["central", "average"]


@dataclass(frozen=True, kw_only=True)
class VideoConfig(NaViTConfig):
    """A vision transformer over clips."""

    tubelets: tuple[Tubelet, ...] = (Tubelet(2, 16, 16),)  # the first decides the grid in space
    time_table_size: int = 32  # rows of the table of time; absolute coordinates end there
    time_coordinates: Coordinates = "absolute"

    def __post_init__(self) -> None:
        NaViTConfig.__post_init__(self)
        if not self.tubelets or self.time_table_size < 1:
            raise ValueError("a model of clips needs a tubelet and a row of time")
        if self.time_coordinates == "aspect":
            raise ValueError("time has no aspect: its coordinates are absolute or fractional")
        if (self.tubelets[0].height, self.tubelets[0].width) != (self.patch_size,) * 2:
            raise ValueError(f"the first tubelet must be {self.patch_size} px square: patch_size")
        fractional = isinstance(self.positions, Factorized) and (
            self.positions.coordinates == "fractional" == self.time_coordinates
        )
        if len(self.tubelets) > 1 and not fractional:
            raise ValueError(
                "tubelets of several shapes need fractional coordinates: set positions to "
                "Factorized(coordinates='fractional') and time_coordinates to 'fractional'"
            )
        if isinstance(self.positions, Rotary):
            raise ValueError("rotary positions know no time: choose another kind for clips")

    @property
    def patch_dim(self) -> int:
        """Numbers in the largest tubelet."""
        return max(shape.pixels for shape in self.tubelets) * self.channels


class VideoNaViT(NaViT):
    """Packed clips in, tokens and one vector per clip out."""

    def _build(self) -> None:
        config = self.config
        assert isinstance(config, VideoConfig)
        self.embedding = nn.ModuleList(
            nn.Linear(shape.pixels * config.channels, config.dim, bias=config.bias)
            for shape in config.tubelets
        )
        self.time = nn.Parameter(torch.empty(config.time_table_size, config.dim))

    @torch.no_grad()
    def _init_embedding(self) -> None:
        for layer in self.embedding.children():
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)  # pyrefly: ignore
        nn.init.normal_(self.time, std=self.config.dim**-0.5)

    def embed(self, batch: PackedBatch) -> Float[Tensor, "token dim"]:
        if not isinstance(batch, PackedClips):
            raise ValueError("this model takes clips: pack them with pack_clips")
        self._check(batch)
        config = self.config
        assert isinstance(config, VideoConfig)
        pixels = (batch.patches.float() - config.pixel_mean) / config.pixel_std
        coords, grid_extents = batch.coords, batch.grid_extents
        tokens = self._project(pixels, batch) + self.positions(coords[:, 1:], grid_extents[:, 1:])
        rows = table_coordinates(
            coords[:, :1], grid_extents[:, :1], config.time_coordinates, config.time_table_size
        )
        tokens = tokens + interpolate_rows(rows[:, 0], self.time)
        return tokens.to(self.encoder.norm.weight.dtype)

    def _project(self, pixels: Tensor, batch: PackedClips) -> Float[Tensor, "token dim"]:
        layers = list(self.embedding.children())
        if len(layers) == 1:
            return layers[0](pixels)
        rows = [batch.token_indices(kind) for kind in range(len(layers))]
        parts = [layer(pixels.index_select(0, mine)[:, : layer.in_features])
                 for layer, mine in zip(layers, rows, strict=True)]  # fmt: skip
        stream = torch.cat(parts)
        return torch.empty_like(stream).index_copy(0, torch.cat(rows), stream)

    def _check(self, batch: PackedBatch) -> None:
        super()._check(batch)
        config = self.config
        assert isinstance(config, VideoConfig)
        longest = int(batch.grids[:, 0].max()) if batch.num_images else 0
        if config.time_coordinates == "absolute" and longest > config.time_table_size:
            raise ValueError(
                f"a clip is {longest} tubelets long, but the learned times end at {config.time_table_size}"
            )


def inflate(
    tensors: Mapping[str, Tensor],
    config: VideoConfig,
    how: Inflation = "central",
) -> dict[str, Tensor]:
    """An image trunk's tensors as those of a trunk of clips.

    how  "central": the middle frame, ⌊frames/2⌋, is embedded as the image was, the others not at
         all; "average": every frame is, and counts for its share

    Shapes that are higher, lower or wider than the patches embed what those would of the same
    pixels resized (`_resized`). Raises ValueError where the first shape's are of another size.
    """
    weight, p = tensors["embedding.weight"], config.patch_size
    if weight.shape[1] != p**2 * config.channels:
        raise ValueError(
            f"patches of {weight.shape[1]} numbers cannot become tubelets {config.tubelets}"
        )
    found = {name: t for name, t in tensors.items() if not name.startswith("embedding.")}
    found["time"] = weight.new_zeros(config.time_table_size, config.dim)
    kernel = weight.unflatten(1, (p, p, config.channels))
    for number, shape in enumerate(config.tubelets):
        frame = _resized(kernel, shape.height, shape.width).flatten(1)
        frames = frame.new_zeros(len(frame), shape.frames, frame.shape[1])
        if how == "central":
            frames[:, shape.frames // 2] = frame
        else:
            frames += frame[:, None] / shape.frames
        found[f"embedding.{number}.weight"] = frames.flatten(1)
        if "embedding.bias" in tensors:
            found[f"embedding.{number}.bias"] = tensors["embedding.bias"]
    return found


def _resized(
    kernel: Float[Tensor, "dim p p channel"], height: int, width: int
) -> Float[Tensor, "dim height width channel"]:
    """A projection of patches as one of patches of another size: of a patch that is enlarged
    (bilinearly) it makes what it made of the patch, of one that is shrunk the nearest to that (the
    pseudo-inverse of FlexiViT, Beyer et al., arXiv 2212.08013, §3.4)."""
    p = kernel.shape[1]
    if (height, width) == (p, p):
        return kernel
    y, x = (torch.linalg.pinv(resize_matrix(p, side)) for side in (height, width))
    return torch.einsum("dabc,ai,bj->dijc", kernel, y.to(kernel), x.to(kernel))
