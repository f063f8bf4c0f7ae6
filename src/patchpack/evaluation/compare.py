"""Several runs side by side: accuracy over cost, calibration, corruption, probes."""

from collections.abc import Mapping, Sequence
from typing import Any

from patchpack.evaluation.fairness import LIMITS
from patchpack.evaluation.robustness import mean_corruption_error
from patchpack.metrics.fairness import signed_rank
from patchpack.metrics.operating_points import MeasuredPoint
from patchpack.visualize.plots import draw_pareto
from patchpack.visualize.section import Section, Table

Numbers = Mapping[str, Mapping[str, Any]]  # of each run, by suite


def compare(points: Mapping[str, Sequence[MeasuredPoint]], numbers: Numbers) -> list[Section]:
    """What two or more runs have in common, of the suites that all of them went through.

    points   each run at its budgets
    numbers  each run's numbers by suite; the first run is the baseline
    """
    found = [_cost(points)] if points else []
    shared = set.intersection(*(set(of) for of in numbers.values()))
    if "calibration" in shared:
        found.append(_calibration(numbers))
    if "robustness" in shared:
        found.append(_robustness(numbers))
    if "fairness" in shared:
        found.append(_fairness(numbers))
    return found


def _cost(points: Mapping[str, Sequence[MeasuredPoint]]) -> Section:
    rows = [
        [f"{run}, {p.tokens} tokens", f"{p.accuracy:.1%}", f"{p.gflops:.3f}", f"{p.ms:.2f}"]
        for run, many in points.items() for p in many
    ]  # fmt: skip
    return Section(
        name="cost",
        title="Accuracy over cost",
        tables=[Table(["run", "top-1", "GFLOP/image", "ms/image"], rows)],
        pictures=[
            draw_pareto(points, "gflops", "GFLOP an image"),
            draw_pareto(points, "ms", "ms an image"),
        ],
        numbers={
            run: [{"tokens": p.tokens, "top1": p.accuracy, "gflops": p.gflops, "ms": p.ms}
                  for p in many]
            for run, many in points.items()
        },
    )  # fmt: skip


def _calibration(numbers: Numbers) -> Section:
    rows = [
        [f"{run}, {tokens} tokens", f"{m['ece']:.3f}", f"{m['adaptive_ece']:.3f}",
         f"{m['nll']:.3f}", f"{m['brier']:.3f}"]
        for run, of in numbers.items() for tokens, m in of["calibration"]["budgets"].items()
    ]  # fmt: skip
    return Section(
        name="calibration",
        title="Calibration",
        tables=[Table(["run", "ECE", "adaptive ECE", "NLL", "Brier"], rows)],
        numbers={run: of["calibration"]["budgets"] for run, of in numbers.items()},
    )


def _robustness(numbers: Numbers) -> Section:
    baseline, *_ = numbers
    corrupted = {run: of["robustness"]["corrupted"] for run, of in numbers.items()}
    mce = {run: mean_corruption_error(by, corrupted[baseline]) for run, by in corrupted.items()}
    names = [name for kind in numbers[baseline]["robustness"]["shifts"].values() for name in kind]
    rows = []
    for run, of in numbers.items():
        found = of["robustness"]
        shifts = {name: top1 for kind in found["shifts"].values() for name, top1 in kind.items()}
        gaps = [f"{100 * (shifts[n] - found['plain']):+.1f}" if n in shifts else "" for n in names]
        rows.append(
            [
                run,
                f"{found['plain']:.1%}",
                *gaps,
                f"{found['mean_corrupted']:.1%}",
                _figure(mce[run]),
            ]
        )
    return Section(
        name="robustness",
        title="Robustness",
        text=[
            "Top-1 of the images as they are, the points that each change costs, top-1 of "
            f"corrupted ones, and mean corruption error beside that of {baseline}."
        ],
        tables=[Table(["run", "as they are", *names, "corrupted", "mCE"], rows)],
        numbers={"mce": mce},
    )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _fairness(numbers: Numbers) -> Section:
    probes = {run: of["fairness"]["probes"] for run, of in numbers.items()}
    baseline, *others = probes
    kinds = list(probes[baseline])
    attributes = list(probes[baseline][kinds[0]])
    rows = [
        [f"{run}, {kind}", *(f"{by[kind][name]:.1%}" for name in attributes)]
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
            f"{run} is above {baseline} in {higher} of {len(pairs)} probes; Wilcoxon signed-rank "
            f"test, p = {tests[run]:.2g}."
        )
    return Section(
        name="fairness",
        title="Fairness",
        text=text,
        tables=[Table(["probe", *attributes], rows)],
        numbers={"signed_rank_p": tests},
    )
