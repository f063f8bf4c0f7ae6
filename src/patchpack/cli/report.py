"""`eval --suite …` and `compare`: suites of one run, and of several side by side.

Needs matplotlib, and so is imported late.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from patchpack.cli.options import LimitOptions, kept, load_within
from patchpack.data.bad_images import NAMED, list_bounded
from patchpack.evaluation.compare import compare
from patchpack.evaluation.request import Request, default_budgets
from patchpack.evaluation.runner import Runner, report_files, write_report
from patchpack.inference.operating_point import write_operating_point
from patchpack.inference.output_files import check_new
from patchpack.inference.predictor import Predictor
from patchpack.metrics.operating_points import MeasuredPoint
from patchpack.metrics.undefined import json_values
from patchpack.printable import printable
from patchpack.terminal import Terminal
from patchpack.visualize.section import Section
from patchpack.writing import replace_file, write_new

REPORT = "compare"  # name of the files of a comparison


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
    out: Path | None,
    as_json: bool,
) -> int:
    """Run the suites of a request, print them, write the report and save the operating point.

    out  folder of the report; None: the run folder, which may be read-only

    Returns the exit status, 1 if items cannot be read.
    """
    name = f"report-{request.split}"
    if out is not None:
        check_new([out / name, *report_files(out, name)])
    runner = Runner(run, predictor, request, _log, out)
    saved = runner.point
    chosen = runner.choose_point(**limits) if limits else None
    sections = runner.sections()
    budgets = ", ".join(map(str, request.budgets))
    summary = f"{run.name} on {request.split}, at {budgets} tokens."
    unreadable = runner.unreadable()
    if unreadable:
        names = "; ".join(list_bounded(unreadable, NAMED))
        summary += f" Skipped, since they cannot be read ({len(unreadable):,}): {names}."
    report = report_files(out or run, name)[0]
    try:
        _print(sections, report, chosen, as_json, Data(runner.messages, unreadable))
    finally:  # the results are kept, also where nobody reads what is printed
        if runner.point != saved:
            kept(lambda: write_operating_point(run, runner.point))
        if out is not None:
            write_report(out, name, "Evaluation", summary, sections, write_new)
        else:
            kept(lambda: write_report(run, name, "Evaluation", summary, sections, replace_file))
    return 1 if unreadable else 0


def _log(line: str) -> None:
    print(f"patchpack: {printable(line)}", file=sys.stderr, flush=True)


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
        print(json.dumps(json_values(content)), flush=True)
        return
    console = Terminal()
    for message in data.messages:
        console.print(message, soft_wrap=True)
    for key in list_bounded(data.unreadable):
        console.print(f"skipped, since it cannot be read: {key}", soft_wrap=True)
    for section in sections:
        console.print(section.title, style="bold")
        for text in section.text:
            console.print(text, soft_wrap=True)
    if chosen:
        console.print(
            f"operating point chosen on val for predict: {chosen.name} "
            f"({chosen.accuracy:.1%}, {chosen.gflops:.3f} GFLOP and {chosen.ms:.2f} ms per image)",
            soft_wrap=True,
        )
    console.print(f"{report}", soft_wrap=True)


def report_comparison(
    runs: Sequence[Path], request: Request, *, file_limits: LimitOptions, out: Path, as_json: bool
) -> int:
    """Run the same suites on every run, and set the results side by side.

    A request without budgets takes those of the first run. Returns the exit status, 1 if items
    cannot be read.
    """
    names = _names(runs)
    check_new([out / REPORT, *report_files(out, REPORT)])
    points, numbers, unreadable, messages = {}, {}, set(), ()
    for name, run in zip(names, runs, strict=True):
        predictor = load_within(run, file_limits)
        request = replace(request, budgets=request.budgets or default_budgets(predictor))
        runner = Runner(run, predictor, request, _log, out)
        if runner.scores_labels and request.suites != ("fairness",):
            points[name] = runner.singles()
        numbers[name] = {section.name: section.numbers for section in runner.sections()}
        unreadable |= set(runner.unreadable())
        messages = runner.messages
    sections = compare(points, numbers)
    budgets = ", ".join(map(str, request.budgets))
    summary = f"{', '.join(names)} on {request.split}, at {budgets} tokens."
    try:
        report = report_files(out, REPORT)[0]
        _print(sections, report, None, as_json, Data(messages, sorted(unreadable)))
    finally:
        write_report(out, REPORT, "Comparison", summary, sections, write_new)
    return 1 if unreadable else 0


def _names(runs: Sequence[Path]) -> list[str]:
    """The folder name of each run, or its whole path where two share a name."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]
