"""Batches for training and evaluation: index and config → plan → loader."""

from collections.abc import Generator
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Int

from patchpack.data.annotations.annotation import Annotation
from patchpack.data.config import DataConfig, InputSpec, LoaderConfig, PackingConfig
from patchpack.data.index import Index
from patchpack.data.loader import LoadedPack, load_epoch, load_forever
from patchpack.data.packing.dropping import Dropping, NoDrop
from patchpack.data.packing.plan import ItemSizes, Plan, make_plan
from patchpack.data.packing.resolution import Resolution
from patchpack.data.spec import Preprocessing
from patchpack.data.transforms.perturbations import Perturbation
from patchpack.data.video.frame_sampling import ClipSampling


@dataclass(frozen=True, kw_only=True)
class EvalView:
    """The input of a model in evaluation: tokens, sizes, frames, perturbation."""

    tokens: int  # maximum tokens per image or clip
    resolution: Resolution  # rule for sizes in training; its `for_evaluation` form is used
    perturbation: Perturbation | None = None  # applied before all preprocessing
    # rule that sets the share of tokens dropped from each image
    dropping: Dropping = field(default_factory=NoDrop)
    clip_sampling: ClipSampling | None = None  # how clips are sampled; None for images
    full_size_decode: bool = False  # decode large JPEGs at their full size, not at a fraction


def training_batches(
    index: Index,
    data: DataConfig,
    input: InputSpec,
    *,
    seed: int,
    start: tuple[int, int] = (0, 0),
    shard: tuple[int, int] = (0, 1),
) -> Generator[LoadedPack, None, None]:
    """Yield the training packs of one rank, epoch after epoch, without end.

    start  (epoch, step) of the first pack
    shard  (rank, number of ranks)
    """
    rank, world_size = shard
    clip_sampling = data.clip_sampling(input)
    if clip_sampling is not None:
        clip_sampling = replace(clip_sampling, start_fraction=None)
    packing = PackingConfig(
        patch_size=input.patch_size,
        max_tokens=data.max_tokens,
        resolution=data.resolution,
        max_side=input.max_side,
        dropping=data.dropping,
        packing_window=data.packing_window,
        trim_to_fill=data.trim_to_fill,
        max_text_tokens=data.max_text_tokens,
    )

    def plan_epoch(epoch: int) -> Plan:
        sizes = ItemSizes(
            index.heights,
            index.widths,
            _text_tokens(index, seed, epoch),
            clip_sampling.sample(index.clips) if clip_sampling else None,
        )
        return make_plan(sizes, packing, seed=seed, epoch=epoch, world_size=world_size)

    preprocessing = Preprocessing(
        patch_size=input.patch_size,
        reading=input.reading,
        resize_filter=input.resize_filter,
        augment=data.augment,
        seed=seed,
        clip_sampling=clip_sampling,
    )
    return load_forever(index, plan_epoch, preprocessing, data.loader, start=start, rank=rank)


def evaluation_batches(
    index: Index,
    input: InputSpec,
    view: EvalView,
    *,
    max_tokens: int,
    loader: LoaderConfig | None = None,
    shard: tuple[int, int] = (0, 1),
) -> Generator[LoadedPack, None, None]:
    """Yield the packs of one rank for one pass over an index: every item once, not trimmed.

    Targets keep the original size of their images. Texts are not loaded: they are encoded apart.

    max_tokens  maximum tokens per pack; raised to `view.tokens` if it is lower
    shard       (rank, number of ranks)

    Raise ValueError if the frames of a clip do not fit into `view.tokens`.
    """
    rank, world_size = shard
    clip_sampling, perturbation = view.clip_sampling, view.perturbation
    max_patches = clip_sampling.patches_for_tokens(view.tokens) if clip_sampling else view.tokens
    packing = PackingConfig(
        patch_size=input.patch_size,
        max_tokens=max(max_tokens, view.tokens),
        resolution=view.resolution.for_evaluation(max_patches),
        max_side=input.max_side,
        dropping=view.dropping,
        trim_to_fill=False,
        shuffle=False,
    )
    heights, widths = index.heights, index.widths
    if perturbation:
        heights, widths = perturbation.sizes(heights, widths)
    frames = clip_sampling.sample(index.clips) if clip_sampling else None
    plan = make_plan(
        ItemSizes(heights, widths, frames=frames), packing, seed=0, epoch=0, world_size=world_size
    )
    preprocessing = Preprocessing(
        patch_size=input.patch_size,
        reading=input.reading,
        resize_filter=input.resize_filter,
        perturbation=perturbation,
        full_size_decode=view.full_size_decode,
        keep_originals=True,
        clip_sampling=clip_sampling,
    )
    index = replace(index, annotations=_without_texts(index))
    return load_epoch(index, plan, preprocessing, loader or LoaderConfig(), rank=rank)


def _text_tokens(index: Index, seed: int, epoch: int) -> Int[np.ndarray, " image"] | None:
    """Return the text tokens of each image in an epoch; None without texts."""
    streams = {
        name: lengths
        for name, annotation in index.annotations.items()
        if (lengths := annotation.stream_lengths(seed, epoch)) is not None
    }
    if len(streams) > 1:
        raise ValueError(f"a pack has one text stream, not those of {' and '.join(streams)}")
    return next(iter(streams.values()), None)


def _without_texts(index: Index) -> dict[str, Annotation]:
    return {
        name: annotation
        for name, annotation in index.annotations.items()
        if annotation.stream_lengths(0, 0) is None
    }
