"""Which packs a run trains on and is judged by: where a config meets index, plan and loader."""

from collections.abc import Iterator
from dataclasses import replace

from patchpack.data.index import Index
from patchpack.data.loader import Loaded, LoaderConfig, load_epoch, load_forever
from patchpack.data.packing.dropping import Dropping, NoDrop
from patchpack.data.packing.plan import Plan, make_plan
from patchpack.data.packing.resolution import Resolution
from patchpack.data.spec import Treatment
from patchpack.data.transforms.perturbations import Alteration
from patchpack.data.video.frame_sampling import Showing
from patchpack.distributed import World
from patchpack.model.navit import NaViTConfig
from patchpack.train.config import RunConfig
from patchpack.train.progress import Progress


def training_packs(
    index: Index, config: RunConfig, world: World, progress: Progress
) -> Iterator[Loaded]:
    """This rank's packs, from where the run stands on."""
    data, seed, captions = config.data, config.train.seed, index.captions
    showing = config.showing and replace(config.showing, place=None)

    def plan_epoch(epoch: int) -> Plan:
        texts = None
        if captions is not None:
            texts = captions.lengths[captions.choose(seed, epoch)]
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
            window=data.window,
            max_side=config.model.positions.max_side,
            fill=data.fill,
            texts=texts,
            max_text_tokens=data.max_text_tokens,
            clips=showing.of(index.clips) if showing else None,
        )

    packs = load_forever(
        index,
        plan_epoch,
        Treatment(
            patch_size=config.model.patch_size, augment=data.augment, seed=seed, showing=showing
        ),
        data.loader,
        start=(progress.epoch, progress.pack),
        rank=world.rank,
    )
    if world.device.type != "cuda":
        return packs
    return (replace(pack, batch=pack.batch.pin_memory()) for pack in packs)


def validation_packs(val: Index, config: RunConfig, world: World) -> Iterator[Loaded]:
    """This rank's share of what a run is judged by on its way."""
    data = config.data
    return evaluation_packs(
        replace(val, captions=None),
        config.model,
        resolution=data.resolution,
        tokens=config.evaluation_tokens,
        max_tokens=data.max_tokens,
        showing=config.showing,
        world=world,
        loader=data.loader,
    )


def evaluation_packs(
    index: Index,
    model: NaViTConfig,
    *,
    resolution: Resolution,
    tokens: int,
    max_tokens: int,
    world: World | None = None,
    loader: LoaderConfig | None = None,
    alter: Alteration | None = None,
    dropping: Dropping | None = None,
    showing: Showing | None = None,
) -> Iterator[Loaded]:
    """Every image, or clip, once, at most `tokens` of it; nothing trimmed, or dropped unless told.

    showing  which frames of clips are shown

    Raises ValueError for fewer tokens than the frames of a clip need.
    """
    world = world or World()
    of_a_frame = tokens if showing is None else showing.room(tokens)
    heights, widths = index.heights, index.widths
    plan = make_plan(
        *(alter.sizes(heights, widths) if alter else (heights, widths)),
        patch_size=model.patch_size,
        max_tokens=max(max_tokens, tokens),
        max_side=model.positions.max_side,
        resolution=resolution.at(of_a_frame),
        dropping=dropping or NoDrop(),
        seed=0,
        epoch=0,
        world_size=world.size,
        fill=False,
        shuffle=False,
        clips=showing.of(index.clips) if showing else None,
    )
    treatment = Treatment(patch_size=model.patch_size, alter=alter, judged=True, showing=showing)
    return load_epoch(index, plan, treatment, loader or LoaderConfig(), rank=world.rank)
