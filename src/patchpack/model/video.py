"""Video models: the image encoder with tubelet embedding and a time embedding.

    token = Linear_shape(tubelet) + position(y, x) + time(t)

A clip may have tubelets of several shapes (TubeViT, Piergiovanni et al., arXiv 2212.03229). Each
shape has its own projection. Their grids differ, so coordinates are then fractions of the clip.
The paper fine-tunes NaViT on video in this way (arXiv 2307.06304, §5, App. I).

`inflate` converts image weights to video weights (ViViT, Arnab et al., arXiv 2103.15691, §3.4). The
time embedding starts at zero, so a static clip gets exactly the features of its image. This does
not hold with registers: copies of patches reduce the attention that registers get.

Axes: token, dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchpack.batch import PackedBatch, PackedClips, Tubelet, require_batch
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
    """A vision transformer over packed clips."""

    # tubelet shapes: frames, height and width in pixels; the first defines the spatial grid
    tubelets: tuple[Tubelet, ...] = (Tubelet(2, 16, 16),)
    time_table_size: int = 32  # rows of the time table; the maximum tubelets if absolute
    # time of a tubelet: absolute is its index, fractional relative to the length of the clip
    time_coordinates: Coordinates = "absolute"

    def __post_init__(self) -> None:
        NaViTConfig.__post_init__(self)
        if not self.tubelets or self.time_table_size < 1:
            raise ValueError("a video model needs at least 1 tubelet shape and 1 time_table_size")
        if self.time_coordinates == "aspect":
            raise ValueError("time_coordinates must be absolute or fractional, not aspect")
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
            raise ValueError(
                "rotary positions are spatial only; choose another position type for video"
            )

    @property
    def patch_dim(self) -> int:
        """Values in the largest flattened tubelet."""
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
        require_batch(batch, self.config.patch_size)
        if not isinstance(batch, PackedClips):
            raise ValueError("a video model takes clips: pack them with pack_clips")
        self._check(batch)
        config = self.config
        assert isinstance(config, VideoConfig)
        pixels = self._normalized(batch, next(self.embedding.parameters()).dtype)
        coords, grid_extents = batch.coords, batch.grid_extents
        tokens = self._project(pixels, batch) + self.positions(coords[:, 1:], grid_extents[:, 1:])
        rows = table_coordinates(
            coords[:, :1], grid_extents[:, :1], config.time_coordinates, config.time_table_size
        )
        tokens = tokens + interpolate_rows(rows[:, 0], self.time)
        return tokens.to(self._stream_dtype)

    def _project(self, pixels: Tensor, batch: PackedClips) -> Float[Tensor, "token dim"]:
        layers = list(self.embedding.children())
        if len(layers) == 1:
            return layers[0](pixels)
        token_indices = [batch.token_indices(tubelet) for tubelet in range(len(layers))]
        parts = [layer(pixels.index_select(0, index)[:, : layer.in_features])
                 for layer, index in zip(layers, token_indices, strict=True)]  # fmt: skip
        stream = torch.cat(parts)
        return torch.empty_like(stream).index_copy(0, torch.cat(token_indices), stream)

    def _check(self, batch: PackedBatch) -> None:
        super()._check(batch)
        config = self.config
        assert isinstance(config, VideoConfig)
        longest = int(batch.grids[:, 0].max()) if batch.num_images else 0
        if config.time_coordinates == "absolute" and longest > config.time_table_size:
            raise ValueError(
                f"a clip is {longest} tubelets long, but the time table ends at "
                f"{config.time_table_size}"
            )


def inflate(
    tensors: Mapping[str, Tensor],
    config: VideoConfig,
    how: Inflation = "central",
) -> dict[str, Tensor]:
    """Return the tensors of a video backbone from those of an image backbone.

    how  "central": the patch weights go to the middle frame, ⌊frames/2⌋, zeros to the others;
         "average": every frame gets the patch weights divided by the number of frames

    For tubelets of another height or width than the patches, weights are resized so that resized
    pixels keep their embedding (`_resized`). Raise ValueError if the patch size differs.
    """
    weight, p = tensors["embedding.weight"], config.patch_size
    if weight.shape[1] != p**2 * config.channels:
        raise ValueError(
            f"patches of {weight.shape[1]} values cannot be inflated to tubelets {config.tubelets}"
        )
    inflated = {name: t for name, t in tensors.items() if not name.startswith("embedding.")}
    inflated["time"] = weight.new_zeros(config.time_table_size, config.dim)
    kernel = weight.unflatten(1, (p, p, config.channels))
    for number, shape in enumerate(config.tubelets):
        frame = _resized(kernel, shape.height, shape.width).flatten(1)
        frames = frame.new_zeros(len(frame), shape.frames, frame.shape[1])
        if how == "central":
            frames[:, shape.frames // 2] = frame
        else:
            frames += frame[:, None] / shape.frames
        inflated[f"embedding.{number}.weight"] = frames.flatten(1)
        if "embedding.bias" in tensors:
            inflated[f"embedding.{number}.bias"] = tensors["embedding.bias"]
    return inflated


def _resized(
    kernel: Float[Tensor, "dim p p channel"], height: int, width: int
) -> Float[Tensor, "dim height width channel"]:
    """Return a patch projection resized to another patch size.

    It embeds a bilinearly enlarged patch exactly as the original projection embeds the patch, and a
    shrunk one as closely as possible (pseudo-inverse; FlexiViT, Beyer et al., arXiv 2212.08013,
    §3.4).
    """
    p = kernel.shape[1]
    if (height, width) == (p, p):
        return kernel
    y, x = (torch.linalg.pinv(resize_matrix(p, side)) for side in (height, width))
    return torch.einsum("dabc,ai,bj->dijc", kernel, y.to(kernel), x.to(kernel))
