"""Few-shot suite: linear classifiers on frozen features of a few images per class."""

from collections.abc import Sequence

from patchpack.evaluation.output_cache import EvalCondition, OutputCache
from patchpack.inference.measure import EvalData
from patchpack.metrics.linear_probe import few_shot
from patchpack.metrics.undefined import shown
from patchpack.visualize.section import Section, Table

SHOTS = (1, 5, 10)  # training images per class


def fewshot(cache: OutputCache, train: EvalData, budgets: Sequence[int]) -> Section:
    """Measure few-shot accuracy at each token budget.

    train  split that the few training images are drawn from

    Raise ValueError if the model returns no features.
    """
    rows, numbers = [], {}
    for tokens in budgets:
        fit = cache.outputs(EvalCondition(tokens), train)
        test = cache.outputs(EvalCondition(tokens))
        if fit.features is None or test.features is None:
            raise ValueError("few-shot evaluation needs features, which this model does not return")
        results = few_shot(fit.features, fit.labels, test.features, test.labels, shots=SHOTS)
        cells = (
            f"{shown(100 * r.mean, '.1f')} ± {shown(100 * r.spread, '.1f')} %" for r in results
        )
        rows.append([str(tokens), *cells])
        numbers[str(tokens)] = {
            str(r.shots): {"mean": r.mean, "spread": r.spread, "classes": r.classes}
            for r in results
        }
    return Section(
        name="fewshot",
        title="Few-shot linear evaluation",
        text=[
            "Top-1 of ridge regression on frozen features of a few training images per class, mean "
            "± standard deviation over three draws (arXiv 2307.06304, §4.1). On the run's own "
            "data, the backbone was trained on the same classes."
        ],
        tables=[Table(["tokens", *(f"{n}-shot" for n in SHOTS)], rows)],
        numbers=numbers,
    )
