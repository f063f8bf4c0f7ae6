"""The types that data and models share: Patches of one image, PackedBatch of many, PackedTexts.

A pack is one flat stream of tokens, images back to back, without padding:

    image     0 0 0 0 1 1 2 2 2        lengths   4 2 3
    token     a b c d e f g h i        offsets   0 4 6 9
    ids       0 0 0 0 1 1 2 2 2

`data` creates packs and `model` consumes them; neither imports the other. Lengths and grids stay on
the host, so a forward pass never waits for the device.

Captions of images are a second stream, packed in the same way. Clips are packed like images: their
tokens are tubelets, blocks of pixels from a few frames, of one or several shapes.

Axes: token (all kept tokens of all images), image, patch_dim (ph · pw · channel, channel fastest).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Self

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

Target = int | float | str | Tensor
IGNORE_INDEX = 255  # in segmentation masks: a pixel without a class


@dataclass(frozen=True, kw_only=True)
class Patches:
    """The kept tokens of one image."""

    patches: Num[Tensor, "token patch_dim"]  # pixels on the 0..255 scale, uint8 or float
    coords: Int[Tensor, "token 2"]  # (y, x) of each kept patch in the full grid
    grid: tuple[int, int]  # full grid (h, w) in patches, before dropping
    key: str = ""  # name of the image in messages
    text: Int[Tensor, " text_token"] | None = None  # token ids of its caption
    targets: dict[str, Target] = field(default_factory=dict)


@dataclass(frozen=True)
class Segments:
    """The lengths of the images, or texts, of a token stream."""

    lengths: tuple[int, ...]  # tokens of each image, on the host
    device: torch.device  # device of offsets and ids

    @cached_property
    def offsets(self) -> Int[Tensor, " image_plus_1"]:
        """Start of each image and end of the last (int32, for varlen kernels)."""
        starts = [0, *accumulate(self.lengths)]
        with torch.inference_mode(False):  # cached, and perhaps used in training later
            return torch.tensor(starts, dtype=torch.int32).to(self.device, non_blocking=True)

    @cached_property
    def ids(self) -> Int[Tensor, " token"]:
        """Index of each token's image."""
        with torch.inference_mode(False):
            images = torch.arange(len(self.lengths))
            lengths = torch.tensor(self.lengths, dtype=torch.int64)
            ids = torch.repeat_interleave(images, lengths, output_size=self.num_tokens)
            return ids.to(self.device, non_blocking=True)

    @property
    def num_images(self) -> int:
        return len(self.lengths)

    @cached_property
    def num_tokens(self) -> int:
        return sum(self.lengths)

    def extended(self, count: int) -> "Segments":
        """Return the segments of the same images with `count` more tokens each."""
        return replace(self, lengths=tuple(length + count for length in self.lengths))


@dataclass(frozen=True, kw_only=True)
class PackedTexts:
    """Many texts in one token stream."""

    tokens: Int[Tensor, " token"]  # token ids
    lengths: tuple[int, ...]  # tokens of each text

    def __post_init__(self) -> None:
        if len(self.tokens) != sum(self.lengths) or 0 in self.lengths:
            raise ValueError(f"{len(self.tokens)} tokens for texts of {self.lengths}")

    @cached_property
    def segments(self) -> Segments:
        return Segments(self.lengths, self.tokens.device)

    def select(self, texts: Sequence[int]) -> "PackedTexts":
        """Return the texts at these indices, in this order."""
        pieces = self.tokens.split(list(self.lengths))
        return pack_texts([pieces[i] for i in texts])

    def to(self, device: torch.device | str) -> "PackedTexts":
        return self.map(lambda t: t.to(device, non_blocking=True))

    def map(self, move: Callable[[Tensor], Tensor]) -> "PackedTexts":
        """Apply a function to every tensor."""
        return replace(self, tokens=move(self.tokens))


def pack_texts(texts: Sequence[Int[Tensor, " _"]]) -> PackedTexts:
    """Concatenate texts in this order."""
    return PackedTexts(
        tokens=torch.cat(list(texts)) if texts else torch.empty(0, dtype=torch.int32),
        lengths=tuple(map(len, texts)),
    )


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """Many images in one token stream: output of the loader, input of a model."""

    patches: Num[Tensor, "token patch_dim"]
    coords: Int[Tensor, "token 2"]  # (y, x) in the full grid, also after dropping
    grids: Int[Tensor, "image 2"]  # full grid (h, w) of each image; stays on the host
    lengths: tuple[int, ...]  # kept tokens of each image
    keys: tuple[str, ...] = ()
    texts: PackedTexts | None = None  # one text per image, in the same order
    targets: dict[str, Tensor | list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tokens = sum(self.lengths)
        if len(self.patches) != tokens or len(self.coords) != tokens:
            raise ValueError(
                f"lengths add up to {tokens} tokens, but there are {len(self.patches)} patches "
                f"and {len(self.coords)} coords"
            )
        if len(self.grids) != len(self.lengths):
            raise ValueError(f"{len(self.grids)} grids for {len(self.lengths)} images")
        if self.texts and len(self.texts.lengths) != len(self.lengths):
            raise ValueError(f"{len(self.texts.lengths)} texts for {len(self.lengths)} images")

    @cached_property
    def segments(self) -> Segments:
        return Segments(self.lengths, self.patches.device)

    @property
    def num_images(self) -> int:
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        return len(self.patches)

    @property
    def _token_fields(self) -> tuple[str, ...]:
        """The fields with one row per token."""
        return "patches", "coords"

    def select(self, images: Sequence[int]) -> Self:
        """Return a pack of the images at these indices, in this order."""
        starts = self.segments.offsets.tolist()
        pieces = [slice(starts[i], starts[i + 1]) for i in images]

        def each(value):
            return [value[i] for i in images] if isinstance(value, list) else value[list(images)]

        return replace(
            self,
            **{
                name: torch.cat([getattr(self, name)[piece] for piece in pieces])
                for name in self._token_fields
            },
            grids=self.grids[list(images)],
            lengths=tuple(self.lengths[i] for i in images),
            keys=tuple(self.keys[i] for i in images) if self.keys else (),
            texts=self.texts and self.texts.select(images),
            targets={name: each(value) for name, value in self.targets.items()},
        )

    def to(self, device: torch.device | str) -> Self:
        """Copy to a device; asynchronous if the batch is pinned."""
        return self.map(lambda t: t.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        return self.map(lambda t: t.pin_memory())

    def map(self, move: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to every tensor except the grids, which stay on the host."""

        def each(value):
            if isinstance(value, list):
                return [each(item) for item in value]
            return move(value) if isinstance(value, Tensor) else value

        return replace(
            self,
            **{name: move(getattr(self, name)) for name in self._token_fields},
            texts=self.texts and self.texts.map(move),
            targets={name: each(value) for name, value in self.targets.items()},
        )


def require_batch(batch: object, patch_size: int) -> None:
    """Raise TypeError for images that are not packed: the first thing to try is `model(images)`."""
    if not isinstance(batch, PackedBatch):
        raise TypeError(
            f"a model takes a PackedBatch, not {type(batch).__name__}: pack images with "
            f"pp.pack(images, patch_size={patch_size}), clips with pp.pack_clips(clips, tubelets)"
        )


def require_texts(texts: object) -> None:
    """Raise TypeError for texts that are not packed."""
    if not isinstance(texts, PackedTexts):
        raise TypeError(
            f"a text tower takes PackedTexts, not {type(texts).__name__}: pack token ids with "
            "patchpack.batch.pack_texts, or call embed_texts of a loaded model"
        )


def float_type(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in for weights of a type: float32 for half precision, else the same."""
    return torch.promote_types(dtype, torch.float32)


def collate(images: Sequence[Patches], patch_dim: int) -> PackedBatch:
    """Concatenate images in this order; no images give an empty pack."""
    if not images:
        return PackedBatch(
            patches=torch.empty(0, patch_dim, dtype=torch.uint8),
            coords=torch.empty(0, 2, dtype=torch.int32),
            grids=torch.empty(0, 2, dtype=torch.int32),
            lengths=(),
        )
    texts = [image.text for image in images if image.text is not None]
    return PackedBatch(
        patches=torch.cat([image.patches for image in images]),
        coords=torch.cat([image.coords for image in images]),
        grids=torch.tensor([image.grid for image in images], dtype=torch.int32),
        lengths=tuple(len(image.patches) for image in images),
        keys=tuple(image.key for image in images),
        texts=pack_texts(texts) if len(texts) == len(images) else None,
        targets={
            name: _stack([image.targets[name] for image in images]) for name in images[0].targets
        },
    )


def _stack(values: list[Target]) -> Tensor | list[Any]:
    """Return numbers as one tensor; ragged targets (boxes, masks) stay a list."""
    if isinstance(values[0], int | float):
        return torch.tensor(values)
    return values


@dataclass(frozen=True)
class Tubelet:
    """The shape of a block of pixels of a clip that becomes one token."""

    frames: int  # number of frames
    height: int  # height in pixels
    width: int  # width in pixels

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width) < 1:
            raise ValueError(f"a tubelet needs at least 1 frame and 1 pixel, not {self}")

    @property
    def pixels(self) -> int:
        return self.frames * self.height * self.width


@dataclass(frozen=True, kw_only=True)
class ClipPatches:
    """The kept tokens of one clip, sorted by tubelet shape."""

    patches: Num[Tensor, "token patch_dim"]  # as wide as the largest shape; others end in zeros
    coords: Int[Tensor, "token 3"]  # (t, y, x) of each token in the full grid of its shape
    grid_extents: Float[Tensor, "token 3"]  # clip size in tubelets of the token's shape, fractional
    grid: tuple[int, int, int]  # full grid (t, h, w) of the first shape
    tokens_per_tubelet: tuple[int, ...]  # tokens of each shape
    key: str = ""  # name of the clip in messages
    targets: dict[str, Target] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PackedClips(PackedBatch):
    """Many clips in one token stream; coords are (t, y, x), grids those of the first shape."""

    grid_extents: Float[Tensor, "token 3"]  # clip size in tubelets of the token's shape, fractional
    tokens_per_tubelet: tuple[tuple[int, ...], ...]  # [clip][shape]; stays on the host

    @property
    def _token_fields(self) -> tuple[str, ...]:
        return "patches", "coords", "grid_extents"

    def select(self, images: Sequence[int]) -> Self:
        return replace(
            super().select(images),
            tokens_per_tubelet=tuple(self.tokens_per_tubelet[i] for i in images),
        )

    def token_indices(self, tubelet: int) -> Int[Tensor, " row"]:
        """Return the stream indices of the tokens of one tubelet shape, given by its number."""
        rows, offset = [], 0
        for counts in self.tokens_per_tubelet:
            start = offset + sum(counts[:tubelet])
            rows.append(torch.arange(start, start + counts[tubelet]))
            offset += sum(counts)
        indices = torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64)
        return indices.to(self.patches.device, non_blocking=True)


def collate_clips(clips: Sequence[ClipPatches], tubelets: Sequence[Tubelet]) -> PackedClips:
    """Concatenate clips in this order; no clips give an empty pack."""
    if not clips:
        return PackedClips(
            patches=torch.empty(0, 3 * max(t.pixels for t in tubelets), dtype=torch.uint8),
            coords=torch.empty(0, 3, dtype=torch.int32),
            grid_extents=torch.empty(0, 3),
            grids=torch.empty(0, 3, dtype=torch.int32),
            lengths=(),
            tokens_per_tubelet=(),
        )
    return PackedClips(
        patches=torch.cat([clip.patches for clip in clips]),
        coords=torch.cat([clip.coords for clip in clips]),
        grid_extents=torch.cat([clip.grid_extents for clip in clips]),
        grids=torch.tensor([clip.grid for clip in clips], dtype=torch.int32),
        lengths=tuple(len(clip.patches) for clip in clips),
        tokens_per_tubelet=tuple(clip.tokens_per_tubelet for clip in clips),
        keys=tuple(clip.key for clip in clips),
        targets={name: _stack([c.targets[name] for c in clips]) for name in clips[0].targets},
    )
