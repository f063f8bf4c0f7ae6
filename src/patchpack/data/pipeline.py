"""Which packs a run trains on and is judged by: where a config meets index, plan and loader."""

from collections.abc import Iterator
from dataclasses import replace

from patchpack.data.index import Index
from patchpack.data.loader import LoadedPack, LoaderConfig, load_epoch, load_forever
from patchpack.data.packing.dropping import Dropping, NoDrop
from patchpack.data.packing.plan import Plan, make_plan
from patchpack.data.packing.resolution import Resolution
from patchpack.data.spec import Preprocessing
from patchpack.data.transforms.perturbations import Perturbation
from patchpack.data.video.frame_sampling import ClipSampling
from patchpack.distributed import World
from patchpack.model.navit import NaViTConfig
from patchpack.train.config import RunConfig
from patchpack.train.progress import Progress


def training_batches(
    index: Index, config: RunConfig, world: World, progress: Progress
) -> Iterator[LoadedPack]:
    """This rank's packs, from where the run stands on."""
    data, seed, captions = config.data, config.train.seed, index.captions
    clip_sampling = config.clip_sampling and replace(config.clip_sampling, start_fraction=None)

    def plan_epoch(epoch: int) -> Plan:
        texts = None
        if captions is not None:
            texts = captions.lengths[captions.sample(seed, epoch)]
        return make_plan(
            index.heights,
            index.widths,
            patch_size=config.model.patch_size,
            max_tokens=data.max_tokens,
            resolution=data.resolution,
            dropping=data.dropping,
            seed=seed,
            epoch=epoch,
            world_size=world.size,
            window=data.packing_window,
            max_side=config.model.positions.max_side,
            fill=data.trim_to_fill,
            texts=texts,
            max_text_tokens=data.max_text_tokens,
            clips=clip_sampling.sample(index.clips) if clip_sampling else None,
        )

    packs = load_forever(
        index,
        plan_epoch,
        Preprocessing(
            patch_size=config.model.patch_size,
            augment=data.augment,
            seed=seed,
            clip_sampling=clip_sampling,
        ),
        data.loader,
        start=(progress.epoch, progress.pack),
        rank=world.rank,
    )
    if world.device.type != "cuda":
        return packs
    return (replace(pack, batch=pack.batch.pin_memory()) for pack in packs)


def validation_batches(val: Index, config: RunConfig, world: World) -> Iterator[LoadedPack]:
    """This rank's share of what a run is judged by on its way."""
    data = config.data
    return evaluation_batches(
        replace(val, captions=None),
        config.model,
        resolution=data.resolution,
        tokens=config.evaluation_tokens,
        max_tokens=data.max_tokens,
        clip_sampling=config.clip_sampling,
        world=world,
        loader=data.loader,
    )


def evaluation_batches(
    index: Index,
    model: NaViTConfig,
    *,
    resolution: Resolution,
    tokens: int,
    max_tokens: int,
    world: World | None = None,
    loader: LoaderConfig | None = None,
    perturbation: Perturbation | None = None,
    dropping: Dropping | None = None,
    clip_sampling: ClipSampling | None = None,
) -> Iterator[LoadedPack]:
    """Every image, or clip, once, at most `tokens` of it; nothing trimmed, or dropped unless told.

    showing  which frames of clips are shown

    Raises ValueError for fewer tokens than the frames of a clip need.
    """
    world = world or World()
    tokens_per_frame = tokens if clip_sampling is None else clip_sampling.patches_for_tokens(tokens)
    heights, widths = index.heights, index.widths
    plan = make_plan(
        *(perturbation.sizes(heights, widths) if perturbation else (heights, widths)),
        patch_size=model.patch_size,
        max_tokens=max(max_tokens, tokens),
        max_side=model.positions.max_side,
        resolution=resolution.for_evaluation(tokens_per_frame),
        dropping=dropping or NoDrop(),
        seed=0,
        epoch=0,
        world_size=world.size,
        fill=False,
        shuffle=False,
        clips=clip_sampling.sample(index.clips) if clip_sampling else None,
    )
    preprocessing = Preprocessing(
        patch_size=model.patch_size,
        perturbation=perturbation,
        keep_original_masks=True,
        clip_sampling=clip_sampling,
    )
    return load_epoch(index, plan, preprocessing, loader or LoaderConfig(), rank=world.rank)
