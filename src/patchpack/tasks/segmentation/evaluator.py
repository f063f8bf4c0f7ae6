"""Is the class of every pixel right?"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from patchpack.batch import IGNORE_INDEX
from patchpack.data.annotations.masks import Masks, attach_masks, read_mask
from patchpack.data.bad_images import BadImages
from patchpack.data.images import BadImage, decode
from patchpack.data.packing.resolution import Native
from patchpack.data.records import BadDataset
from patchpack.evaluation.run_data import Cost, Data, packed
from patchpack.metrics.segmentation import ConfusionMatrix, count_pixels
from patchpack.tasks.segmentation.predictor import SegmentationPredictor
from patchpack.tasks.segmentation.sliding_window import windows


@dataclass(frozen=True, kw_only=True)
class PixelResult(Cost):
    """How well pixels were told apart at one token budget."""

    counts: ConfusionMatrix


def segment_at(
    model: SegmentationPredictor,
    data: Data,
    budgets: Sequence[int],
    *,
    sliding_window: bool = False,
) -> list[PixelResult]:
    """IoU at each budget, of every pixel at the native size of its image.

    windowed  large images keep their size, and are seen through windows of so many tokens

    Raises BadDataset for data without masks, and where too many images cannot be used.
    """
    task, labels = model.spec.task, len(model.names)
    index, alone = attach_masks(data.index, labels, task.ignore_index)  # pyrefly: ignore
    bad = data.bad_images()
    bad.add(alone)
    look = _windowed if sliding_window else _whole
    results = []
    for tokens in budgets:
        counts, images, flops = ConfusionMatrix.none(labels), 0, 0
        began = time.perf_counter()
        for found, mask, spent in look(model, replace(data, index=index), bad, tokens):
            counts += count_pixels(found, mask, labels, IGNORE_INDEX)
            images, flops = images + 1, flops + spent
        seconds = time.perf_counter() - began
        if not images:
            raise BadDataset(f"no image of {index.root} can be read")
        results.append(
            PixelResult(
                max_tokens=tokens,
                gflops_per_image=flops / images / 1e9,
                images_per_s=images / seconds,
                unreadable=tuple(f"{key}: {reason}" for key, reason in bad.reasons.items()),
                counts=counts,
            )
        )
    return results


Judgement = tuple[Tensor, Tensor, int]  # the classes found, the mask, and operations spent


def _whole(
    model: SegmentationPredictor, data: Data, bad: BadImages, tokens: int
) -> Iterator[Judgement]:
    for batch in packed(model, data, bad, tokens=tokens):
        masks = batch.targets.get("mask", [])
        found = model.masks(batch, [mask.shape for mask in masks])
        for length, mine, mask in zip(batch.lengths, found, masks, strict=True):
            yield mine, mask, model.model.flops([length])


def _windowed(
    model: SegmentationPredictor, data: Data, bad: BadImages, tokens: int
) -> Iterator[Judgement]:
    index, p = data.index, model.spec.model.patch_size
    masks = index.annotation(Masks)
    for number, key in enumerate(index.keys):
        try:
            pixels = decode(index.path(number), key=key)
            mask = read_mask(masks.spec(index.root, number), pixels.shape[:2], key)
        except BadImage as error:
            bad.add([error])
            continue
        (found,) = model.predict([pixels], max_tokens=tokens, sliding_window=True)
        sides = np.array([w[2:] for w in windows(pixels.shape[:2], p, tokens)])
        grids = Native().grids(
            *sides.T, patch_size=p, max_tokens=tokens, rng=np.random.default_rng(0),
            max_side=model.spec.model.positions.max_side,
        )  # fmt: skip
        lengths = grids.prod(1).tolist()
        yield torch.from_numpy(found.mask), torch.from_numpy(mask), model.model.flops(lengths)
