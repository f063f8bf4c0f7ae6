"""What `eval --suite …` and `compare` do. Needs matplotlib, and so is imported late."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from patchpack.evaluation.compare import compare
from patchpack.evaluation.request import Request, default_budgets
from patchpack.evaluation.runner import Runner, save_operating_point, write_report
from patchpack.loading import load_labelling
from patchpack.metrics.operating_points import MeasuredPoint
from patchpack.tasks.classification.predictor import ClassificationPredictor
from patchpack.tasks.contrastive.predictor import ImageTextPredictor
from patchpack.visualize.section import Section


def report_suites(
    run: Path,
    model: ClassificationPredictor | ImageTextPredictor,
    request: Request,
    *,
    limits: dict[str, float | None],
    templates: tuple[str, ...],
    out: Path,
    as_json: bool,
) -> None:
    """Run the suites that are asked for, keep what is chosen within limits, write the report."""
    runner = Runner(run, model, request, templates=templates, log=_log)
    chosen = save_operating_point(run, runner.points(), **limits) if limits else None
    sections = runner.sections()
    budgets = ", ".join(map(str, request.budgets))
    summary = f"{run.name} on {request.split}, at {budgets} tokens."
    if lost := runner.left_out():
        summary += f" Left out, since they cannot be read ({len(lost):,}): {'; '.join(lost[:10])}."
    report = write_report(out, f"report-{request.split}", "Evaluation", summary, sections)
    _print(sections, report, chosen, as_json)


def _log(line: str) -> None:
    print(f"patchpack: {line}", file=sys.stderr, flush=True)


def _print(
    sections: list[Section], report: Path, chosen: MeasuredPoint | None, as_json: bool
) -> None:
    if as_json:
        numbers = {section.name: section.numbers for section in sections}
        print(json.dumps({"report": str(report), **numbers}))
        return
    console = Console(markup=False, highlight=False)
    for section in sections:
        console.print(section.title, style="bold")
        for text in section.text:
            console.print(text, soft_wrap=True)
    if chosen:
        console.print(
            f"chosen on val, and used by predict: {chosen.name} ({chosen.accuracy:.1%}, "
            f"{chosen.gflops:.3f} GFLOP and {chosen.ms:.2f} ms an image)",
            soft_wrap=True,
        )
    console.print(f"{report}")


def report_comparison(runs: Sequence[Path], request: Request, *, out: Path, as_json: bool) -> None:
    """Ask every run the same, and set what they say side by side.

    A request without budgets takes those of the first run.
    """
    names = _names(runs)
    points, numbers = {}, {}
    for name, run in zip(names, runs, strict=True):
        model = load_labelling(run)
        request = replace(request, budgets=request.budgets or default_budgets(model))
        runner = Runner(run, model, request, log=_log)
        if request.suites != ("fairness",):
            points[name] = runner.singles()
        numbers[name] = {section.name: section.numbers for section in runner.sections()}
    sections = compare(points, numbers)
    budgets = ", ".join(map(str, request.budgets))
    summary = f"{', '.join(names)} on {request.split}, at {budgets} tokens."
    report = write_report(out, "compare", "Comparison", summary, sections)
    _print(sections, report, None, as_json)


def _names(runs: Sequence[Path]) -> list[str]:
    """What runs are called: the name of their folder, or all of its path where two share it."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]
