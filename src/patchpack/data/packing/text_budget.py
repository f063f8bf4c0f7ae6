"""Packs whose second stream has a budget too: the texts that go with their images.

Packs are made for the images; what they hold of texts follows. Where that is too much, the images
that were taken last are taken out again, and put first-fit, the longest texts first, into whatever
pack has room for both, or into new ones.

    images  ├── 900 of 1,000 ──┤       texts  ├── 130 of 120 ──┤   →   one image goes elsewhere
"""

import numpy as np
from jaxtyping import Int

from patchpack.data.packing.bin_packing import Packing


def enforce_text_budget(
    packing: Packing, texts: Int[np.ndarray, " image"], max_text_tokens: int, max_tokens: int
) -> Packing:
    """The packing, no pack of it with more than `max_text_tokens` of texts.

    texts  tokens of each image's text, by the positions that `packing.order` holds

    Raises ValueError for a text that is longer than that.
    """
    weights = texts[packing.order]
    if weights.max(initial=0) > max_text_tokens:
        raise ValueError(
            f"a text has {weights.max()} tokens, but a pack may hold {max_text_tokens} of texts"
        )
    packs: list[list[int]] = []
    out: list[int] = []
    for entries in np.split(np.arange(len(packing.order)), packing.offsets[1:-1]):
        fits = np.cumsum(weights[entries]) <= max_text_tokens
        packs.append(entries[fits].tolist())
        out += entries[~fits].tolist()
    room = np.array([
        [max_tokens - packing.lengths[pack].sum(), max_text_tokens - weights[pack].sum()]
        for pack in packs
    ])  # fmt: skip
    for entry in sorted(out, key=lambda entry: -weights[entry]):
        needed = np.array([packing.lengths[entry], weights[entry]])
        with_room = np.flatnonzero((room >= needed).all(axis=1))
        place = int(with_room[0]) if len(with_room) else len(packs)
        if place == len(packs):
            packs.append([])
            room = np.vstack([room, [max_tokens, max_text_tokens]])
        packs[place].append(entry)
        room[place] -= needed
    places = np.concatenate([np.array(pack, np.int64) for pack in packs])
    offsets = np.cumsum([0, *map(len, packs)])
    return Packing(packing.order[places], packing.lengths[places], offsets)
