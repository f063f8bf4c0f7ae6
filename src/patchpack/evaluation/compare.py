"""Comparison of runs: accuracy over cost, calibration, robustness and fairness."""

from collections.abc import Mapping, Sequence
from typing import Any

from patchpack.evaluation.fairness import LIMITS
from patchpack.evaluation.robustness import mean_corruption_error
from patchpack.metrics.fairness import signed_rank
from patchpack.metrics.operating_points import MeasuredPoint
from patchpack.metrics.undefined import shown
from patchpack.visualize.plots import draw_accuracy_over_cost
from patchpack.visualize.section import Section, Table

ERRORS = ("ece", "adaptive_ece", "nll", "brier")  # of calibration, compared
Numbers = Mapping[str, Mapping[str, Any]]  # JSON reports by run and suite


def compare(points: Mapping[str, Sequence[MeasuredPoint]], numbers: Numbers) -> list[Section]:
    """Return one section per suite that all runs have results of.

    points   operating points by run; empty: no cost section
    numbers  JSON reports by run and suite; the first run is the baseline
    """
    sections = [_cost(points)] if points else []
    shared = set.intersection(*(set(suites) for suites in numbers.values()))
    if "calibration" in shared:
        sections.append(_calibration(numbers))
    if "robustness" in shared:
        sections.append(_robustness(numbers))
    if "fairness" in shared:
        sections.append(_fairness(numbers))
    return sections


def _cost(points: Mapping[str, Sequence[MeasuredPoint]]) -> Section:
    rows = [
        [f"{run}, {p.tokens} tokens", shown(p.accuracy, ".1%"), f"{p.gflops:.3f}", f"{p.ms:.2f}"]
        for run, run_points in points.items() for p in run_points
    ]  # fmt: skip
    return Section(
        name="cost",
        title="Accuracy over cost",
        tables=[Table(["run", "top-1", "GFLOP/image", "ms/image"], rows)],
        pictures=[
            draw_accuracy_over_cost(
                {run: [(getattr(p, cost), p.accuracy) for p in run_points]
                 for run, run_points in points.items()},
                label, f"Accuracy over {label} at the same token budgets.",
            )
            for cost, label in (("gflops", "GFLOP/image"), ("ms", "ms/image"))
        ],
        numbers={
            run: [{"tokens": p.tokens, "top1": p.accuracy, "gflops": p.gflops, "ms": p.ms}
                  for p in run_points]
            for run, run_points in points.items()
        },
    )  # fmt: skip


def _calibration(numbers: Numbers) -> Section:
    rows = [
        [f"{run}, {tokens} tokens", *(shown(m[key], ".3f") for key in ERRORS)]
        for run, suites in numbers.items()
        for tokens, m in suites["calibration"]["budgets"].items()
    ]  # fmt: skip
    return Section(
        name="calibration",
        title="Calibration",
        tables=[Table(["run", "ECE", "adaptive ECE", "NLL", "Brier"], rows)],
        numbers={run: suites["calibration"]["budgets"] for run, suites in numbers.items()},
    )


def _robustness(numbers: Numbers) -> Section:
    baseline, *_ = numbers
    corrupted = {run: suites["robustness"]["corrupted"] for run, suites in numbers.items()}
    mce = {run: mean_corruption_error(by, corrupted[baseline]) for run, by in corrupted.items()}
    kinds = [k for k, by in corrupted[baseline].items() if any(top1 < 1 for top1 in by.values())]
    names = [name for kind in numbers[baseline]["robustness"]["shifts"].values() for name in kind]
    rows = []
    for run, suites in numbers.items():
        result = suites["robustness"]
        shifts = {name: top1 for kind in result["shifts"].values() for name, top1 in kind.items()}
        gaps = [
            shown(100 * (shifts[n] - result["plain"]), "+.1f") if n in shifts else "" for n in names
        ]
        rows.append(
            [
                run,
                shown(result["plain"], ".1%"),
                *gaps,
                shown(result["mean_corrupted"], ".1%"),
                shown(mce[run], ".2f"),
            ]
        )
    return Section(
        name="robustness",
        title="Robustness",
        text=[
            "Top-1 on clean images, change in percentage points under each perturbation, mean "
            f"top-1 on corrupted images, and mean corruption error (mCE) relative to {baseline}, "
            f"over the {len(kinds)} of {len(corrupted[baseline])} corruptions on which {baseline} "
            "has errors."
        ],
        tables=[Table(["run", "clean", *names, "corrupted", "mCE"], rows)],
        numbers={"mce": mce},
    )


def _fairness(numbers: Numbers) -> Section:
    probes = {run: suites["fairness"]["probes"] for run, suites in numbers.items()}
    baseline, *others = probes
    kinds = list(probes[baseline])
    attributes = list(probes[baseline][kinds[0]])
    rows = [
        [f"{run}, {kind}", *(shown(by[kind][name], ".1%") for name in attributes)]
        for run, by in probes.items() for kind in kinds if kind in by
    ]  # fmt: skip
    text, tests = [LIMITS], {}
    for run in others:
        shared = [kind for kind in kinds if kind in probes[run]]
        pairs = [
            (probes[run][kind][name], probes[baseline][kind][name])
            for kind in shared for name in attributes
        ]  # fmt: skip
        tests[run] = signed_rank([a for a, _ in pairs], [b for _, b in pairs])
        higher = sum(a > b for a, b in pairs)
        text.append(
            f"{run} has higher accuracy than {baseline} in {higher} of {len(pairs)} probes; "
            f"Wilcoxon signed-rank test, p = {shown(tests[run], '.2g')}."
        )
    return Section(
        name="fairness",
        title="Fairness",
        text=text,
        tables=[Table(["probe", *attributes], rows)],
        numbers={"signed_rank_p": tests},
    )
