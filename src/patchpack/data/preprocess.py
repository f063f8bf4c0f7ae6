"""Preprocessing of one image or clip: decode, crop, resize, augment, patchify, drop tokens.

All random numbers of an item follow from the seed, the epoch and its row in the index. All frames
of a clip get the same random numbers, so augmentation adds no motion; contrast is changed about the
mean of each frame.
"""

from math import ceil

import numpy as np

from patchpack.batch import ClipPatches, Patches
from patchpack.data.images import BadImage, decode
from patchpack.data.packing.dropping import kept_tokens
from patchpack.data.patchify import patchify
from patchpack.data.reading import DEFAULT_READING, ReadingConfig
from patchpack.data.spec import ClipSpec, ImageSource, ImageSpec, PackSpec
from patchpack.data.transforms.augment import augment, random_crop
from patchpack.data.transforms.mosaic import mosaic
from patchpack.data.transforms.sample import Sample
from patchpack.data.video.decode import decode_frames
from patchpack.data.video.tubelets import count_tubelets, cut_tubelets


def read_sample(
    source: ImageSource, target: tuple[int, int] | None, reading: ReadingConfig = DEFAULT_READING
) -> Sample:
    """Read an image and its annotations; raise BadImage for unreadable files.

    target  (height, width): a JPEG may be decoded at a fraction of its size that is at least this,
            unless it has annotations in pixels
    """
    full_size = any(annotation.in_pixels for annotation in source.annotations.values())
    pixels = decode(
        source.path, key=source.key, target=None if full_size else target, reading=reading
    )
    size = pixels.shape[:2]
    return Sample(
        pixels, {name: a.read(size, source.key) for name, a in source.annotations.items()}
    )


def _read_or(sample: Sample, source: ImageSource, reading: ReadingConfig) -> Sample:
    """Read another image, or return `sample` if that is unreadable: its own pack reports it."""
    try:
        return read_sample(source, None, reading)
    except BadImage:
        return sample


def load_image(image: ImageSpec, spec: PackSpec) -> Patches:
    """Load one image; raise BadImage if it, or an annotation, is unreadable."""
    prep, (h, w), p = spec.preprocessing, image.grid, spec.preprocessing.patch_size
    rng = np.random.default_rng([prep.seed, spec.epoch, image.row, 1])
    # Decoded so large that the smallest random crop, `crop` ** 0.5 of a side, fills the grid.
    crop = prep.augment.min_crop_area / prep.augment.max_crop_aspect
    target = ceil(h * p / crop**0.5), ceil(w * p / crop**0.5)
    sample = read_sample(
        image.source, None if prep.perturbation or prep.full_size_decode else target, prep.reading
    )
    originals = sample.annotations if prep.keep_originals else {}
    if prep.perturbation:
        perturbation_rng = np.random.default_rng([prep.seed, image.row, 5])
        sample = sample.with_pixels(prep.perturbation(sample.pixels, perturbation_rng))
    if image.mosaic_sources:
        others = [_read_or(sample, source, prep.reading) for source in image.mosaic_sources]
        samples = [sample, *others]
        sample = mosaic(samples, (h * p, w * p), rng)
    sample = random_crop(sample, prep.augment, rng).resize((h * p, w * p), prep.resize_filter)
    sample = augment(sample, prep.augment, rng)
    kept = None if image.kept == h * w else kept_tokens(h * w, image.kept, rng)
    key = image.source.key
    patches = patchify(sample.pixels, p, kept=kept, key=key, targets=image.targets)
    for name, annotation in sample.annotations.items():
        patches = annotation.attach(patches, sample.size, originals.get(name))
    return patches


def load_clip(clip: ClipSpec, spec: PackSpec) -> ClipPatches:
    """Load one clip; raise BadImage if it is unreadable."""
    prep, (h, w) = spec.preprocessing, clip.grid
    assert prep.clip_sampling is not None
    size = h * prep.patch_size, w * prep.patch_size
    frames = []
    for pixels in decode_frames(
        clip.path, clip.frames, clip.rate, key=clip.key, reading=prep.reading
    ):
        rng = np.random.default_rng([prep.seed, spec.epoch, clip.row, 1])
        if prep.perturbation:
            pixels = prep.perturbation(pixels, np.random.default_rng([prep.seed, clip.row, 5]))
        sample = random_crop(Sample(pixels), prep.augment, rng).resize(size, prep.resize_filter)
        frames.append(augment(sample, prep.augment, rng).pixels)
    stack, shapes = np.stack(frames), prep.clip_sampling.tubelets
    rng = np.random.default_rng([prep.seed, spec.epoch, clip.row, 9])
    # Counted again: a quarter turn changes how many non-square tubelets fit.
    grid = np.array([[side // prep.patch_size for side in stack.shape[1:3]]])
    total = int(count_tubelets(np.array([len(stack)]), grid, shapes)[0])
    kept = None if clip.kept >= total else kept_tokens(total, clip.kept, rng)
    return cut_tubelets(stack, shapes, kept=kept, key=clip.key, targets=clip.targets)
