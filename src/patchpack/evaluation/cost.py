"""Cost suite: accuracy over compute by resizing, token dropping, enlarging and cascades.

arXiv 2307.06304, App. D and E.
"""

from collections.abc import Sequence
from dataclasses import asdict

from patchpack.evaluation.output_cache import EvalCondition, OutputCache
from patchpack.metrics.operating_points import (
    MeasuredPoint,
    all_cascades,
    best_cascade_over_line,
    frontier,
    single_points,
)
from patchpack.metrics.undefined import shown
from patchpack.visualize.plots import draw_accuracy_over_cost, draw_cascades
from patchpack.visualize.section import Section, Table

DROPPED = (0.25, 0.5, 0.75)  # token drop rates


def points_of(cache: OutputCache, budgets: Sequence[int]) -> list[MeasuredPoint]:
    """Return the points of each token budget and of each cascade of two budgets."""
    outputs = {tokens: cache.outputs(EvalCondition(tokens)) for tokens in budgets}
    return single_points(outputs) + (all_cascades(outputs) if len(budgets) > 1 else [])


def cost(cache: OutputCache, budgets: Sequence[int]) -> Section:
    """Measure accuracy, GFLOP and time by token budget, by drop rate and for cascades."""
    budgets = sorted(budgets)
    max_tokens = budgets[-1]
    conditions = {
        "resized": [EvalCondition(tokens) for tokens in budgets],
        "dropped": [
            EvalCondition(max_tokens),
            *(EvalCondition(max_tokens, drop=rate) for rate in DROPPED),
        ],
        "enlarged": [EvalCondition(tokens, enlarge=True) for tokens in budgets],
    }
    results = {
        kind: [(condition, cache.outputs(condition)) for condition in group]
        for kind, group in conditions.items()
    }
    rows = [
        [condition.name, shown(o.top1, ".1%"), f"{o.gflops:.3f}", f"{o.ms:.2f}",
         f"{1000 / o.ms:,.0f}" if o.ms else ""]
        for kind, group in results.items() for condition, o in group
        if kind == "resized" or condition.drop or condition.enlarge
    ]  # fmt: skip
    points = points_of(cache, budgets)
    singles = [point for point in points if point.second_pass_tokens is None]
    cascades = [point for point in points if point.second_pass_tokens is not None]
    best = best_cascade_over_line(singles, cascades)
    fractions = _accuracy_at_fractions(singles)
    line = frontier(points)
    cells = [[p.name, shown(p.accuracy, ".1%"), f"{p.gflops:.3f}", f"{p.ms:.2f}"] for p in line]
    return Section(
        name="cost",
        title="Cost against quality",
        text=[_fractions_text(singles[-1], fractions), _summary(best)],
        tables=[
            Table(["condition", "top-1", "GFLOP/image", "ms/image", "images/s"], rows),
            Table(["Pareto-optimal point", "top-1", "GFLOP/image", "ms/image"], cells),
        ],
        pictures=[
            draw_accuracy_over_cost(
                {kind: [(o.gflops, o.top1) for _, o in group] for kind, group in results.items()},
                "GFLOP/image", "One checkpoint, with resized, dropped and enlarged images.",
            ),
            draw_cascades(singles, cascades),
        ],
        numbers={
            "kept": fractions,
            "points": {
                condition.name: {"top1": o.top1, "gflops": o.gflops, "ms": o.ms}
                for group in results.values() for condition, o in group
            },
            "frontier": [asdict(point) for point in line],
            "best_cascade": asdict(best) if best else None,
        },
    )  # fmt: skip


def _accuracy_at_fractions(singles: Sequence[MeasuredPoint]) -> dict[str, dict]:
    """Return accuracy at about a half and a quarter of the largest token budget."""
    full = singles[-1]
    fractions = {}
    for fraction in (0.5, 0.25):
        point = min(singles, key=lambda p: abs(p.tokens / full.tokens - fraction))
        fractions[f"{fraction:g}"] = {
            "tokens": point.tokens, "top1": point.accuracy, "of": full.accuracy,
        }  # fmt: skip
    return fractions


def _fractions_text(full: MeasuredPoint, fractions: dict[str, dict]) -> str:
    reduced = "; ".join(
        f"{shown(f['top1'], '.1%')} at {f['tokens']} tokens" for f in fractions.values()
    )
    return f"{shown(full.accuracy, '.1%')} at {full.tokens} tokens; {reduced}."


def _summary(best: MeasuredPoint | None) -> str:
    if best is None:
        return "No cascade is above the linear interpolation between single budgets."
    return (
        f"The best cascade evaluates every image at {best.tokens} tokens and the "
        f"{best.second_pass_share:.0%} least confident again at {best.second_pass_tokens} tokens: "
        f"{best.accuracy:.1%} top-1 at {best.gflops:.3f} GFLOP/image, above the linear "
        "interpolation between single budgets."
    )
