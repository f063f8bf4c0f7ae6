"""Limit the text tokens per pack.

Packs are filled by image tokens; each image brings its text. If the texts of a pack exceed their
budget, its last images are removed and placed first-fit, longest texts first, into packs with
enough capacity for both, or into new packs.

    images  ├── 900 of 1,000 ──┤       texts  ├── 130 of 120 ──┤   →   one image moves
"""

import numpy as np
from jaxtyping import Int

from patchpack.data.packing.bin_packing import Packing


def enforce_text_budget(
    packing: Packing, texts: Int[np.ndarray, " image"], max_text_tokens: int, max_tokens: int
) -> Packing:
    """Return the packing with at most `max_text_tokens` text tokens per pack.

    texts  text tokens of each image, indexed by the positions in `packing.order`

    Raises ValueError if a text alone exceeds `max_text_tokens`.
    """
    weights = texts[packing.order]
    if weights.max(initial=0) > max_text_tokens:
        raise ValueError(
            f"a text has {weights.max()} tokens, but a pack may hold {max_text_tokens} text tokens"
        )
    packs: list[list[int]] = []
    removed: list[int] = []
    for entries in np.split(np.arange(len(packing.order)), packing.offsets[1:-1]):
        fits = np.cumsum(weights[entries]) <= max_text_tokens
        packs.append(entries[fits].tolist())
        removed += entries[~fits].tolist()
    capacity = np.array([
        [max_tokens - packing.lengths[pack].sum(), max_text_tokens - weights[pack].sum()]
        for pack in packs
    ])  # fmt: skip
    for entry in sorted(removed, key=lambda entry: -weights[entry]):
        size = np.array([packing.lengths[entry], weights[entry]])
        fitting = np.flatnonzero((capacity >= size).all(axis=1))
        pack = int(fitting[0]) if len(fitting) else len(packs)
        if pack == len(packs):
            packs.append([])
            capacity = np.vstack([capacity, [max_tokens, max_text_tokens]])
        packs[pack].append(entry)
        capacity[pack] -= size
    entries = np.concatenate([np.array(pack, np.int64) for pack in packs])
    offsets = np.cumsum([0, *map(len, packs)])
    return Packing(packing.order[entries], packing.lengths[entries], offsets)
