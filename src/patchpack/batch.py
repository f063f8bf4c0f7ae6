"""The words that everything else speaks: Patches of one image, PackedBatch of many, PackedTexts.

A pack is one flat stream of tokens, the images back to back, with no padding anywhere:

    image     0 0 0 0 1 1 2 2 2        lengths   4 2 3
    token     a b c d e f g h i        offsets   0 4 6 9
    ids       0 0 0 0 1 1 2 2 2

`data` makes packs and `model` consumes them; the two never import each other, they meet here.
Numbers that the host needs (lengths, grids) are kept on the host, so nothing in a forward pass
waits for the device.

Texts that belong to images are a stream of their own, packed in the same way. Clips are packed like
images: their tokens are tubelets, blocks of pixels of a few frames, perhaps of several shapes.

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
IGNORE_INDEX = 255  # in masks, the target of segmentation: a pixel of no class


@dataclass(frozen=True, kw_only=True)
class Patches:
    """One image as the tokens that are kept of it."""

    patches: Num[Tensor, "token patch_dim"]  # uint8 pixels, or floats in the same 0..255 scale
    coords: Int[Tensor, "token 2"]  # (y, x) of each kept patch in the full grid
    grid: tuple[int, int]  # full grid (h, w) in patches, before dropping
    key: str = ""  # names the image in every message about it
    text: Int[Tensor, " text_token"] | None = None  # its caption, as numbers of a vocabulary
    targets: dict[str, Target] = field(default_factory=dict)


@dataclass(frozen=True)
class Segments:
    """Where each image, or each text, lies in its token stream."""

    lengths: tuple[int, ...]  # tokens of each image, on the host
    device: torch.device

    @cached_property
    def offsets(self) -> Int[Tensor, " image_plus_1"]:
        """Start of each image, and the end of the last (int32, as varlen kernels want it)."""
        starts = [0, *accumulate(self.lengths)]
        with torch.inference_mode(False):  # kept, and perhaps trained with later
            return torch.tensor(starts, dtype=torch.int32).to(self.device, non_blocking=True)

    @cached_property
    def ids(self) -> Int[Tensor, " token"]:
        """The image that each token belongs to."""
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

    def prepend_tokens(self, count: int) -> "Segments":
        """The same images, each preceded by `count` more tokens."""
        return replace(self, lengths=tuple(length + count for length in self.lengths))


@dataclass(frozen=True, kw_only=True)
class PackedTexts:
    """Many texts in one token stream."""

    tokens: Int[Tensor, " token"]  # numbers of a vocabulary
    lengths: tuple[int, ...]  # tokens of each text

    def __post_init__(self) -> None:
        if len(self.tokens) != sum(self.lengths) or 0 in self.lengths:
            raise ValueError(f"{len(self.tokens)} tokens for texts of {self.lengths}")

    @cached_property
    def segments(self) -> Segments:
        return Segments(self.lengths, self.tokens.device)

    def select(self, texts: Sequence[int]) -> "PackedTexts":
        """Some of these texts, in the order given."""
        pieces = self.tokens.split(list(self.lengths))
        return pack_texts([pieces[i] for i in texts])

    def to(self, device: torch.device | str) -> "PackedTexts":
        return self.map(lambda t: t.to(device, non_blocking=True))

    def map(self, move: Callable[[Tensor], Tensor]) -> "PackedTexts":
        return replace(self, tokens=move(self.tokens))


def pack_texts(texts: Sequence[Int[Tensor, " _"]]) -> PackedTexts:
    """Lay texts back to back in the order given."""
    return PackedTexts(
        tokens=torch.cat(list(texts)) if texts else torch.empty(0, dtype=torch.int32),
        lengths=tuple(map(len, texts)),
    )


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """Many images in one token stream: what the loader yields and a model takes."""

    patches: Num[Tensor, "token patch_dim"]
    coords: Int[Tensor, "token 2"]  # (y, x) in patches of the full grid, also after dropping
    grids: Int[Tensor, "image 2"]  # full grid (h, w) of each image; stays on the host
    lengths: tuple[int, ...]  # kept tokens of each image
    keys: tuple[str, ...] = ()
    texts: PackedTexts | None = None  # one for each image, in the same order
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
        """The fields that have a row for every token."""
        return "patches", "coords"

    def select(self, images: Sequence[int]) -> Self:
        """A pack of some of these images, in the order given."""
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
        """Copy to a device; asynchronous where the batch is pinned."""
        return self.map(lambda t: t.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        return self.map(lambda t: t.pin_memory())

    def map(self, move: Callable[[Tensor], Tensor]) -> Self:
        """The same with every tensor moved; grids stay on the host."""

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


def collate(images: Sequence[Patches], patch_dim: int) -> PackedBatch:
    """Lay images back to back in the order given; none at all gives an empty pack."""
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
    """Numbers become one tensor; ragged things (boxes, masks, texts) stay a list."""
    if isinstance(values[0], int | float):
        return torch.tensor(values)
    return values


@dataclass(frozen=True)
class Tubelet:
    """A block of pixels of a clip that becomes one token."""

    frames: int
    height: int  # px
    width: int  # px

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width) < 1:
            raise ValueError(f"a tubelet has a frame and a pixel at least, not {self}")

    @property
    def pixels(self) -> int:
        return self.frames * self.height * self.width


@dataclass(frozen=True, kw_only=True)
class ClipPatches:
    """One clip as the tokens that are kept of it, tubelets of one shape after those of another."""

    patches: Num[Tensor, "token patch_dim"]  # of the largest shape; the others end in zeros
    coords: Int[Tensor, "token 3"]  # (t, y, x) of each, in the full grid of its shape
    grid_extents: Float[
        Tensor, "token 3"
    ]  # how many of its shape fill the clip: places are shares of it
    grid: tuple[int, int, int]  # of the first shape
    tokens_per_tubelet: tuple[int, ...]  # tokens of each shape
    key: str = ""
    targets: dict[str, Target] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PackedClips(PackedBatch):
    """Many clips in one token stream; coords are (t, y, x), grids those of the first shape."""

    grid_extents: Float[Tensor, "token 3"]  # how many tubelets of each token's shape fill its clip
    tokens_per_tubelet: tuple[
        tuple[int, ...], ...
    ]  # tokens of each shape, of each clip; on the host

    @property
    def _token_fields(self) -> tuple[str, ...]:
        return "patches", "coords", "grid_extents"

    def select(self, images: Sequence[int]) -> Self:
        return replace(
            super().select(images),
            tokens_per_tubelet=tuple(self.tokens_per_tubelet[i] for i in images),
        )

    def token_indices(self, kind: int) -> Int[Tensor, " row"]:
        """The places in the stream of the tokens of one shape."""
        rows, place = [], 0
        for counts in self.tokens_per_tubelet:
            start = place + sum(counts[:kind])
            rows.append(torch.arange(start, start + counts[kind]))
            place += sum(counts)
        found = torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64)
        return found.to(self.patches.device, non_blocking=True)


def collate_clips(clips: Sequence[ClipPatches], tubelets: Sequence[Tubelet]) -> PackedClips:
    """Lay clips back to back in the order given; none at all gives an empty pack."""
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
