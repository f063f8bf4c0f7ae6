"""What is to be loaded: everything about a pack of images or clips but its pixels.

A plan says which images are in which pack; `pack_spec` adds where each lies and what belongs to it,
so that any thread or process can load the pack, and the same one comes out.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from patchpack.batch import Target
from patchpack.data.annotations.boxes import Boxes
from patchpack.data.annotations.masks import MaskSpec
from patchpack.data.index import Index
from patchpack.data.packing.plan import Pack, Plan
from patchpack.data.transforms.augment import Augment
from patchpack.data.transforms.perturbations import Perturbation
from patchpack.data.video.frame_sampling import ClipSampling, frame_numbers


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """One image on disk, and what is known of places in it."""

    path: Path
    key: str
    mask: MaskSpec | None = None
    objects: Boxes | None = None


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """One image of a pack: where it lies and what is to be kept of it."""

    source: ImageSource
    number: int  # in its index: its random numbers follow from it
    grid: tuple[int, int]
    kept: int
    mosaic_sources: tuple[ImageSource, ...] = ()  # three that share its canvas
    text: Int[np.ndarray, " text_token"] | None = None
    targets: dict[str, Target] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """One clip of a pack: where it lies, which of its frames, and what is to be kept of them."""

    path: Path
    key: str
    number: int  # in its index: its random numbers follow from it
    frames: tuple[int, ...]
    rate: float  # frames a second of the file
    grid: tuple[int, int]  # of each frame, in tubelets of the first shape
    kept: int
    targets: dict[str, Target] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What happens to every image, or frame, on its way into a pack."""

    patch_size: int  # pixels
    augment: Augment = field(default_factory=Augment)
    perturbation: Perturbation | None = None  # before all else, and to images as they are on disk
    seed: int = 0
    clip_sampling: ClipSampling | None = None  # of clips
    keep_original_masks: bool = (
        False  # masks stay as they are in their files, however images are resized
    )


@dataclass(frozen=True, kw_only=True)
class PackSpec:
    """Everything about a pack but its pixels."""

    images: tuple[ImageSpec, ...] | tuple[ClipSpec, ...]
    preprocessing: Preprocessing
    epoch: int
    step: int  # of the epoch


def pack_spec(
    index: Index,
    plan: Plan,
    preprocessing: Preprocessing,
    *,
    epoch: int,
    step: int,
    rank: int,
    texts: Int[np.ndarray, " image"] | None = None,
) -> PackSpec:
    """What to load for one step of one rank; `texts` says which caption goes with each image."""
    pack = plan.pack(step, rank)
    if index.clips is not None:
        clips = _clip_specs(index, pack, preprocessing, epoch)
        return PackSpec(images=clips, preprocessing=preprocessing, epoch=epoch, step=step)
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
        rng = np.random.default_rng([preprocessing.seed, epoch, int(i), 7])
        if preprocessing.augment.mosaic and rng.uniform() < preprocessing.augment.mosaic:
            mosaic_sources = rng.integers(len(index), size=3)
            image = replace(
                image, mosaic_sources=tuple(_source(index, int(other)) for other in mosaic_sources)
            )
        images.append(image)
    return PackSpec(images=tuple(images), preprocessing=preprocessing, epoch=epoch, step=step)


def _clip_specs(
    index: Index, pack: Pack, preprocessing: Preprocessing, epoch: int
) -> tuple[ClipSpec, ...]:
    clips, clip_sampling = index.clips, preprocessing.clip_sampling
    if clips is None or clip_sampling is None:
        raise ValueError("clips need a treatment that says which of their frames are shown")
    shown, specs = clip_sampling.sample(clips.select(pack.images)), []
    for j, (i, (h, w), kept) in enumerate(zip(pack.images, pack.grids, pack.kept, strict=True)):
        start_fraction = clip_sampling.start_fraction
        if start_fraction is None:
            start_fraction = np.random.default_rng([preprocessing.seed, epoch, int(i), 8]).random()
        count, step = int(shown.counts[j]), float(shown.steps[j])
        specs.append(
            ClipSpec(
                path=index.path(i),
                key=index.keys[i],
                number=int(i),
                frames=tuple(
                    frame_numbers(int(clips.lengths[i]), count, step, start_fraction).tolist()
                ),
                rate=float(clips.rates[i]),
                grid=(int(h), int(w)),
                kept=int(kept),
                targets={"label": int(index.labels[i])},
            )
        )
    return tuple(specs)


def _source(index: Index, number: int) -> ImageSource:
    """What there is on disk, and known, of one image."""
    masks, objects = index.masks, index.boxes
    return ImageSource(
        path=index.path(number),
        key=index.keys[number],
        mask=None if masks is None else masks.spec(index.root, number),
        objects=None if objects is None else objects.images[number],
    )
