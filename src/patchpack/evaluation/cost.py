"""What does a token budget buy? Resizing, dropping, enlarging, and cascades of two budgets.

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
from patchpack.visualize.plots import draw_cascades, draw_ways
from patchpack.visualize.section import Section, Table

DROPPED = (0.25, 0.5, 0.75)


def points_of(cache: OutputCache, budgets: Sequence[int]) -> list[MeasuredPoint]:
    """Every budget, and every cascade of two."""
    outputs = {tokens: cache.outputs(EvalCondition(tokens)) for tokens in budgets}
    return single_points(outputs) + (all_cascades(outputs) if len(budgets) > 1 else [])


def cost(cache: OutputCache, budgets: Sequence[int]) -> Section:
    """Accuracy against operations and time, by budget, by what is dropped, and in cascades."""
    budgets = sorted(budgets)
    most = budgets[-1]
    conditions = {
        "resized": [EvalCondition(tokens) for tokens in budgets],
        "dropped": [EvalCondition(most), *(EvalCondition(most, drop=share) for share in DROPPED)],
        "enlarged": [EvalCondition(tokens, enlarge=True) for tokens in budgets],
    }
    found = {
        kind: [(condition, cache.outputs(condition)) for condition in many]
        for kind, many in conditions.items()
    }
    rows = [
        [condition.name, f"{o.top1:.1%}", f"{o.gflops:.3f}", f"{o.ms:.2f}",
         f"{1000 / o.ms:,.0f}" if o.ms else ""]
        for kind, many in found.items() for condition, o in many
        if kind == "resized" or condition.drop or condition.enlarge
    ]  # fmt: skip
    points = points_of(cache, budgets)
    singles = [point for point in points if point.second_pass_tokens is None]
    cascades = [point for point in points if point.second_pass_tokens is not None]
    best = best_cascade_over_line(singles, cascades)
    kept = _kept(singles)
    line = frontier(points)
    cells = [[p.name, f"{p.accuracy:.1%}", f"{p.gflops:.3f}", f"{p.ms:.2f}"] for p in line]
    return Section(
        name="cost",
        title="Cost against quality",
        text=[kept["text"], _summary(best, singles)],
        tables=[
            Table(["how", "top-1", "GFLOP/image", "ms/image", "images/s"], rows),
            Table(["on the frontier of budgets and cascades", "top-1", "GFLOP/image", "ms/image"],
                  cells),
        ],
        pictures=[
            draw_ways({kind: [o for _, o in many] for kind, many in found.items()}),
            draw_cascades(singles, cascades),
        ],
        numbers={
            "kept": kept["shares"],
            "ways": {
                condition.name: {"top1": o.top1, "gflops": o.gflops, "ms": o.ms}
                for many in found.values() for condition, o in many
            },
            "frontier": [asdict(point) for point in line],
            "best_cascade": asdict(best) if best else None,
        },
    )  # fmt: skip


def _kept(singles: Sequence[MeasuredPoint]) -> dict:
    """Accuracy at about a half and a quarter of the most tokens, beside all of them."""
    whole = singles[-1]
    shares = {}
    for share in (0.5, 0.25):
        near = min(singles, key=lambda p: abs(p.tokens / whole.tokens - share))
        shares[f"{share:g}"] = {
            "tokens": near.tokens, "top1": near.accuracy, "of": whole.accuracy,
        }  # fmt: skip
    said = "; ".join(
        f"{found['top1']:.1%} at {found['tokens']} tokens" for found in shares.values()
    )
    return {"shares": shares, "text": f"{whole.accuracy:.1%} at {whole.tokens} tokens; {said}."}


def _summary(best: MeasuredPoint | None, singles: Sequence[MeasuredPoint]) -> str:
    if best is None:
        return "No cascade is above the line between single budgets."
    return (
        f"The best cascade shows every image with {best.tokens} tokens and the {best.second_pass_share:.0%} "
        f"least sure again with {best.second_pass_tokens}: {best.accuracy:.1%} for {best.gflops:.3f} GFLOP an "
        "image, above the line between single budgets."
    )
