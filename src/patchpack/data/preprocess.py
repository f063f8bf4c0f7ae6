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
from patchpack.data.spec import ClipSpec, ImageSpec, PackSpec, Source
from patchpack.data.transforms.augment import augment, random_crop
from patchpack.data.transforms.mosaic import mosaic
from patchpack.data.transforms.sample import Scene
from patchpack.data.video.decode import decode_frames
from patchpack.data.video.tubelets import count_tubelets, cut_tubelets


def read_scene(source: Source, target: tuple[int, int] | None) -> Scene:
    """An image with its mask and objects; raises BadImage for what cannot be read.

    target  (height, width) that a JPEG may be decoded near; places in it are known to the pixel
            where there is a mask or an object, so then it is decoded whole
    """
    exact = source.mask or source.objects
    pixels = decode(source.path, key=source.key, target=None if exact else target)
    mask = read_mask(source.mask, pixels.shape[:2], source.key) if source.mask else None
    return Scene(pixels, mask, source.objects)


def _read_or(scene: Scene, other: Source) -> Scene:
    """Another image, or the same again where that cannot be read: it is named in its own turn."""
    try:
        return read_scene(other, None)
    except BadImage:
        return scene


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
        scenes = [scene, *(_read_or(scene, other) for other in image.others)]
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


def load_clip(clip: ClipSpec, spec: PackSpec) -> ClipPatches:
    todo, (h, w) = spec.treatment, clip.grid
    assert todo.showing is not None
    size = h * todo.patch_size, w * todo.patch_size
    frames = []
    for pixels in decode_frames(clip.path, clip.frames, clip.rate, key=clip.key):
        rng = np.random.default_rng([todo.seed, spec.epoch, clip.number, 1])
        if todo.alter:
            pixels = todo.alter(pixels, np.random.default_rng([todo.seed, clip.number, 5]))
        scene = random_crop(Scene(pixels), todo.augment, rng).resized(size)
        frames.append(augment(scene, todo.augment, rng).pixels)
    stack, shapes = np.stack(frames), todo.showing.tubelets
    rng = np.random.default_rng([todo.seed, spec.epoch, clip.number, 9])
    # Counted anew: a quarter turn changes how many tubelets fit that are not square.
    grid = np.array([[side // todo.patch_size for side in stack.shape[1:3]]])
    total = int(count_tubelets(np.array([len(stack)]), grid, shapes)[0])
    kept = None if clip.kept >= total else kept_tokens(total, clip.kept, rng)
    return cut_tubelets(stack, shapes, kept=kept, key=clip.key, targets=clip.targets)
