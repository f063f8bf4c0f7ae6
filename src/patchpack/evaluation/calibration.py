"""Calibration suite: ECE, NLL and Brier score at each token budget (arXiv 2307.06304, Table 4)."""

import math
from collections.abc import Sequence

import numpy as np

from patchpack.evaluation.output_cache import EvalCondition, OutputCache
from patchpack.metrics.calibration import (
    BINS,
    adaptive_bins,
    brier_score,
    even_bins,
    fit_temperature,
    negative_log_likelihood,
    sigmoid,
    sigmoid_negative_log_likelihood,
)
from patchpack.metrics.outputs import Predictions
from patchpack.metrics.undefined import ratio, shown
from patchpack.visualize.plots import draw_reliability
from patchpack.visualize.section import Section, Table

MEASURES = ("top1", "confidence", "ece", "adaptive_ece", "nll", "brier")


def measure(outputs: Predictions, temperature: float = 1.0) -> dict[str, float]:
    """Return all calibration metrics of one set of predictions; NaN for undefined ones."""
    p = outputs.probabilities(temperature)
    if p.shape[1] < 2:  # a single class cannot be missed
        return dict.fromkeys(MEASURES, math.nan)
    confidence, correct = p.max(1), outputs.correct
    return {
        "top1": outputs.top1,
        "confidence": ratio(float(confidence.sum()), len(confidence)),
        "ece": even_bins(confidence, correct).error,
        "adaptive_ece": adaptive_bins(confidence, correct).error,
        "nll": _nll(outputs, p, temperature),
        "brier": brier_score(p, outputs.labels),
    }


def _nll(outputs: Predictions, p: np.ndarray, temperature: float) -> float:
    if outputs.link is sigmoid:
        return sigmoid_negative_log_likelihood(outputs.logits, outputs.labels, temperature)
    return negative_log_likelihood(p, outputs.labels)


def calibration(
    cache: OutputCache, budgets: Sequence[int], temperature: float | None = None
) -> Section:
    """Measure calibration at each budget, without and with temperature scaling.

    temperature  fitted temperature; None: no temperature scaling
    """
    predictions = {tokens: cache.outputs(EvalCondition(tokens)) for tokens in budgets}
    plain = {tokens: measure(outputs) for tokens, outputs in predictions.items()}
    header = ["tokens", "top-1", "mean confidence", "ECE", "adaptive ECE", "NLL", "Brier"]
    tables = [Table(header, [_row(str(t), m) for t, m in plain.items()])]
    numbers: dict = {"bins": BINS, "budgets": {str(t): m for t, m in plain.items()}}
    errors = [m["ece"] for m in plain.values()]
    text = [
        f"Expected calibration error of top-1 (ECE, {BINS} bins) over all budgets: "
        f"{shown(min(errors), '.3f')} to {shown(max(errors), '.3f')}. NaViT in the paper: 0.045 to "
        "0.048 at 128 to 1,024 tokens."
    ]
    if temperature is not None:
        scaled = {tokens: measure(outputs, temperature) for tokens, outputs in predictions.items()}
        tables.append(Table(header, [_row(str(t), m) for t, m in scaled.items()]))
        numbers |= {
            "temperature": temperature, "scaled": {str(t): m for t, m in scaled.items()}
        }  # fmt: skip
        text.append(
            f"Second table: temperature scaling with {temperature:.3f}, fitted on the validation "
            "split at the token budget of `predict` and saved with the model."
        )
    return Section(
        name="calibration",
        title="Calibration",
        text=text,
        tables=tables,
        pictures=[
            draw_reliability({f"{t} tokens": o for t, o in predictions.items()}, temperature)
        ],
        numbers=numbers,
    )


def temperature_of(cache: OutputCache, tokens: int) -> float:
    """Fit the temperature on the images of a cache at one token budget."""
    outputs = cache.outputs(EvalCondition(tokens))
    return fit_temperature(outputs.logits, outputs.labels, outputs.link)


def _row(name: str, m: dict[str, float]) -> list[str]:
    forms = {"top1": ".1%", "confidence": ".1%"}
    return [name, *(shown(m[key], forms.get(key, ".3f")) for key in MEASURES)]
