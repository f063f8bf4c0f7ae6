"""From a plan to packs: decode, resize, augment and patchify, ahead of the training step.

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
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int

from patchpack.batch import PackedBatch, Patches, Target, collate
from patchpack.data.alter import Alteration
from patchpack.data.augment import Augment, augment, random_crop
from patchpack.data.dropping import kept_tokens
from patchpack.data.images import BadImage, decode
from patchpack.data.index import Index
from patchpack.data.located import Located
from patchpack.data.masks import MaskSpec, read_mask
from patchpack.data.mosaic import mosaic
from patchpack.data.patchify import patchify
from patchpack.data.plan import Plan
from patchpack.data.scene import Scene


@dataclass(frozen=True, kw_only=True)
class Source:
    """One image on disk, and what is known of places in it."""

    path: Path
    key: str
    mask: MaskSpec | None = None
    objects: Located | None = None


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """One image of a pack: where it lies and what is to be kept of it."""

    source: Source
    number: int  # in its index: its random numbers follow from it
    grid: tuple[int, int]
    kept: int
    others: tuple[Source, ...] = ()  # three that share its canvas
    text: Int[np.ndarray, " text_token"] | None = None
    targets: dict[str, Target] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What happens to every image on its way into a pack."""

    patch_size: int  # pixels
    augment: Augment = field(default_factory=Augment)
    alter: Alteration | None = None  # before all else, and to images as they are on disk
    seed: int = 0
    judged: bool = False  # masks stay as they are in their files, however images are resized


@dataclass(frozen=True, kw_only=True)
class PackSpec:
    """Everything about a pack but its pixels."""

    images: tuple[ImageSpec, ...]
    treatment: Treatment
    epoch: int
    step: int  # of the epoch


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A pack, which pack it is, and which of its images could not be read."""

    batch: PackedBatch
    epoch: int
    step: int
    bad: tuple[BadImage, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Who loads packs ahead of their use."""

    workers: int = 2  # threads or processes; 0 loads in the foreground
    kind: Literal["threads", "processes"] = "threads"
    ahead: int = 4  # packs loaded before they are needed

    def __post_init__(self) -> None:
        if self.workers < 0 or self.ahead < 1:
            raise ValueError(f"workers {self.workers} must be >= 0 and ahead {self.ahead} >= 1")


def pack_spec(
    index: Index,
    plan: Plan,
    treatment: Treatment,
    *,
    epoch: int,
    step: int,
    rank: int,
    texts: Int[np.ndarray, " image"] | None = None,
) -> PackSpec:
    """What to load for one step of one rank; `texts` says which caption goes with each image."""
    pack = plan.pack(step, rank)
    images = []
    for i, (h, w), kept in zip(pack.images, pack.grids, pack.kept, strict=True):
        image = ImageSpec(
            source=_source(index, int(i)),
            number=int(i),
            grid=(int(h), int(w)),
            kept=int(kept),
            text=None if texts is None else index.captions.text(texts[i]),  # pyrefly: ignore
            targets={"label": int(index.labels[i])},
        )
        rng = np.random.default_rng([treatment.seed, epoch, int(i), 7])
        if treatment.augment.mosaic and rng.uniform() < treatment.augment.mosaic:
            others = rng.integers(len(index), size=3)
            image = replace(image, others=tuple(_source(index, int(other)) for other in others))
        images.append(image)
    return PackSpec(images=tuple(images), treatment=treatment, epoch=epoch, step=step)


def _source(index: Index, number: int) -> Source:
    """What there is on disk, and known, of one image."""
    masks, objects = index.masks, index.objects
    return Source(
        path=index.path(number),
        key=index.keys[number],
        mask=None if masks is None else masks.spec(index.root, number),
        objects=None if objects is None else objects.images[number],
    )


def read_scene(source: Source, target: tuple[int, int] | None) -> Scene:
    """An image with its mask and objects; raises BadImage for what cannot be read.

    target  (height, width) that a JPEG may be decoded near; places in it are known to the pixel
            where there is a mask or an object, so then it is decoded whole
    """
    exact = source.mask or source.objects
    pixels = decode(source.path, key=source.key, target=None if exact else target)
    mask = read_mask(source.mask, pixels.shape[:2], source.key) if source.mask else None
    return Scene(pixels, mask, source.objects)


def load_image(image: ImageSpec, spec: PackSpec) -> Patches:
    todo, (h, w) = spec.treatment, image.grid
    crop = todo.augment.crop / todo.augment.crop_aspect  # a window's shorter side, squared
    rng = np.random.default_rng([todo.seed, spec.epoch, image.number, 1])
    p = todo.patch_size
    # Decoded at a fraction of its size only where the smallest crop still has pixels enough.
    whole = ceil(h * p / crop**0.5), ceil(w * p / crop**0.5)
    scene = read_scene(image.source, None if todo.alter else whole)
    mask = scene.mask
    if todo.alter:
        drawn = np.random.default_rng([todo.seed, image.number, 5])
        scene = scene.coloured(todo.alter(scene.pixels, drawn))
    if image.others:
        scenes = [scene, *(read_scene(other, whole) for other in image.others)]
        scene = mosaic(scenes, (h * p, w * p), rng)
    scene = random_crop(scene, todo.augment, rng).resized((h * p, w * p))
    scene = augment(scene, todo.augment, rng)
    targets = image.targets
    if mask is not None:
        seen = np.require(mask if todo.judged else scene.mask, requirements=["C", "W"])
        targets = targets | {"mask": torch.from_numpy(seen)}
    if scene.objects is not None:
        height, width = scene.size
        boxes = scene.objects.scaled(1 / height, 1 / width).boxes
        labels = torch.from_numpy(scene.objects.labels)
        targets = targets | {"boxes": torch.from_numpy(boxes), "box_labels": labels}
    key = image.source.key
    kept = None if image.kept == h * w else kept_tokens(h * w, image.kept, rng)
    patches = patchify(scene.pixels, p, kept=kept, key=key, targets=targets)
    if image.text is None:
        return patches
    return replace(patches, text=torch.from_numpy(image.text))


def load_pack(spec: PackSpec) -> Loaded:
    """A pack from its spec, without the images that cannot be read."""
    images: list[Patches] = []
    bad: list[BadImage] = []
    for image in spec.images:
        try:
            images.append(load_image(image, spec))
        except BadImage as error:
            bad.append(error)
    batch = collate(images, spec.treatment.patch_size**2 * 3)
    return Loaded(batch=batch, epoch=spec.epoch, step=spec.step, bad=tuple(bad))


def load_epoch(
    index: Index, plan: Plan, treatment: Treatment, config: LoaderConfig, *, rank: int = 0
) -> Iterator[Loaded]:
    """The packs of one rank in one pass over a plan, loaded ahead."""
    yield from _ahead(_specs(index, plan, treatment, 0, 0, rank), config)


def load_forever(
    index: Index,
    plan_epoch: Callable[[int], Plan],
    treatment: Treatment,
    config: LoaderConfig,
    *,
    start: tuple[int, int] = (0, 0),
    rank: int = 0,
) -> Iterator[Loaded]:
    """The packs of one rank from (epoch, step) on, epoch after epoch."""

    def specs() -> Iterator[PackSpec]:
        epoch, step = start
        while True:
            yield from _specs(index, plan_epoch(epoch), treatment, epoch, step, rank)
            epoch, step = epoch + 1, 0

    yield from _ahead(specs(), config)


def _specs(
    index: Index, plan: Plan, treatment: Treatment, epoch: int, start: int, rank: int
) -> Iterator[PackSpec]:
    captions = index.captions
    texts = None if captions is None else captions.choose(treatment.seed, epoch)
    for step in range(start, plan.num_steps):
        yield pack_spec(index, plan, treatment, epoch=epoch, step=step, rank=rank, texts=texts)


def _ahead(specs: Iterator[PackSpec], config: LoaderConfig) -> Iterator[Loaded]:
    """Load specs in order, up to `ahead` of them at a time in the background."""
    if config.workers == 0:
        yield from map(load_pack, specs)
        return
    waiting: deque[Future[Loaded]] = deque()
    executor = _executor(config)
    try:
        for spec in specs:
            waiting.append(executor.submit(load_pack, spec))
            if len(waiting) > config.ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _executor(config: LoaderConfig) -> Executor:
    if config.kind == "threads":
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
