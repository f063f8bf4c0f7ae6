"""A run's best weights on labelled images, at several token budgets."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from patchpack.batch import PackedBatch
from patchpack.data.bad_images import BadImages
from patchpack.data.index import Index, build_index
from patchpack.data.layouts import BadDataset
from patchpack.evaluate.classification import Counts, classify
from patchpack.model.navit import forward_flops
from patchpack.packs import evaluation_packs
from patchpack.run import load_config
from patchpack.serve.predictor import PACK_TOKENS, Predictor
from patchpack.train.loop import TrainingError


@dataclass(frozen=True)
class BudgetResult:
    """What a run's best weights do at one token budget."""

    max_tokens: int  # most tokens of an image
    counts: Counts
    gflops_per_image: float  # of a forward pass, the mean
    images_per_s: float  # loading included
    unreadable: tuple[str, ...]


def evaluate_run(
    predictor: Predictor,
    folder: Path,
    *,
    data: Path | None,
    split: str,
    budgets: Sequence[int],
    max_bad_fraction: float | None,
) -> list[BudgetResult]:
    """Accuracy on one split at each budget, of the run's own data or of another folder.

    Another folder's classes must all be known to the model; raises BadDataset where one is not,
    and where more than `max_bad_fraction` of the images cannot be read (the run's own, when None).
    """
    config = load_config(folder).data
    if max_bad_fraction is None:
        max_bad_fraction = config.max_bad_fraction
    root = data or config.root
    if root is None:
        raise TrainingError(f"{folder} does not say where its data are: give --data")
    index = build_index(root, max_bad_fraction=max_bad_fraction)
    chosen = index.split(split)
    index = _relabel(chosen, predictor.card.classes)
    bad = BadImages(index.root, index.label_of, max_bad_fraction)
    return [_evaluate_budget(predictor, index, tokens, bad) for tokens in budgets]


def _evaluate_budget(
    predictor: Predictor, index: Index, tokens: int, bad: BadImages
) -> BudgetResult:
    card = predictor.card
    packs = evaluation_packs(
        index,
        card.model,
        resolution=card.resolution,
        tokens=tokens,
        max_tokens=PACK_TOKENS,
    )
    flops = 0

    def batches() -> Iterator[PackedBatch]:
        nonlocal flops
        for pack in packs:
            flops += forward_flops(card.model, pack.batch.lengths)
            bad.add(pack.bad)
            yield pack.batch

    began = time.perf_counter()
    counts = classify(lambda batch: predictor.forward(batch)[1], batches(), len(card.classes))
    seconds = time.perf_counter() - began
    if not counts.images:
        raise BadDataset(f"no image of {index.root} has a label that could be judged")
    images = counts.images
    unreadable = tuple(f"{key}: {reason}" for key, reason in bad.reasons.items())
    return BudgetResult(tokens, counts, flops / images / 1e9, images / seconds, unreadable)


def _relabel(index: Index, classes: tuple[str, ...]) -> Index:
    """Number labels as the model does."""
    numbers = {name: i for i, name in enumerate(classes)}
    used = {index.classes[label] for label in index.labels if label >= 0}
    foreign = sorted(used - set(classes))
    if foreign:
        raise BadDataset(f"{index.root} has classes that the model was not trained on: {foreign}")
    table = np.array([numbers.get(name, -1) for name in index.classes] + [-1])
    return replace(index, labels=table[index.labels], classes=classes)
