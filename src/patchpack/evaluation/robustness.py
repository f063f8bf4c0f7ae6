"""Robustness suite: accuracy under perturbations, corruptions and distribution shift.

Center crops (arXiv 2307.06304, Table 5), aspect changes, downsampling, the corruptions of
ImageNet-C, and a second dataset with the same classes.
"""

from collections.abc import Sequence

import numpy as np

from patchpack.data.transforms.corruptions import CORRUPTIONS, SEVERITIES
from patchpack.data.transforms.perturbations import (
    AspectChange,
    CenterCrop,
    Corrupt,
    Downsample,
    Perturbation,
)
from patchpack.evaluation.output_cache import EvalCondition, OutputCache
from patchpack.inference.measure import EvalData
from patchpack.metrics.undefined import defined, ratio, shown
from patchpack.visualize.plots import draw_bars
from patchpack.visualize.section import Section, Table

ASPECT_FACTORS = (0.5, 0.7, 1.4, 2.0)  # multiply width / height
DOWNSAMPLE_SIDES = (0.5, 0.25, 0.125)  # fractions of the median image side


def robustness(
    cache: OutputCache,
    tokens: int,
    severities: Sequence[int] = SEVERITIES,
    shifted: EvalData | None = None,
) -> Section:
    """Measure top-1 at one token budget on clean, perturbed and corrupted images.

    severities  corruption severities, 1 to 5
    shifted     a dataset with the same classes and another appearance; None: not evaluated
    """
    plain = cache.outputs(EvalCondition(tokens)).top1
    index = cache.data.index
    side = float(np.median(np.sqrt(index.heights.astype(float) * index.widths)))
    shifts: dict[str, list[Perturbation]] = {
        "protocol": [CenterCrop(0.875), CenterCrop(0.75)],
        "aspect": [AspectChange(factor) for factor in ASPECT_FACTORS],
        "detail": [Downsample(max(1, round(side * share))) for share in DOWNSAMPLE_SIDES],
    }
    rows = [["clean", shown(plain, ".1%"), ""]]
    by_shift: dict[str, dict[str, float]] = {}
    for kind, perturbations in shifts.items():
        by_shift[kind] = {}
        for perturbation in perturbations:
            top1 = cache.outputs(EvalCondition(tokens, perturbation=perturbation)).top1
            by_shift[kind][perturbation.name] = top1
            rows.append(
                [perturbation.name, shown(top1, ".1%"), shown(100 * (top1 - plain), "+.1f")]
            )
    if shifted is not None:
        top1 = cache.outputs(EvalCondition(tokens), shifted).top1
        by_shift["shifted"] = {shifted.index.root.name: top1}
        rows.append([f"images of {shifted.index.root.name}", shown(top1, ".1%"),
                     shown(100 * (top1 - plain), "+.1f")])  # fmt: skip
    corrupted = {
        kind: {
            str(s): cache.outputs(EvalCondition(tokens, perturbation=Corrupt(kind, s))).top1
            for s in severities
        }
        for kind in CORRUPTIONS
    }
    means = {kind: float(np.mean(list(by.values()))) for kind, by in corrupted.items()}
    mean = float(np.mean(list(means.values())))
    cells = [
        [kind, *(shown(top1, ".1%") for top1 in by.values()), shown(means[kind], ".1%")]
        for kind, by in corrupted.items()
    ]
    bars = {
        kind: {f"severity {s}": top1 for s, top1 in by.items()} for kind, by in corrupted.items()
    }
    return Section(
        name="robustness",
        title="Robustness",
        text=[
            f"Top-1 at {tokens} tokens: {shown(plain, '.1%')} on clean images, "
            f"{shown(mean, '.1%')} on corrupted images (mean over {len(corrupted)} corruptions and "
            f"{len(severities)} severities), "
            f"{shown(ratio(mean, plain), '.0%')} of the clean accuracy.",
            "Square models are often evaluated on center crops. Like NaViT in the paper (Table 5), "
            "this evaluation resizes whole images, except in rows that name a crop.",
        ],
        tables=[
            Table(["images", "top-1", "change (points)"], rows),
            Table(["corruption", *(f"severity {s}" for s in severities), "mean"], cells),
        ],
        pictures=[
            draw_bars(bars, "top-1 (%)",
                      "Top-1 under corruption by severity. Dotted: clean images.", plain)
        ],
        numbers={
            "tokens": tokens, "plain": plain, "shifts": by_shift, "corrupted": corrupted,
            "mean_corrupted": mean,
        },
    )  # fmt: skip


def mean_corruption_error(
    corrupted: dict[str, dict[str, float]], baseline: dict[str, dict[str, float]]
) -> float | None:
    """Return mCE: the mean over corruptions of Σ error / Σ baseline error over severities.

    corrupted, baseline  top-1 in [0, 1] by corruption and severity

    Hendrycks & Dietterich (arXiv 1903.12261), §4.3. In [0, ∞); lower is better; the baseline itself
    has 1. Corruptions without baseline errors are left out: their ratio is undefined. None where
    none remains, and for undefined accuracies.
    """
    ratios = []
    for kind, by in corrupted.items():
        errors, baseline_errors = (
            sum(1 - top1 for top1 in x.values()) for x in (by, baseline[kind])
        )
        if baseline_errors:
            ratios.append(ratio(errors, baseline_errors))
    mean = ratio(sum(ratios), len(ratios))
    return mean if defined(mean) else None
