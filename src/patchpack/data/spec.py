"""Specs: everything about a pack of images or clips except pixels.

The plan has the rows of a pack; `pack_spec` adds files, annotations and sizes. Any thread or
process loads the same pack from its spec.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from patchpack.batch import Target
from patchpack.data.annotations.annotation import ItemAnnotation
from patchpack.data.images import ResizeFilter
from patchpack.data.index import Index
from patchpack.data.packing.plan import Pack, Plan
from patchpack.data.reading import DEFAULT_READING, ReadingConfig
from patchpack.data.transforms.augment import Augment
from patchpack.data.transforms.perturbations import Perturbation
from patchpack.data.video.frame_sampling import ClipSampling, frame_numbers


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """An image file and its annotations."""

    path: Path
    key: str
    annotations: dict[str, ItemAnnotation] = field(default_factory=dict)  # by Annotation.name


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """One image of a pack."""

    source: ImageSource
    row: int  # in the index; its random numbers follow from it
    grid: tuple[int, int]  # (h, w) in patches
    kept: int  # tokens
    mosaic_sources: tuple[ImageSource, ...] = ()  # three images that share its canvas
    targets: dict[str, Target] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """One clip of a pack."""

    path: Path
    key: str
    row: int  # in the index; its random numbers follow from it
    frames: tuple[int, ...]  # frame numbers in the file
    rate: float  # frames per second of the file
    grid: tuple[int, int]  # (h, w) of each frame, in tubelets of the first shape
    kept: int  # tokens
    targets: dict[str, Target] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Preprocessing of every image, or frame, of a pack."""

    patch_size: int  # px
    reading: ReadingConfig = DEFAULT_READING
    resize_filter: ResizeFilter = "bicubic"
    augment: Augment = field(default_factory=Augment)
    perturbation: Perturbation | None = None  # applied first, at the size of the file
    seed: int = 0
    clip_sampling: ClipSampling | None = None  # None: images
    full_size_decode: bool = False  # decode large JPEGs at their full size, not at a fraction
    keep_originals: bool = False  # attach annotations as before all transforms, for evaluation


@dataclass(frozen=True, kw_only=True)
class PackSpec:
    """Everything about a pack except pixels."""

    images: tuple[ImageSpec, ...] | tuple[ClipSpec, ...]
    preprocessing: Preprocessing
    epoch: int
    step: int  # within the epoch


def pack_spec(
    index: Index, plan: Plan, preprocessing: Preprocessing, *, epoch: int, step: int, rank: int
) -> PackSpec:
    """Return the spec of one step of one rank."""
    pack = plan.pack(step, rank)
    make = _image_specs if index.clips is None else _clip_specs
    images = make(index, pack, preprocessing, epoch)
    return PackSpec(images=images, preprocessing=preprocessing, epoch=epoch, step=step)


def _image_specs(
    index: Index, pack: Pack, preprocessing: Preprocessing, epoch: int
) -> tuple[ImageSpec, ...]:
    def source(row: int) -> ImageSource:
        annotations = {
            name: annotation.item(row, preprocessing.seed, epoch, index.root)
            for name, annotation in index.annotations.items()
        }
        return ImageSource(path=index.path(row), key=index.keys[row], annotations=annotations)

    specs = []
    for row, (h, w), kept in zip(
        pack.images.tolist(), pack.grids.tolist(), pack.kept.tolist(), strict=True
    ):
        image = ImageSpec(
            source=source(row),
            row=row,
            grid=(h, w),
            kept=kept,
            targets={"label": int(index.labels[row])},
        )
        rng = np.random.default_rng([preprocessing.seed, epoch, row, 7])
        if preprocessing.augment.mosaic and rng.uniform() < preprocessing.augment.mosaic:
            others = rng.integers(len(index), size=3).tolist()
            image = replace(image, mosaic_sources=tuple(source(other) for other in others))
        specs.append(image)
    return tuple(specs)


def _clip_specs(
    index: Index, pack: Pack, preprocessing: Preprocessing, epoch: int
) -> tuple[ClipSpec, ...]:
    clips, clip_sampling = index.clips, preprocessing.clip_sampling
    if clips is None or clip_sampling is None:
        raise ValueError("Preprocessing.clip_sampling must be set to load clips")
    sampled, specs = clip_sampling.sample(clips.select(pack.images)), []
    for j, (row, (h, w), kept) in enumerate(
        zip(pack.images.tolist(), pack.grids.tolist(), pack.kept.tolist(), strict=True)
    ):
        start_fraction = clip_sampling.start_fraction
        if start_fraction is None:
            start_fraction = np.random.default_rng([preprocessing.seed, epoch, row, 8]).random()
        count, step = int(sampled.counts[j]), float(sampled.steps[j])
        frames = frame_numbers(int(clips.lengths[row]), count, step, start_fraction)
        specs.append(
            ClipSpec(
                path=index.path(row),
                key=index.keys[row],
                row=row,
                frames=tuple(frames.tolist()),
                rate=float(clips.rates[row]),
                grid=(h, w),
                kept=kept,
                targets={"label": int(index.labels[row])},
            )
        )
    return tuple(specs)
