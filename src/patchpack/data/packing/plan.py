"""The plan of an epoch: the pack, the grid and the number of tokens of every image or clip.

Sizes come from file headers, and resolution, sampled frames and drop rates follow from them and
seeded random numbers, so all token counts of an epoch are computed before any pixel is decoded. The
plan is a pure function of (sizes, config, seed, epoch, number of ranks): a run resumes from
(epoch, step), and every rank computes the same plan and takes its own packs.

    step      0        1        2
    rank 0    pack 0   pack 2   pack 4       all ranks have the same number of packs; those of
    rank 1    pack 1   pack 3   pack 5       a step have nearly the same Σ nᵢ²

Axes: image (or clip), pack, entry (a position in a packing). Lengths in tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from patchpack.data.config import PackingConfig
from patchpack.data.packing.bin_packing import Packing, pack_lengths
from patchpack.data.packing.dropping import kept_counts
from patchpack.data.packing.text_budget import enforce_text_budget
from patchpack.data.video.frame_sampling import SampledFrames

BALANCE_CHUNK = 64  # steps whose packs are sorted by cost together


class Pack(NamedTuple):
    """The images of one pack, sorted by length."""

    images: Int[np.ndarray, " image"]  # rows of the index
    grids: Int[np.ndarray, "image 2"]  # (h, w) in patches, before dropping
    kept: Int[np.ndarray, " image"]  # tokens


@dataclass(frozen=True)
class Plan:
    """The packs of one epoch, for all ranks."""

    images: Int[np.ndarray, " image"]  # rows of the index, in pack order
    grids: Int[np.ndarray, "image 2"]  # (h, w) in patches, before dropping
    kept: Int[np.ndarray, " image"]  # tokens after dropping and trimming
    offsets: Int[np.ndarray, " pack_plus_1"]  # first image of each pack
    max_tokens: int  # per pack
    world_size: int  # number of ranks

    @property
    def num_packs(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_steps(self) -> int:
        return self.num_packs // self.world_size

    @property
    def fill(self) -> float:
        """Share of all token slots that hold a token."""
        return float(self.kept.sum() / max(1, self.num_packs * self.max_tokens))

    @property
    def costs(self) -> Int[np.ndarray, " pack"]:
        """Attention cost of each pack: Σ n² over its images."""
        return _costs(self.kept, self.offsets)

    def pack(self, step: int, rank: int = 0) -> Pack:
        """Return the pack of one rank in one step; raise IndexError if there is none."""
        if not (0 <= step < self.num_steps and 0 <= rank < self.world_size):
            raise IndexError(
                f"step {step} of rank {rank}: there are {self.num_steps} steps "
                f"of {self.world_size} ranks"
            )
        number = step * self.world_size + rank
        images = slice(int(self.offsets[number]), int(self.offsets[number + 1]))
        return Pack(self.images[images], self.grids[images], self.kept[images])


@dataclass(frozen=True, eq=False)
class ItemSizes:
    """The sizes of all images, or clips, of an index."""

    heights: Int[np.ndarray, " image"]  # px
    widths: Int[np.ndarray, " image"]  # px
    text_tokens: Int[np.ndarray, " image"] | None = None  # of the text of each image; None: no text
    frames: SampledFrames | None = None  # sampled from each clip; None: images


def make_plan(
    sizes: ItemSizes, config: PackingConfig, *, seed: int, epoch: int, world_size: int = 1
) -> Plan:
    """Return the plan of one epoch: every image exactly once, at most `config.max_tokens` per pack.

    seed        all random choices follow from (seed, epoch)
    world_size  number of ranks; each gets the same number of packs

    A pack is empty only if there are fewer images than packs. Grids of clips are those of a frame.

    Raise ValueError if world_size is below 1, if an image has more than `max_tokens` tokens, if a
    text has more than `max_text_tokens`, or if the frames of a clip do not fit into `max_tokens`.
    """
    if world_size < 1:
        raise ValueError(f"world_size must be at least 1, not {world_size}")
    # Drawn for all images in index order, so that no random number depends on packing.
    size_rng, drop_rng, order_rng, pack_rng = (
        np.random.default_rng([seed, epoch, stream]) for stream in range(4)
    )
    grids, tokens = _grids(sizes, config, size_rng)
    images = order_rng.permutation(len(tokens)) if config.shuffle else np.arange(len(tokens))
    # Images seen before each, except that packing moves images within the window.
    images_seen = np.empty(len(tokens), np.int64)
    images_seen[images] = epoch * len(tokens) + np.arange(len(tokens))
    kept = kept_counts(tokens, config.dropping.rates(tokens, images_seen, drop_rng))
    packing = pack_lengths(
        kept[images], config.max_tokens, window=config.packing_window, fill=config.trim_to_fill,
        rng=pack_rng,
    )  # fmt: skip
    limits = [(packing.lengths, config.max_tokens)]
    if sizes.text_tokens is not None and config.max_text_tokens is not None:
        texts = sizes.text_tokens[images]
        packing = enforce_text_budget(packing, texts, config.max_text_tokens, config.max_tokens)
        limits = [
            (packing.lengths, config.max_tokens),
            (texts[packing.order], config.max_text_tokens),
        ]
    packing = _pad_last_step(packing, limits, world_size)
    if config.shuffle:
        packing = _balance(packing, world_size, order_rng)
    packing = _sort_by_length(packing)
    images = images[packing.order]
    return Plan(
        images, grids[images], packing.lengths, packing.offsets, config.max_tokens, world_size
    )


def _grids(
    sizes: ItemSizes, config: PackingConfig, rng: np.random.Generator
) -> tuple[Int[np.ndarray, "image 2"], Int[np.ndarray, " image"]]:
    """Return the grid of each image, or of a clip's frames, and its tokens before dropping."""
    frames, max_tokens = sizes.frames, config.max_tokens
    max_patches = frames.clip_sampling.patches_for_tokens(max_tokens) if frames else max_tokens
    grids = config.resolution.grids(
        sizes.heights, sizes.widths, patch_size=config.patch_size, max_tokens=max_patches, rng=rng,
        max_side=config.max_side,
    )  # fmt: skip
    tokens = grids.prod(1) if frames is None else frames.tokens(grids)
    _check_tokens(tokens, max_tokens)
    return grids, tokens


def _check_tokens(tokens: Int[np.ndarray, " image"], max_tokens: int) -> None:
    if tokens.max(initial=0) > max_tokens:
        raise ValueError(
            f"image {tokens.argmax()} has {tokens.max()} tokens, but a pack has {max_tokens}: a "
            "resolution must respect max_tokens"
        )


def _costs(
    lengths: Int[np.ndarray, " image"], offsets: Int[np.ndarray, " pack_plus_1"]
) -> Int[np.ndarray, " pack"]:
    total = np.concatenate([[0], np.cumsum(lengths.astype(np.int64) ** 2)])
    return np.diff(total[offsets])


def _pad_last_step(
    packing: Packing, limits: Sequence[tuple[Int[np.ndarray, " image"], int]], world_size: int
) -> Packing:
    """Redistribute the images of the last, incomplete step over one pack per rank.

    limits  for each token stream, the tokens of each entry and the maximum per pack
    """
    remainder = (len(packing.offsets) - 1) % world_size
    if not remainder:
        return packing
    packs = np.split(np.arange(len(packing.order)), packing.offsets[1:-1])
    last = packs[-remainder:]
    padded = _distribute(np.concatenate(last), packing.lengths, world_size)
    if any(tokens[pack].sum() > limit for pack in padded for tokens, limit in limits):
        padded = last + [np.empty(0, np.int64)] * (world_size - remainder)
    packs = _fill_empty(packs[:-remainder] + padded)
    entries = np.concatenate(packs)
    offsets = np.cumsum([0] + [len(pack) for pack in packs])
    return Packing(packing.order[entries], packing.lengths[entries], offsets)


def _distribute(
    entries: Int[np.ndarray, " entry"], lengths: Int[np.ndarray, " image"], count: int
) -> list[Int[np.ndarray, " _"]]:
    """Distribute entries over packs, in descending length and each into the emptiest pack."""
    packs: list[list[int]] = [[] for _ in range(count)]
    used = [0] * count
    for entry in sorted(entries.tolist(), key=lambda i: -lengths[i]):
        emptiest = used.index(min(used))
        packs[emptiest].append(entry)
        used[emptiest] += int(lengths[entry])
    return [np.array(pack, np.int64) for pack in packs]


def _fill_empty(packs: list[Int[np.ndarray, " _"]]) -> list[Int[np.ndarray, " _"]]:
    """Move an image into each empty pack, from the last pack with more than one image, if any."""
    packs = list(packs)
    for number, pack in enumerate(packs):
        if not len(pack):
            donor = next((i for i in reversed(range(len(packs))) if len(packs[i]) > 1), None)
            if donor is None:
                break
            packs[donor], packs[number] = packs[donor][:-1], packs[donor][-1:]
    return packs


def _balance(packing: Packing, world_size: int, rng: np.random.Generator) -> Packing:
    """Group packs of similar cost into steps, and shuffle the steps."""
    costs = _costs(packing.lengths, packing.offsets)
    # Sorted within chunks of steps only, so that the epoch's order stays mixed.
    chunk = np.arange(len(costs)) // (BALANCE_CHUNK * world_size)
    steps = np.lexsort((costs, chunk)).reshape(-1, world_size)
    packs = rng.permutation(steps).ravel()
    sizes = np.diff(packing.offsets)[packs]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    shifts = np.repeat(packing.offsets[packs] - offsets[:-1], sizes)
    entries = np.arange(len(packing.order)) + shifts
    return Packing(packing.order[entries], packing.lengths[entries], offsets)


def _sort_by_length(packing: Packing) -> Packing:
    """Sort each pack by length."""
    pack = np.repeat(np.arange(len(packing.offsets) - 1), np.diff(packing.offsets))
    entries = np.lexsort((packing.lengths, pack))
    return Packing(packing.order[entries], packing.lengths[entries], packing.offsets)
