"""Is the model right as often as it says? At every token budget (arXiv 2307.06304, Table 4)."""

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
from patchpack.visualize.plots import draw_reliability
from patchpack.visualize.section import Section, Table


def measure(outputs: Predictions, temperature: float = 1.0) -> dict[str, float]:
    """All figures of one way of showing images."""
    p = outputs.probabilities(temperature)
    confidence, correct = p.max(1), outputs.correct
    return {
        "top1": outputs.top1,
        "confidence": float(confidence.mean()),
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
    """Calibration at each budget, as trained and, where a temperature was fitted, with it."""
    found = {tokens: cache.outputs(EvalCondition(tokens)) for tokens in budgets}
    plain = {tokens: measure(outputs) for tokens, outputs in found.items()}
    header = ["tokens", "top-1", "mean confidence", "ECE", "adaptive ECE", "NLL", "Brier"]
    tables = [Table(header, [_row(str(t), m) for t, m in plain.items()])]
    numbers: dict = {"bins": BINS, "budgets": {str(t): m for t, m in plain.items()}}
    errors = [m["ece"] for m in plain.values()]
    text = [
        f"Top-1 calibration error in {BINS} bins (ECE) over all budgets: {min(errors):.3f} to "
        f"{max(errors):.3f}. The paper's model has 0.045 to 0.048 over 128 to 1,024 tokens."
    ]
    if temperature is not None:
        scaled = {tokens: measure(outputs, temperature) for tokens, outputs in found.items()}
        tables.append(Table(header, [_row(str(t), m) for t, m in scaled.items()]))
        numbers |= {
            "temperature": temperature, "scaled": {str(t): m for t, m in scaled.items()}
        }  # fmt: skip
        text.append(
            f"The second table is with logits divided by {temperature:.3f}, fitted on the "
            "validation split at the tokens that predict uses, and kept with the model for it."
        )
    return Section(
        name="calibration",
        title="Calibration",
        text=text,
        tables=tables,
        pictures=[draw_reliability({f"{t} tokens": o for t, o in found.items()}, temperature)],
        numbers=numbers,
    )


def temperature_of(cache: OutputCache, tokens: int) -> float:
    """The temperature that fits these images at one budget."""
    outputs = cache.outputs(EvalCondition(tokens))
    return fit_temperature(outputs.logits, outputs.labels, outputs.link)


def _row(name: str, m: dict[str, float]) -> list[str]:
    return [name, f"{m['top1']:.1%}", f"{m['confidence']:.1%}", f"{m['ece']:.3f}",
            f"{m['adaptive_ece']:.3f}", f"{m['nll']:.3f}", f"{m['brier']:.3f}"]  # fmt: skip
