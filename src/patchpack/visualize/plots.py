"""What the suites draw. Needs the `report` extra (matplotlib)."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from patchpack.metrics.calibration import even_bins
from patchpack.metrics.operating_points import MeasuredPoint, frontier
from patchpack.metrics.outputs import Predictions
from patchpack.visualize.figures import COLORS, png, style_axes
from patchpack.visualize.html import Picture


def _logarithmic(axes: Axes) -> None:
    """Figures at 1, 2 and 5 of each power of ten."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_reliability(outputs: Mapping[str, Predictions], temperature: float | None) -> Picture:
    """Accuracy over confidence, in ten bins, a line for each budget."""
    kinds = {"as trained": 1.0} | ({"with the temperature": temperature} if temperature else {})
    figure = Figure(figsize=(4.6 * len(kinds), 4), layout="constrained")
    for axes, (title, sharpness) in zip(
        np.atleast_1d(figure.subplots(1, len(kinds), sharey=True)), kinds.items(), strict=True
    ):
        axes.plot([0, 1], [0, 1], color="#888", lw=1, ls=":")
        for number, (name, o) in enumerate(outputs.items()):
            bins = even_bins(o.probabilities(sharpness).max(1), o.correct, 10)
            axes.plot(bins.confidence, bins.accuracy, marker="o", ms=4, label=name,
                      color=COLORS[number % len(COLORS)])  # fmt: skip
        axes.set_title(title, fontsize=10)
        style_axes(axes, "confidence", "")
    figure.axes[0].set_ylabel("accuracy")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return Picture(png(figure), "Reliability: on the dotted line a model is as right as it says.")


def draw_ways(conditions: Mapping[str, Sequence[Predictions]]) -> Picture:
    """Accuracy over operations, a line for each way to spend them."""
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    for colour, (name, many) in zip(COLORS, conditions.items(), strict=False):
        ordered = sorted(many, key=lambda o: o.gflops)
        axes.plot([o.gflops for o in ordered], [100 * o.top1 for o in ordered], marker="o", ms=4,
                  color=colour, label=name)  # fmt: skip
    _logarithmic(axes)
    style_axes(axes, "GFLOP an image", "top-1 (%)")
    axes.legend(frameon=False)
    return Picture(png(figure), "One checkpoint, shown images in different ways.")


def draw_cascades(singles: Sequence[MeasuredPoint], cascades: Sequence[MeasuredPoint]) -> Picture:
    """Single budgets, cascades of two, and the frontier of all."""
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
    _logarithmic(axes)
    style_axes(axes, "GFLOP an image", "top-1 (%)")
    axes.legend(frameon=False)
    return Picture(png(figure), "Asking the least sure again, with more tokens.")


def draw_bars(
    values: Mapping[str, Mapping[str, float]], y: str, caption: str, baseline: float | None = None
) -> Picture:
    """A group of bars for each name, a bar for each series, as percentages."""
    names = list(values)
    series = list(next(iter(values.values())))
    figure = Figure(figsize=(max(5.5, 0.75 * len(names)), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(series)
    for number, kind in enumerate(series):
        places = np.arange(len(names)) + (number - (len(series) - 1) / 2) * width
        axes.bar(places, [100 * values[name].get(kind, np.nan) for name in names], width,
                 color=COLORS[number % len(COLORS)], label=kind)  # fmt: skip
    if baseline is not None:
        axes.axhline(100 * baseline, color="#888", lw=1, ls=":")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    style_axes(axes, "", y)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8, ncols=min(5, len(series)))
    return Picture(png(figure), caption)


def draw_gaps(rows: Mapping[str, tuple[float, float, float]], caption: str) -> Picture:
    """Values with their intervals, one below the other: (value, low, high) in 0..1."""
    figure = Figure(figsize=(6.5, 0.8 + 0.28 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, (value, low, high) in enumerate(rows.values()):
        axes.plot([100 * low, 100 * high], [place, place], color=COLORS[0], lw=2, alpha=0.5)
        axes.plot(100 * value, place, marker="o", color=COLORS[0])
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axes.invert_yaxis()
    style_axes(axes, "accuracy (%)", "")
    return Picture(png(figure), caption)


def draw_pareto(runs: Mapping[str, Sequence[MeasuredPoint]], cost: str, x: str) -> Picture:
    """Accuracy over cost, a line for each run."""
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    for colour, (name, points) in zip(COLORS * 4, runs.items(), strict=False):
        ordered = sorted(points, key=lambda p: getattr(p, cost))
        axes.plot([getattr(p, cost) for p in ordered], [100 * p.accuracy for p in ordered],
                  marker="o", ms=4, color=colour, label=name)  # fmt: skip
    _logarithmic(axes)
    style_axes(axes, x, "top-1 (%)")
    axes.legend(frameon=False, fontsize=8)
    return Picture(png(figure), f"Accuracy over {x}, at the same token budgets.")
