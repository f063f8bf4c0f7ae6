"""Dataset statistics: sizes, tokens, fill of the packs, and compute saved by packing.

Sizes come from file headers and the plan from sizes, so no image is decoded. Compute is counted by
a function of the caller: the operations of a forward pass over images of given lengths.

Axes: image (or clip).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from jaxtyping import Int, Num

from patchpack.data.config import PackingConfig
from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.packing.dropping import NoDrop
from patchpack.data.packing.plan import ItemSizes, Plan, make_plan
from patchpack.data.video.frame_sampling import ClipSampling

PADDED_BATCH = 32  # images per padded batch, drawn at random
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

Flops = Callable[[Sequence[int]], int]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Statistics of a dataset; lists are the quantiles QUANTILES."""

    images: int  # number of images or clips
    unreadable: tuple[str, ...]  # "key: reason" of each item that cannot be read
    classes: int  # number of classes
    splits: dict[str, int]  # images per split
    heights: list[float]  # px
    widths: list[float]  # px
    aspects: list[float]  # width / height
    frames: list[float]  # frames per clip, in its file; empty for images
    seconds: list[float]  # duration per clip; empty for images
    tokens: list[float]  # tokens per image
    patch_size: int  # px
    max_tokens: int  # per pack
    packs: int  # number of packs
    images_per_pack: float
    fill: float  # share of all token slots that hold a token, without trimming
    fill_trimmed: float  # the same with trimming (PackingConfig.trim_to_fill)
    gflops: float  # forward pass over all images, packed
    gflops_padded: float  # in random batches of PADDED_BATCH, padded to the longest image
    gflops_square: float  # with each image resized to the tokens of the 95th percentile

    def json(self) -> dict:
        return asdict(self)


def survey(
    index: Index,
    config: PackingConfig,
    *,
    flops: Flops,
    clip_sampling: ClipSampling | None = None,
) -> Survey:
    """Return the statistics of an index, packed by `config` without token dropping.

    flops          operations of a forward pass, by the tokens of each image
    clip_sampling  how clips are sampled; None for images
    """
    config = replace(config, dropping=NoDrop())
    plain, trimmed = (
        plan_all(index, replace(config, trim_to_fill=fill), clip_sampling) for fill in (False, True)
    )
    tokens = plain.kept  # neither dropped nor trimmed
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(tokens)
    batches = [shuffled[i : i + PADDED_BATCH] for i in range(0, len(shuffled), PADDED_BATCH)]
    square = int(np.quantile(tokens, 0.95))
    splits = {name: index.splits.count(name) for name in sorted(set(index.splits))}
    return Survey(
        images=len(index),
        unreadable=tuple(str(BadImage(*item)) for item in index.bad),
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
    """Return the plan of one epoch over all splits."""
    frames = None if clip_sampling is None else clip_sampling.sample(index.clips)
    return make_plan(ItemSizes(index.heights, index.widths, frames=frames), config, seed=0, epoch=0)


def _quantiles(values: Num[np.ndarray, " image"] | Int[np.ndarray, " image"]) -> list[float]:
    return [round(float(q), 3) for q in np.quantile(values, QUANTILES)]
