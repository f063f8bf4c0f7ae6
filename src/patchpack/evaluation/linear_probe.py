"""What are the frozen features worth? A linear classifier from few images of each class."""

from collections.abc import Sequence

from patchpack.inference.measure import EvalData
from patchpack.evaluation.output_cache import EvalCondition, OutputCache
from patchpack.metrics.linear_probe import few_shot
from patchpack.visualize.section import Section, Table

SHOTS = (1, 5, 10)


def fewshot(cache: OutputCache, train: EvalData, budgets: Sequence[int]) -> Section:
    """Few-shot accuracy at each budget, from the features of the training split."""
    rows, numbers = [], {}
    for tokens in budgets:
        known, asked = (
            cache.outputs(EvalCondition(tokens), train),
            cache.outputs(EvalCondition(tokens)),
        )
        if known.features is None or asked.features is None:
            raise ValueError("this model gives no features")
        found = few_shot(known.features, known.labels, asked.features, asked.labels, shots=SHOTS)
        rows.append([str(tokens), *(f"{100 * f.mean:.1f} ± {100 * f.spread:.1f} %" for f in found)])
        numbers[str(tokens)] = {
            str(f.shots): {"mean": f.mean, "spread": f.spread, "classes": f.classes} for f in found
        }
    return Section(
        name="fewshot",
        title="Few-shot linear evaluation",
        text=[
            "Top-1 of ridge regression on frozen features of a few training images of each class, "
            "mean and standard deviation over three draws (arXiv 2307.06304, §4.1). The features "
            "are of a model trained on these classes, unless the data are others'."
        ],
        tables=[Table(["tokens", *(f"{n} of each class" for n in SHOTS)], rows)],
        numbers=numbers,
    )
