"""Plots of evaluation suites: accuracy over cost, cascades, reliability, bars, intervals.

Needs the extra `report` (matplotlib). Figures of a training run are in `figures.py`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from patchpack.metrics.calibration import even_bins
from patchpack.metrics.operating_points import MeasuredPoint, frontier
from patchpack.metrics.outputs import Predictions
from patchpack.visualize.html import Picture
from patchpack.visualize.style import COLORS, figure_to_png, style_axes, use_log_x

RELIABILITY_BINS = 10


def draw_reliability(outputs: Mapping[str, Predictions], temperature: float | None) -> Picture:
    """Draw reliability diagrams, without and with temperature scaling.

    outputs      predictions by the label of their line
    temperature  None: only the panel without scaling
    """
    panels = {"uncalibrated": 1.0}
    if temperature:
        panels["temperature-scaled"] = temperature
    figure = Figure(figsize=(4.6 * len(panels), 4), layout="constrained")
    for axes, (title, divisor) in zip(
        np.atleast_1d(figure.subplots(1, len(panels), sharey=True)), panels.items(), strict=True
    ):
        axes.plot([0, 1], [0, 1], color="#888", lw=1, ls=":")
        for number, (name, o) in enumerate(outputs.items()):
            bins = even_bins(o.probabilities(divisor).max(1), o.correct, RELIABILITY_BINS)
            axes.plot(bins.confidence, bins.accuracy, marker="o", ms=4, label=name,
                      color=COLORS[number % len(COLORS)])  # fmt: skip
        axes.set_title(title, fontsize=10)
        style_axes(axes, "confidence", "")
    figure.axes[0].set_ylabel("accuracy")
    figure.axes[0].legend(frameon=False, fontsize=8)
    caption = "Reliability diagram. On the dotted line, accuracy equals confidence."
    return Picture(figure_to_png(figure), caption)


def draw_accuracy_over_cost(
    curves: Mapping[str, Sequence[tuple[float, float]]], x_label: str, caption: str
) -> Picture:
    """Draw one line per model or evaluation condition.

    curves  (cost, top-1 in [0, 1]) points by the label of their line, in any order
    """
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    for number, (name, points) in enumerate(curves.items()):
        costs, accuracies = zip(*sorted(points, key=lambda p: p[0]), strict=True)
        axes.plot(costs, [100 * value for value in accuracies], marker="o", ms=4, label=name,
                  color=COLORS[number % len(COLORS)])  # fmt: skip
    use_log_x(axes)
    style_axes(axes, x_label, "top-1 (%)")
    axes.legend(frameon=False, fontsize=8)
    return Picture(figure_to_png(figure), caption)


def draw_cascades(singles: Sequence[MeasuredPoint], cascades: Sequence[MeasuredPoint]) -> Picture:
    """Draw single token budgets, cascades of two budgets, and the frontier of all points."""
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    if cascades:
        axes.scatter([p.gflops for p in cascades], [100 * p.accuracy for p in cascades], s=8,
                     color=COLORS[0], alpha=0.35, label="cascades")  # fmt: skip
    line = frontier([*singles, *cascades])
    axes.plot([p.gflops for p in line], [100 * p.accuracy for p in line], color=COLORS[0], lw=1,
              label="frontier")  # fmt: skip
    axes.plot([p.gflops for p in singles], [100 * p.accuracy for p in singles], marker="o",
              color=COLORS[1], label="single budgets")  # fmt: skip
    for p in singles:
        axes.annotate(str(p.tokens), (p.gflops, 100 * p.accuracy), fontsize=8,
                      xytext=(3, -10), textcoords="offset points")  # fmt: skip
    use_log_x(axes)
    style_axes(axes, "GFLOP/image", "top-1 (%)")
    axes.legend(frameon=False, fontsize=8)
    caption = "Cascades evaluate the images with the lowest confidence again with more tokens."
    return Picture(figure_to_png(figure), caption)


def draw_bars(
    values: Mapping[str, Mapping[str, float]],
    y_label: str,
    caption: str,
    baseline: float | None = None,
) -> Picture:
    """Draw grouped bars in percent.

    values    values in [0, 1] by group and series
    baseline  value in [0, 1] of a dotted horizontal line
    """
    groups = list(values)
    series = list(next(iter(values.values())))
    figure = Figure(figsize=(max(5.5, 0.75 * len(groups)), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(series)
    for number, name in enumerate(series):
        x = np.arange(len(groups)) + (number - (len(series) - 1) / 2) * width
        axes.bar(x, [100 * values[group].get(name, np.nan) for group in groups], width,
                 color=COLORS[number % len(COLORS)], label=name)  # fmt: skip
    if baseline is not None:
        axes.axhline(100 * baseline, color="#888", lw=1, ls=":")
    axes.set_xticks(range(len(groups)), groups, rotation=40, ha="right", fontsize=8)
    axes.margins(x=0.01)
    style_axes(axes, "", y_label)
    if len(series) > 1:
        figure.legend(frameon=False, fontsize=8, ncols=len(series), loc="outside upper center")
    return Picture(figure_to_png(figure), caption)


def draw_intervals(rows: Mapping[str, tuple[float, float, float]], caption: str) -> Picture:
    """Draw one accuracy per row with its interval: (value, low, high) in [0, 1]."""
    figure = Figure(figsize=(6.5, 0.8 + 0.28 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, (value, low, high) in enumerate(rows.values()):
        axes.plot([100 * low, 100 * high], [y, y], color=COLORS[0], lw=2, alpha=0.5)
        axes.plot(100 * value, y, marker="o", color=COLORS[0])
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    style_axes(axes, "accuracy (%)", "")
    return Picture(figure_to_png(figure), caption)
