"""From a plan to packs, ahead of the training step.

`load_pack` is a pure function of a `PackSpec`, which says everything about a pack but its pixels.
So it does not matter where it runs: the same packs come out, in the same order, from any number of
threads or processes, and a run resumes at (epoch, step) with nothing else to remember.

An image that cannot be decoded is left out of its pack and reported beside it; the pack is shorter,
and the rest of the epoch is what it would have been.
"""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from patchpack.batch import ClipPatches, PackedBatch, Patches, collate, collate_clips
from patchpack.data.config import LoaderConfig
from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.packing.plan import Plan
from patchpack.data.preprocess import load_clip, load_image
from patchpack.data.spec import ClipSpec, PackSpec, Preprocessing, pack_spec


@dataclass(frozen=True, kw_only=True)
class LoadedPack:
    """A pack, which pack it is, and which of its images could not be read."""

    batch: PackedBatch
    epoch: int
    step: int
    unreadable: tuple[BadImage, ...] = ()


def load_pack(spec: PackSpec) -> LoadedPack:
    """A pack from its spec, without the images that cannot be read."""
    images: list[Patches] = []
    clips: list[ClipPatches] = []
    bad: list[BadImage] = []
    for image in spec.images:
        try:
            if isinstance(image, ClipSpec):
                clips.append(load_clip(image, spec))
            else:
                images.append(load_image(image, spec))
        except BadImage as error:
            bad.append(error)
    prep = spec.preprocessing
    if prep.clip_sampling is None:
        batch = collate(images, prep.patch_size**2 * 3)
    else:
        batch = collate_clips(clips, prep.clip_sampling.tubelets)
    return LoadedPack(batch=batch, epoch=spec.epoch, step=spec.step, unreadable=tuple(bad))


def load_epoch(
    index: Index, plan: Plan, preprocessing: Preprocessing, config: LoaderConfig, *, rank: int = 0
) -> Iterator[LoadedPack]:
    """The packs of one rank in one pass over a plan, loaded ahead."""
    yield from _ahead(_specs(index, plan, preprocessing, 0, 0, rank), config)


def load_forever(
    index: Index,
    plan_epoch: Callable[[int], Plan],
    preprocessing: Preprocessing,
    config: LoaderConfig,
    *,
    start: tuple[int, int] = (0, 0),
    rank: int = 0,
) -> Iterator[LoadedPack]:
    """The packs of one rank from (epoch, step) on, epoch after epoch."""

    def specs() -> Iterator[PackSpec]:
        epoch, step = start
        while True:
            yield from _specs(index, plan_epoch(epoch), preprocessing, epoch, step, rank)
            epoch, step = epoch + 1, 0

    yield from _ahead(specs(), config)


def _specs(
    index: Index, plan: Plan, preprocessing: Preprocessing, epoch: int, start: int, rank: int
) -> Iterator[PackSpec]:
    captions = index.captions
    texts = None if captions is None else captions.sample(preprocessing.seed, epoch)
    for step in range(start, plan.num_steps):
        yield pack_spec(index, plan, preprocessing, epoch=epoch, step=step, rank=rank, texts=texts)


def _ahead(specs: Iterator[PackSpec], config: LoaderConfig) -> Iterator[LoadedPack]:
    """Load specs in order, up to `ahead` of them at a time in the background."""
    if config.workers == 0:
        yield from map(load_pack, specs)
        return
    waiting: deque[Future[LoadedPack]] = deque()
    executor = _executor(config)
    try:
        for spec in specs:
            waiting.append(executor.submit(load_pack, spec))
            if len(waiting) > config.prefetch:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _executor(config: LoaderConfig) -> Executor:
    if config.worker_type == "threads":
        return ThreadPoolExecutor(
            config.workers,
            thread_name_prefix="patchpack-load",
            initializer=torch.set_num_threads,
            initargs=(1,),
        )
    return ProcessPoolExecutor(
        config.workers,
        mp_context=multiprocessing.get_context("forkserver"),
        initializer=_start_process,
    )


def _start_process() -> None:
    """A loading process uses one core and leaves Ctrl-C to the process that feeds it."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
