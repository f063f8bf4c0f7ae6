"""What a dataset looks like to a packed model: sizes, lengths, tokens, fill, and compute saved.

Sizes come from headers and the plan from sizes, so a million images are surveyed without decoding
one. Compute is counted by a function the caller gives: operations of a forward pass over images of
these lengths.

Axes: image.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from jaxtyping import Int, Num

from patchpack.data.config import PackingConfig
from patchpack.data.index import Index
from patchpack.data.packing.dropping import NoDrop
from patchpack.data.packing.plan import ItemSizes, Plan, make_plan
from patchpack.data.video.frame_sampling import ClipSampling

PADDED_BATCH = 32  # images of a padded batch, drawn at random
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

Flops = Callable[[Sequence[int]], int]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Figures of a dataset; quantiles are those of QUANTILES."""

    images: int  # or clips
    unreadable: int
    classes: int
    splits: dict[str, int]
    heights: list[float]  # px
    widths: list[float]  # px
    aspects: list[float]  # width / height
    frames: list[float]  # of a clip's file; none of images
    seconds: list[float]  # a clip
    tokens: list[float]  # an image, at its grid
    patch_size: int
    max_tokens: int  # of a pack
    packs: int
    images_per_pack: float
    fill: float  # share of the slots of all packs that hold a token
    fill_trimmed: float  # the same where the last image of a pack may be trimmed
    gflops: float  # a forward pass over all images, packed
    gflops_padded: float  # in batches of PADDED_BATCH, padded to the longest
    gflops_square: float  # as squares of as many tokens as the 95th-percentile image

    def json(self) -> dict:
        return asdict(self)


def survey(
    index: Index,
    config: PackingConfig,
    *,
    flops: Flops,
    clip_sampling: ClipSampling | None = None,
) -> Survey:
    """Compute the statistics of all images of an index, packed by `config` but for its dropping.

    clip_sampling  selects the frames of clips; None for images
    """
    config = replace(config, dropping=NoDrop())
    plain, trimmed = (
        plan_all(index, replace(config, trim_to_fill=fill), clip_sampling) for fill in (False, True)
    )
    tokens = plain.kept  # all there are: nothing is dropped or trimmed
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(tokens)
    batches = [shuffled[i : i + PADDED_BATCH] for i in range(0, len(shuffled), PADDED_BATCH)]
    square = int(np.quantile(tokens, 0.95))
    splits = {name: index.splits.count(name) for name in sorted(set(index.splits))}
    return Survey(
        images=len(index),
        unreadable=len(index.bad),
        classes=len(index.classes),
        splits=splits,
        heights=_quantiles(index.heights),
        widths=_quantiles(index.widths),
        aspects=_quantiles(index.widths / index.heights),
        frames=_quantiles(index.clips.lengths) if index.clips else [],
        seconds=_quantiles(index.clips.lengths / index.clips.rates) if index.clips else [],
        tokens=_quantiles(tokens),
        patch_size=config.patch_size,
        max_tokens=config.max_tokens,
        packs=plain.num_packs,
        images_per_pack=len(index) / plain.num_packs,
        fill=plain.fill,
        fill_trimmed=trimmed.fill,
        gflops=flops(tokens.tolist()) / 1e9,
        gflops_padded=sum(flops([int(b.max())]) * len(b) for b in batches) / 1e9,
        gflops_square=flops([square]) * len(tokens) / 1e9,
    )


def plan_all(
    index: Index, config: PackingConfig, clip_sampling: ClipSampling | None = None
) -> Plan:
    """One epoch over everything."""
    frames = None if clip_sampling is None else clip_sampling.sample(index.clips)
    return make_plan(ItemSizes(index.heights, index.widths, frames=frames), config, seed=0, epoch=0)


def _quantiles(values: Num[np.ndarray, " image"] | Int[np.ndarray, " image"]) -> list[float]:
    return [round(float(q), 3) for q in np.quantile(values, QUANTILES)]
