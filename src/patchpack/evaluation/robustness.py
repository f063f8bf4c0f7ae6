"""How much of its accuracy does the model keep when images change?

Crops and resizes (arXiv 2307.06304, Table 5), other aspect ratios, lost detail, the corruptions of
ImageNet-C, and another rendition of the same classes.
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
from patchpack.inference.measure import EvalData
from patchpack.evaluation.output_cache import EvalCondition, OutputCache
from patchpack.visualize.plots import draw_bars
from patchpack.visualize.section import Section, Table

STRETCHES = (0.5, 0.7, 1.4, 2.0)
DETAIL = (0.5, 0.25, 0.125)  # of the median side


def robustness(
    cache: OutputCache,
    tokens: int,
    severities: Sequence[int] = SEVERITIES,
    shifted: EvalData | None = None,
) -> Section:
    """Accuracy at one budget, of images as they are and of altered ones."""
    plain = cache.outputs(EvalCondition(tokens)).top1
    index = cache.data.index
    side = float(np.median(np.sqrt(index.heights.astype(float) * index.widths)))
    shifts: dict[str, list[Perturbation]] = {
        "protocol": [CenterCrop(0.875), CenterCrop(0.75)],
        "aspect": [AspectChange(factor) for factor in STRETCHES],
        "detail": [Downsample(max(1, round(side * share))) for share in DETAIL],
    }
    rows = [["as they are", f"{plain:.1%}", ""]]
    found: dict[str, dict[str, float]] = {}
    for kind, many in shifts.items():
        found[kind] = {}
        for perturbation in many:
            top1 = cache.outputs(EvalCondition(tokens, perturbation=perturbation)).top1
            found[kind][perturbation.name] = top1
            rows.append([perturbation.name, f"{top1:.1%}", f"{100 * (top1 - plain):+.1f}"])
    if shifted is not None:
        top1 = cache.outputs(EvalCondition(tokens), shifted).top1
        found["shifted"] = {shifted.index.root.name: top1}
        rows.append([f"images of {shifted.index.root.name}", f"{top1:.1%}",
                     f"{100 * (top1 - plain):+.1f}"])  # fmt: skip
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
        [kind, *(f"{top1:.1%}" for top1 in by.values()), f"{means[kind]:.1%}"]
        for kind, by in corrupted.items()
    ]
    return Section(
        name="robustness",
        title="Robustness",
        text=[
            f"At {tokens} tokens: {plain:.1%} of the images as they are, {mean:.1%} of corrupted "
            f"ones, the mean over {len(corrupted)} kinds and {len(severities)} severities, which "
            f"keeps {mean / plain if plain else 0:.0%} of it.",
            "A centre crop is how square models are often judged; the paper's NaViT sees images "
            "whole, resized (Table 5), as here wherever no crop is named.",
        ],
        tables=[
            Table(["images", "top-1", "points"], rows),
            Table(["corruption", *(f"severity {s}" for s in severities), "mean"], cells),
        ],
        pictures=[
            draw_bars(corrupted, "top-1 (%)",
                      "Corruptions by severity; dotted: images as they are.", plain)
        ],
        numbers={
            "tokens": tokens, "plain": plain, "shifts": found, "corrupted": corrupted,
            "mean_corrupted": mean,
        },
    )  # fmt: skip


def mean_corruption_error(
    corrupted: dict[str, dict[str, float]], baseline: dict[str, dict[str, float]]
) -> float | None:
    """Mean over corruptions of Σ errors ÷ Σ of the baseline's, both over severities.

    Hendrycks & Dietterich (arXiv 1903.12261), §4.3; 1 is the baseline's own. Corruptions that the
    baseline makes no error under are left out; None where that is all of them.
    """
    ratios = []
    for kind, by in corrupted.items():
        errors, own = (sum(1 - top1 for top1 in x.values()) for x in (by, baseline[kind]))
        if own > 0:
            ratios.append(errors / own)
    return float(np.mean(ratios)) if ratios else None
