"""Load the packs of a plan in background threads or processes.

`load_pack` is a pure function of a `PackSpec`, which holds everything about a pack except pixels.
So any number of threads or processes gives the same packs in the same order, and a run resumes from
(epoch, step) alone.

An unreadable image is skipped and reported with its pack; the pack is shorter, and the rest of the
epoch does not change.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch

from patchpack.batch import ClipPatches, PackedBatch, Patches, collate, collate_clips
from patchpack.data.config import LoaderConfig
from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.loader_processes import LoaderProcesses
from patchpack.data.packing.plan import Plan
from patchpack.data.preprocess import load_clip, load_image
from patchpack.data.spec import ClipSpec, PackSpec, Preprocessing, pack_spec


@dataclass(frozen=True, kw_only=True)
class LoadedPack:
    """A loaded pack, its epoch and step, and its unreadable images."""

    batch: PackedBatch
    epoch: int
    step: int  # step within the epoch
    unreadable: tuple[BadImage, ...] = ()  # skipped images


def load_pack(spec: PackSpec) -> LoadedPack:
    """Load the pack of a spec, without its unreadable images."""
    images: list[Patches] = []
    clips: list[ClipPatches] = []
    unreadable: list[BadImage] = []
    for image in spec.images:
        try:
            if isinstance(image, ClipSpec):
                clips.append(load_clip(image, spec))
            else:
                images.append(load_image(image, spec))
        except BadImage as error:
            unreadable.append(error)
    prep = spec.preprocessing
    if prep.clip_sampling is None:
        batch = collate(images, prep.patch_size**2 * 3)
    else:
        batch = collate_clips(clips, prep.clip_sampling.tubelets)
    return LoadedPack(batch=batch, epoch=spec.epoch, step=spec.step, unreadable=tuple(unreadable))


def load_epoch(
    index: Index, plan: Plan, preprocessing: Preprocessing, config: LoaderConfig, *, rank: int = 0
) -> Generator[LoadedPack, None, None]:
    """Yield the packs of one rank for one epoch."""
    yield from _prefetch(_specs(index, plan, preprocessing, 0, 0, rank), config)


def load_forever(
    index: Index,
    plan_epoch: Callable[[int], Plan],
    preprocessing: Preprocessing,
    config: LoaderConfig,
    *,
    start: tuple[int, int] = (0, 0),
    rank: int = 0,
) -> Generator[LoadedPack, None, None]:
    """Yield the packs of one rank without end, starting at (epoch, step)."""

    def specs() -> Iterator[PackSpec]:
        epoch, step = start
        while True:
            yield from _specs(index, plan_epoch(epoch), preprocessing, epoch, step, rank)
            epoch, step = epoch + 1, 0

    yield from _prefetch(specs(), config)


def _specs(
    index: Index, plan: Plan, preprocessing: Preprocessing, epoch: int, start: int, rank: int
) -> Iterator[PackSpec]:
    for step in range(start, plan.num_steps):
        yield pack_spec(index, plan, preprocessing, epoch=epoch, step=step, rank=rank)


def _prefetch(specs: Iterator[PackSpec], config: LoaderConfig) -> Iterator[LoadedPack]:
    """Load specs in order, up to `prefetch` of them ahead in the background."""
    if config.workers == 0:
        yield from map(load_pack, specs)
        return
    pending: deque[Future[LoadedPack]] = deque()
    submit, shutdown = _background(config)
    try:
        for spec in specs:
            pending.append(submit(spec))
            if len(pending) > config.prefetch:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        shutdown()


def _background(
    config: LoaderConfig,
) -> tuple[Callable[[PackSpec], Future[LoadedPack]], Callable[[], None]]:
    """Start the threads or processes; return what submits a spec, and what ends them."""
    if config.worker_type == "processes":
        processes = LoaderProcesses(load_pack, config.workers)
        return processes.submit, processes.shutdown
    threads = ThreadPoolExecutor(
        config.workers,
        thread_name_prefix="patchpack-load",
        initializer=torch.set_num_threads,
        initargs=(1,),
    )
    return partial(threads.submit, load_pack), partial(
        threads.shutdown, wait=False, cancel_futures=True
    )
