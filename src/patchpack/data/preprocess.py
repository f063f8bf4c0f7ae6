"""From a spec to patches: decode, crop, resize, augment, cut up, drop.

Every random number of an image follows from the seed, the epoch and its number in its index. All
frames of a clip are treated with the same numbers, so that nothing moves but what moved; contrast
turns about the mean of each.
"""

from dataclasses import replace
from math import ceil

import numpy as np
import torch

from patchpack.batch import ClipPatches, Patches
from patchpack.data.annotations.masks import read_mask
from patchpack.data.images import BadImage, decode
from patchpack.data.packing.dropping import kept_tokens
from patchpack.data.patchify import patchify
from patchpack.data.spec import ClipSpec, ImageSource, ImageSpec, PackSpec
from patchpack.data.transforms.augment import augment, random_crop
from patchpack.data.transforms.mosaic import mosaic
from patchpack.data.transforms.sample import Sample
from patchpack.data.video.decode import decode_frames
from patchpack.data.video.tubelets import count_tubelets, cut_tubelets


def read_sample(source: ImageSource, target: tuple[int, int] | None) -> Sample:
    """An image with its mask and objects; raises BadImage for what cannot be read.

    target  (height, width) that a JPEG may be decoded near; places in it are known to the pixel
            where there is a mask or an object, so then it is decoded whole
    """
    exact = source.mask or source.objects
    pixels = decode(source.path, key=source.key, target=None if exact else target)
    mask = read_mask(source.mask, pixels.shape[:2], source.key) if source.mask else None
    return Sample(pixels, mask, source.objects)


def _read_or(sample: Sample, other: ImageSource) -> Sample:
    """Another image, or the same again where that cannot be read: it is named in its own turn."""
    try:
        return read_sample(other, None)
    except BadImage:
        return sample


def load_image(image: ImageSpec, spec: PackSpec) -> Patches:
    prep, (h, w) = spec.preprocessing, image.grid
    crop = (
        prep.augment.min_crop_area / prep.augment.max_crop_aspect
    )  # a window's shorter side, squared
    rng = np.random.default_rng([prep.seed, spec.epoch, image.number, 1])
    p = prep.patch_size
    # Decoded at a fraction of its size only where the smallest crop still has pixels enough.
    whole = ceil(h * p / crop**0.5), ceil(w * p / crop**0.5)
    sample = read_sample(image.source, None if prep.perturbation else whole)
    mask = sample.mask
    if prep.perturbation:
        drawn = np.random.default_rng([prep.seed, image.number, 5])
        sample = sample.with_pixels(prep.perturbation(sample.pixels, drawn))
    if image.mosaic_sources:
        samples = [sample, *(_read_or(sample, other) for other in image.mosaic_sources)]
        sample = mosaic(samples, (h * p, w * p), rng)
    sample = random_crop(sample, prep.augment, rng).resized((h * p, w * p))
    sample = augment(sample, prep.augment, rng)
    targets = image.targets
    if mask is not None:
        seen = np.require(
            mask if prep.keep_original_masks else sample.mask, requirements=["C", "W"]
        )
        targets = targets | {"mask": torch.from_numpy(seen)}
    if sample.objects is not None:
        height, width = sample.size
        boxes = sample.objects.scaled(1 / height, 1 / width).boxes
        labels = torch.from_numpy(sample.objects.labels)
        targets = targets | {"boxes": torch.from_numpy(boxes), "box_labels": labels}
    key = image.source.key
    kept = None if image.kept == h * w else kept_tokens(h * w, image.kept, rng)
    patches = patchify(sample.pixels, p, kept=kept, key=key, targets=targets)
    if image.text is None:
        return patches
    return replace(patches, text=torch.from_numpy(image.text))


def load_clip(clip: ClipSpec, spec: PackSpec) -> ClipPatches:
    prep, (h, w) = spec.preprocessing, clip.grid
    assert prep.clip_sampling is not None
    size = h * prep.patch_size, w * prep.patch_size
    frames = []
    for pixels in decode_frames(clip.path, clip.frames, clip.rate, key=clip.key):
        rng = np.random.default_rng([prep.seed, spec.epoch, clip.number, 1])
        if prep.perturbation:
            pixels = prep.perturbation(pixels, np.random.default_rng([prep.seed, clip.number, 5]))
        sample = random_crop(Sample(pixels), prep.augment, rng).resized(size)
        frames.append(augment(sample, prep.augment, rng).pixels)
    stack, shapes = np.stack(frames), prep.clip_sampling.tubelets
    rng = np.random.default_rng([prep.seed, spec.epoch, clip.number, 9])
    # Counted anew: a quarter turn changes how many tubelets fit that are not square.
    grid = np.array([[side // prep.patch_size for side in stack.shape[1:3]]])
    total = int(count_tubelets(np.array([len(stack)]), grid, shapes)[0])
    kept = None if clip.kept >= total else kept_tokens(total, clip.kept, rng)
    return cut_tubelets(stack, shapes, kept=kept, key=clip.key, targets=clip.targets)
