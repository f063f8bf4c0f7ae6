"""The captions of images as tokens, and which of them an epoch takes.

All are tokenized once, when a run begins, so that their lengths are known to the plan.

Axes: image, caption (of all images, one after the other), token (of all captions).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True, eq=False)
class Captions:
    """The tokens of every caption of every image."""

    tokens: Int[np.ndarray, " token"]
    token_offsets: Int[np.ndarray, " caption_plus_1"]
    image_offsets: Int[np.ndarray, " image_plus_1"]  # each image's first caption
    text_ids: Int[
        np.ndarray, " caption"
    ]  # a number for each distinct text, also of those cut alike

    def __len__(self) -> int:
        """The number of images."""
        return len(self.image_offsets) - 1

    @property
    def lengths(self) -> Int[np.ndarray, " caption"]:
        """Tokens of each caption."""
        return np.diff(self.token_offsets)

    @property
    def image_ids(self) -> Int[np.ndarray, " caption"]:
        """The image that each caption belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.image_offsets))

    def text(self, caption: int) -> Int[np.ndarray, " _"]:
        return self.tokens[self.token_offsets[caption] : self.token_offsets[caption + 1]]

    def sample(self, seed: int, epoch: int) -> Int[np.ndarray, " image"]:
        """One caption of each image, anew in each epoch."""
        lots = np.random.default_rng([seed, epoch, 4]).random(len(self))
        return self.image_offsets[:-1] + (lots * np.diff(self.image_offsets)).astype(np.int64)

    def select(self, images: Int[np.ndarray, " _"]) -> "Captions":
        """Those of some of the images, in the order given."""
        chosen = [np.arange(self.image_offsets[i], self.image_offsets[i + 1]) for i in images]
        captions = np.concatenate([np.empty(0, np.int64), *chosen])
        tokens = [self.text(i) for i in captions]
        return build_captions(tokens, [len(numbers) for numbers in chosen], self.text_ids[captions])


def build_captions(
    tokens: Sequence[Sequence[int] | np.ndarray],
    counts: Sequence[int],
    text_ids: Sequence[int] | np.ndarray | None = None,
) -> Captions:
    """Captions from their tokens, how many each image has, and which are the same text."""
    flat = np.concatenate([np.empty(0, np.int32), *tokens]).astype(np.int32)
    token_offsets = np.cumsum([0, *map(len, tokens)])
    numbers = np.arange(len(tokens)) if text_ids is None else np.asarray(text_ids, np.int64)
    return Captions(flat, token_offsets, np.cumsum([0, *counts]), numbers)
