"""`patchpack eval --suite …` and `patchpack compare`: reports of what runs are worth."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from tyro.conf import Positional

from patchpack.evaluate.cost import Point
from patchpack.evaluate.section import Section
from patchpack.judge import read_lines
from patchpack.serve.load import load
from patchpack.serve.matcher import PLAIN, Matcher
from patchpack.serve.predictor import Predictor
from patchpack.suites.compare import compare
from patchpack.suites.robustness import SEVERITIES
from patchpack.suites.run import Request, Runner, keep_choice, write_report

BUDGETS = (0.125, 0.25, 0.5, 0.75, 1.0)  # of a model's own, where none are given


def report_suites(
    run: Path,
    model: Predictor | Matcher,
    request: Request,
    *,
    limits: dict[str, float | None],
    templates: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Run the suites that are asked for, keep what is chosen within limits, write the report."""
    lines = tuple(read_lines(templates)) if templates else PLAIN
    runner = Runner(run, model, request, templates=lines, tell=_tell)
    chosen = keep_choice(run, runner.points(), **limits) if limits else None
    sections = runner.sections()
    budgets = ", ".join(map(str, request.budgets))
    lead = f"{run.name} on {request.split}, at {budgets} tokens."
    report = write_report(out, f"report-{request.split}", "Evaluation", lead, sections)
    _print(sections, report, chosen, as_json)


def suites_of(words: str) -> tuple[str, ...]:
    """The names in a list with commas."""
    return tuple(name.strip() for name in words.split(",") if name.strip())


def read_label_map(path: Path | None) -> dict[str, str] | None:
    if path is None:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ValueError(f"{path} must be an object of texts: {{class of the data: of the model}}")
    return found


def default_budgets(model: Predictor | Matcher) -> tuple[int, ...]:
    """An eighth to all of the tokens that the model was evaluated with in training."""
    return tuple(sorted({max(1, round(share * model.card.eval_tokens)) for share in BUDGETS}))


def _tell(line: str) -> None:
    print(f"patchpack: {line}", file=sys.stderr, flush=True)


def _print(sections: list[Section], report: Path, chosen: Point | None, as_json: bool) -> None:
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


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Runs side by side on the same images; the first is what the others are held against."""

    runs: Positional[tuple[Path, ...]]  # folders of runs
    suite: str = "calibration"  # of calibration, robustness, fairness, with commas; cost always is
    budgets: tuple[int, ...] = ()  # most tokens of an image; those of the first run when empty
    data: Path | None = None  # a folder or manifest; each run's own data when absent
    split: str = "test"
    where: tuple[str, ...] = ()  # "column=value": the images of a manifest to take
    severities: tuple[int, ...] = SEVERITIES  # of corruptions
    attributes: tuple[str, ...] = ()  # columns of a manifest, for fairness
    out: Path = Path("compare")  # folder of the report
    json: bool = False  # print JSON


def run_compare(options: Compare) -> None:
    if len(options.runs) < 2:
        raise ValueError("compare needs two runs or more")
    names = _names(options.runs)
    suites = suites_of(options.suite)
    points, numbers, budgets = {}, {}, options.budgets
    for name, run in zip(names, options.runs, strict=True):
        model = load(run)
        budgets = budgets or default_budgets(model)
        request = Request(
            suites=suites or ("calibration",), budgets=budgets, data=options.data,
            split=options.split, where=options.where, severities=options.severities,
            attributes=options.attributes,
        )  # fmt: skip
        runner = Runner(run, model, request, tell=_tell)
        if suites != ("fairness",):
            points[name] = runner.singles()
        numbers[name] = {section.name: section.numbers for section in runner.sections()}
    sections = compare(points, numbers)
    lead = f"{', '.join(names)} on {options.split}, at {', '.join(map(str, budgets))} tokens."
    report = write_report(options.out, "compare", "Comparison", lead, sections)
    _print(sections, report, None, options.json)


def _names(runs: tuple[Path, ...]) -> list[str]:
    """What runs are called: the name of their folder, or all of its path where two share it."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]
