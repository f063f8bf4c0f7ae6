"""`eval --suite …` and `compare`: suites of one run, and of several side by side.

Needs matplotlib, and so is imported late.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from patchpack.cli.options import LimitOptions, load_within
from patchpack.data.bad_images import NAMED, list_bounded
from patchpack.data.text_files import printable
from patchpack.evaluation.compare import compare
from patchpack.evaluation.request import Request, default_budgets
from patchpack.evaluation.runner import Runner, save_operating_point, write_report
from patchpack.inference.predictor import Predictor
from patchpack.metrics.operating_points import MeasuredPoint
from patchpack.metrics.undefined import json_values
from patchpack.visualize.section import Section


class Data(NamedTuple):
    """The data of an evaluation, as printed."""

    messages: Sequence[str]  # how they were read: splits, files passed over
    unreadable: Sequence[str]  # keys of the items that cannot be read


def report_suites(
    run: Path,
    predictor: Predictor,
    request: Request,
    *,
    limits: dict[str, float | None],
    out: Path,
    as_json: bool,
) -> int:
    """Run the suites of a request, save the operating point within limits, write the report.

    Returns the exit status, 1 if items cannot be read.
    """
    runner = Runner(run, predictor, request, _log)
    chosen = save_operating_point(run, runner.points(), **limits) if limits else None
    sections = runner.sections()
    budgets = ", ".join(map(str, request.budgets))
    summary = f"{run.name} on {request.split}, at {budgets} tokens."
    unreadable = runner.unreadable()
    if unreadable:
        names = "; ".join(list_bounded(unreadable, NAMED))
        summary += f" Skipped, since they cannot be read ({len(unreadable):,}): {names}."
    report = write_report(out, f"report-{request.split}", "Evaluation", summary, sections)
    _print(sections, report, chosen, as_json, Data(runner.messages, unreadable))
    return 1 if unreadable else 0


def _log(line: str) -> None:
    print(f"patchpack: {line}", file=sys.stderr, flush=True)


def _print(
    sections: list[Section],
    report: Path,
    chosen: MeasuredPoint | None,
    as_json: bool,
    data: Data,
) -> None:
    if as_json:
        numbers = {section.name: section.numbers for section in sections}
        content = {"report": str(report), **data._asdict(), **numbers}
        print(json.dumps(json_values(content)))
        return
    console = Console(markup=False, highlight=False)
    for message in data.messages:
        console.print(message, soft_wrap=True)
    for key in list_bounded(data.unreadable):
        console.print(f"skipped, since it cannot be read: {printable(key)}", soft_wrap=True)
    for section in sections:
        console.print(section.title, style="bold")
        for text in section.text:
            console.print(text, soft_wrap=True)
    if chosen:
        console.print(
            f"operating point chosen on val and saved for predict: {chosen.name} "
            f"({chosen.accuracy:.1%}, {chosen.gflops:.3f} GFLOP and {chosen.ms:.2f} ms per image)",
            soft_wrap=True,
        )
    console.print(f"{report}")


def report_comparison(
    runs: Sequence[Path], request: Request, *, file_limits: LimitOptions, out: Path, as_json: bool
) -> int:
    """Run the same suites on every run, and set the results side by side.

    A request without budgets takes those of the first run. Returns the exit status, 1 if items
    cannot be read.
    """
    names = _names(runs)
    points, numbers, unreadable, messages = {}, {}, set(), ()
    for name, run in zip(names, runs, strict=True):
        predictor = load_within(run, file_limits)
        request = replace(request, budgets=request.budgets or default_budgets(predictor))
        runner = Runner(run, predictor, request, _log)
        if runner.scores_labels and request.suites != ("fairness",):
            points[name] = runner.singles()
        numbers[name] = {section.name: section.numbers for section in runner.sections()}
        unreadable |= set(runner.unreadable())
        messages = runner.messages
    sections = compare(points, numbers)
    budgets = ", ".join(map(str, request.budgets))
    summary = f"{', '.join(names)} on {request.split}, at {budgets} tokens."
    report = write_report(out, "compare", "Comparison", summary, sections)
    _print(sections, report, None, as_json, Data(messages, sorted(unreadable)))
    return 1 if unreadable else 0


def _names(runs: Sequence[Path]) -> list[str]:
    """The folder name of each run, or its whole path where two share a name."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]
