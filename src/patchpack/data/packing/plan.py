"""The plan of an epoch: which image is in which pack, at which grid, with how many tokens.

Sizes are known from headers, and resolution and drop rate follow from seeded random numbers, so
every token count of the epoch is known before a pixel is decoded. The plan is a pure function of
(sizes, seed, epoch, number of ranks): resuming needs only (epoch, step), and every rank computes
the same plan and takes its own packs of it. Of clips, how many frames are shown is known as well.

    step      0        1        2
    rank 0    pack 0   pack 2   pack 4       all ranks: the same number of packs, neighbours in
    rank 1    pack 1   pack 3   pack 5       a step of nearly the same Σ nᵢ²

Axes: image, pack. Lengths in tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from patchpack.data.packing.bin_packing import Packing, pack_lengths
from patchpack.data.packing.dropping import Dropping, kept_counts
from patchpack.data.packing.resolution import MAX_SIDE, Resolution
from patchpack.data.packing.text_budget import enforce_text_budget
from patchpack.data.video.frame_sampling import SampledFrames

BALANCE_CHUNK = 64  # steps of packs that are sorted by cost together


class Pack(NamedTuple):
    """The images of one pack, shortest first: equal lengths are neighbours."""

    images: Int[np.ndarray, " image"]
    grids: Int[np.ndarray, "image 2"]
    kept: Int[np.ndarray, " image"]


@dataclass(frozen=True)
class Plan:
    """The packs of one epoch, for all ranks."""

    images: Int[np.ndarray, " image"]  # image numbers in pack order
    grids: Int[np.ndarray, "image 2"]  # full grid of each
    kept: Int[np.ndarray, " image"]  # tokens kept of each
    offsets: Int[np.ndarray, " pack_plus_1"]
    max_tokens: int
    world_size: int

    @property
    def num_packs(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_steps(self) -> int:
        return self.num_packs // self.world_size

    @property
    def fill(self) -> float:
        """Share of the token slots of all packs that hold a token."""
        return float(self.kept.sum() / max(1, self.num_packs * self.max_tokens))

    @property
    def costs(self) -> Int[np.ndarray, " pack"]:
        """Σ n² over the images of each pack: what attention costs."""
        return _costs(self.kept, self.offsets)

    def pack(self, step: int, rank: int = 0) -> Pack:
        """What one rank does in one step."""
        if not (0 <= step < self.num_steps and 0 <= rank < self.world_size):
            raise IndexError(
                f"step {step} of rank {rank}: there are {self.num_steps} steps "
                f"of {self.world_size} ranks"
            )
        number = step * self.world_size + rank
        piece = slice(int(self.offsets[number]), int(self.offsets[number + 1]))
        return Pack(self.images[piece], self.grids[piece], self.kept[piece])


def make_plan(
    heights: Int[np.ndarray, " image"],
    widths: Int[np.ndarray, " image"],
    *,
    patch_size: int,
    max_tokens: int,
    resolution: Resolution,
    dropping: Dropping,
    seed: int,
    epoch: int,
    world_size: int = 1,
    window: int = 4096,
    max_side: int = MAX_SIDE,
    fill: bool = True,
    shuffle: bool = True,
    texts: Int[np.ndarray, " image"] | None = None,
    max_text_tokens: int | None = None,
    clips: SampledFrames | None = None,
) -> Plan:
    """Plan one epoch: every image exactly once, no pack over `max_tokens`.

    patch_size  pixels
    max_tokens  of a pack, and so of an image
    seed        with `epoch`, what all random choices follow from
    world_size  ranks; each gets the same number of packs
    window      images looked at ahead when a pack is closed
    max_side    longest side of a grid, in patches
    fill        trim the last image of a pack where that closes it exactly
    shuffle     a new order each epoch; without it the order of the index, but for packing
    texts       tokens of the text of each image, where they have one …
    max_text_tokens  … of which a pack holds no more than this; None: any number
    clips       what is shown of each, where they are no images; grids are those of a frame

    A pack is empty only where there are fewer images than packs. Raises ValueError for numbers
    below 1, and where an image takes more than `max_tokens`, or its text or a clip's frames more
    than fit.
    """
    if min(patch_size, max_tokens, world_size, window, max_side) < 1:
        raise ValueError(
            f"patch_size {patch_size}, max_tokens {max_tokens}, world_size {world_size}, "
            f"window {window} and max_side {max_side} must all be at least 1"
        )
    # Drawn for all images in index order, so that no draw depends on how images are packed.
    size_rng, drop_rng, order_rng, pack_rng = (
        np.random.default_rng([seed, epoch, stream]) for stream in range(4)
    )
    grids = resolution.grids(
        heights, widths, patch_size=patch_size, max_tokens=_room(max_tokens, clips), rng=size_rng,
        max_side=max_side,
    )  # fmt: skip
    tokens = grids.prod(1) if clips is None else clips.tokens(grids)
    _check_tokens(tokens, max_tokens)
    images = order_rng.permutation(len(tokens)) if shuffle else np.arange(len(tokens))
    images_seen = np.empty(
        len(tokens), np.int64
    )  # but for packing, which moves an image within a window
    images_seen[images] = epoch * len(tokens) + np.arange(len(tokens))
    kept = kept_counts(tokens, dropping.rates(tokens, images_seen, drop_rng))
    packing = pack_lengths(kept[images], max_tokens, window=window, fill=fill, rng=pack_rng)
    if texts is not None and max_text_tokens is not None:
        packing = enforce_text_budget(packing, texts[images], max_text_tokens, max_tokens)
        weights, most = texts[images][packing.order], max_text_tokens
    else:
        weights, most = np.zeros_like(packing.lengths), 0
    packing = _pad_last_step(packing, [(packing.lengths, max_tokens), (weights, most)], world_size)
    if shuffle:
        packing = _balance(packing, world_size, order_rng)
    packing = _sort_by_length(packing)
    images = images[packing.order]
    return Plan(images, grids[images], packing.lengths, packing.offsets, max_tokens, world_size)


def _room(max_tokens: int, clips: SampledFrames | None) -> int:
    """Most patches of an image, or of each frame of a clip."""
    return max_tokens if clips is None else clips.clip_sampling.patches_for_tokens(max_tokens)


def _check_tokens(tokens: Int[np.ndarray, " image"], max_tokens: int) -> None:
    if tokens.max(initial=0) > max_tokens:
        raise ValueError(
            f"image {tokens.argmax()} takes {tokens.max()} tokens, but a pack holds {max_tokens}: "
            "a resolution must keep to max_tokens"
        )


def _costs(
    lengths: Int[np.ndarray, " image"], offsets: Int[np.ndarray, " pack_plus_1"]
) -> Int[np.ndarray, " pack"]:
    total = np.concatenate([[0], np.cumsum(lengths.astype(np.int64) ** 2)])
    return np.diff(total[offsets])


def _pad_last_step(
    packing: Packing, limits: Sequence[tuple[Int[np.ndarray, " image"], int]], world_size: int
) -> Packing:
    """Spread what the last, incomplete step holds over one pack for each rank.

    limits  of each stream: what the images of the packing weigh, and how much a pack may hold
    """
    over = (len(packing.offsets) - 1) % world_size
    if not over:
        return packing
    packs = np.split(np.arange(len(packing.order)), packing.offsets[1:-1])
    tail = packs[-over:]
    spread = _spread(np.concatenate(tail), packing.lengths, world_size)
    if any(weights[pack].sum() > most for pack in spread for weights, most in limits):
        spread = tail + [np.empty(0, np.int64)] * (world_size - over)
    packs = _fill_empty(packs[:-over] + spread)
    places = np.concatenate(packs)
    offsets = np.cumsum([0] + [len(pack) for pack in packs])
    return Packing(packing.order[places], packing.lengths[places], offsets)


def _spread(
    entries: Int[np.ndarray, " entry"], lengths: Int[np.ndarray, " image"], count: int
) -> list[Int[np.ndarray, " _"]]:
    """Share entries among packs, the longest first and each into the emptiest."""
    packs: list[list[int]] = [[] for _ in range(count)]
    used = [0] * count
    for entry in sorted(entries.tolist(), key=lambda i: -lengths[i]):
        emptiest = used.index(min(used))
        packs[emptiest].append(entry)
        used[emptiest] += int(lengths[entry])
    return [np.array(pack, np.int64) for pack in packs]


def _fill_empty(packs: list[Int[np.ndarray, " _"]]) -> list[Int[np.ndarray, " _"]]:
    """Give every empty pack an image of the last that has several, while there is one."""
    packs = list(packs)
    for number, pack in enumerate(packs):
        if not len(pack):
            donor = next((i for i in reversed(range(len(packs))) if len(packs[i]) > 1), None)
            if donor is None:
                break
            packs[donor], packs[number] = packs[donor][:-1], packs[donor][-1:]
    return packs


def _balance(packing: Packing, world_size: int, rng: np.random.Generator) -> Packing:
    """Put packs of like cost into the same step, and the steps into a random order."""
    costs = _costs(packing.lengths, packing.offsets)
    # Sorted by cost within chunks of steps, so that packs of one time stay mixed.
    chunk = np.arange(len(costs)) // (BALANCE_CHUNK * world_size)
    steps = np.lexsort((costs, chunk)).reshape(-1, world_size)
    packs = rng.permutation(steps).ravel()
    sizes = np.diff(packing.offsets)[packs]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    places = np.arange(len(packing.order)) + np.repeat(packing.offsets[packs] - offsets[:-1], sizes)
    return Packing(packing.order[places], packing.lengths[places], offsets)


def _sort_by_length(packing: Packing) -> Packing:
    """Sort each pack by length."""
    pack = np.repeat(np.arange(len(packing.offsets) - 1), np.diff(packing.offsets))
    places = np.lexsort((packing.lengths, pack))
    return Packing(packing.order[places], packing.lengths[places], packing.offsets)
