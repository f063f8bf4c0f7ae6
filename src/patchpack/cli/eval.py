"""`patchpack eval`: metrics of a run's best weights at token budgets, and evaluation suites."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from patchpack.cli.options import (
    LimitOptions,
    kept,
    load_within,
    option_name,
    print_depth_notice,
    task_options,
    with_task_options,
)
from patchpack.data.bad_images import check_fraction, list_bounded
from patchpack.data.transforms.corruptions import SEVERITIES
from patchpack.evaluation.budgets import evaluate_with, evaluator_of
from patchpack.evaluation.request import (
    BARE,
    NEEDS_REPORT,
    SUITE_OF_OPTION,
    Request,
    check_limits,
    check_suites,
    default_budgets,
    read_label_map,
    suites_of,
)
from patchpack.evaluation.run_data import data_of, data_source
from patchpack.inference.operating_point import check_tokens
from patchpack.inference.output_files import check_new, check_outside, make_folder, to_png
from patchpack.inference.predictor import Predictor
from patchpack.inference.text_files import read_lines
from patchpack.metrics.undefined import json_values
from patchpack.pretrained.read import require_run
from patchpack.tasks.registry import task_of
from patchpack.tasks.task import TaskSpec
from patchpack.terminal import Terminal
from patchpack.writing import replace_file, write_new


@dataclass(frozen=True, kw_only=True)
class Eval(LimitOptions):
    """Report a run's metrics at token budgets: accuracy (classification), recall and zero-shot
    accuracy (contrastive), mean IoU (segmentation) or average precision (detection), with pictures
    of predictions next to the ground truth; with --suite, a report on cost, calibration,
    robustness, few-shot accuracy and fairness."""

    run: Positional[Path]
    """Run folder."""
    data: Path | None = None
    """Image folder, COCO file or manifest; without it, the data of the run."""
    split: str = "test"
    """Split to evaluate on."""
    where: tuple[str, ...] = ()
    """Manifest filters "column=value"; an image must match all of them."""
    budgets: tuple[int, ...] = ()
    """Maximum tokens per image, one or more; without it, the budget of evaluation in training."""
    suite: str = ""
    """Comma-separated evaluation suites: cost, calibration, robustness, fewshot, fairness."""
    max_ms: float | None = None
    """Maximum milliseconds per image: save the most accurate budget or cascade within it for
    predict."""
    max_gflops: float | None = None
    """Maximum GFLOP per image: save the most accurate budget or cascade within it for predict."""
    min_accuracy: float | None = None
    """Minimum accuracy on the split val, 0 to 1: save the cheapest budget or cascade that reaches
    it for predict."""
    fit_temperature: bool = False
    """Fit the temperature of the logits on val, and save it for predict."""
    robustness_tokens: int | None = None
    """Maximum tokens per image in the suite robustness; without it, the largest budget."""
    severities: tuple[int, ...] = SEVERITIES
    """Severities of corruptions, 1 to 5."""
    shifted_data: Path | None = None
    """Dataset of the same classes from another source, for the suite robustness."""
    attributes: tuple[str, ...] = ()
    """Manifest columns to probe, for the suite fairness."""
    label_map: Path | None = None
    """JSON file {class of the data: class of the model}."""
    out: Path | None = None
    """Folder for the results, in which no file is replaced; without it, the run folder, in which
    they replace those of the last evaluation of the split."""
    max_bad_fraction: float | None = None
    """Share of unreadable images above which evaluation stops, 0 to 1; without it, that of the
    run."""
    json: bool = False
    """Print JSON."""


EvalOptions = with_task_options(Eval, lambda task: task.eval_options)
PICTURES = ("eval", "confusion")  # stems of the pictures of tasks
LIMITS = ("max_ms", "max_gflops", "min_accuracy")
SUITE_OPTIONS = (*SUITE_OF_OPTION, "label_map")
TASK_OPTIONS_OF_SUITES = ("templates",)  # suites use no other option of a task


def run_eval(parsed: Any) -> int:
    """Evaluate; returns the exit status, 1 if items cannot be read."""
    limits = {name: getattr(parsed, name) for name in LIMITS}
    chooses = any(limit is not None for limit in limits.values())
    check_limits(**limits)
    for tokens in parsed.budgets:
        check_tokens("budgets", tokens)
    if parsed.max_bad_fraction is not None:
        check_fraction(parsed.max_bad_fraction)
    require_run(parsed.run)
    predictor = load_within(parsed.run, parsed)
    if parsed.out is not None:  # before the work, which would be lost
        check_outside(parsed.out, [data_source(parsed.run, parsed.data)])
        make_folder(parsed.out)
    task = task_of(predictor.spec.task)
    options = task_options(parsed, task, lambda task: task.eval_options)
    if parsed.suite or chooses or parsed.fit_temperature:
        for field in fields(options):
            unused = field.name not in TASK_OPTIONS_OF_SUITES
            if unused and getattr(options, field.name) != field.default:
                raise ValueError(f"{option_name(field.name)} is not for suites")
        request = _request(parsed, predictor, chooses)
        check_suites(parsed.run, predictor, request.suites)
        try:
            from patchpack.cli.report import report_suites
        except ImportError as error:
            raise ImportError(f"{NEEDS_REPORT} ({error})") from error
        return report_suites(
            parsed.run, predictor, request,
            limits=limits if chooses else {}, out=parsed.out, as_json=parsed.json,
        )  # fmt: skip
    for field in fields(Eval):
        if field.name in SUITE_OPTIONS and getattr(parsed, field.name) != field.default:
            raise ValueError(f"{option_name(field.name)} needs --suite")
    return _evaluate(parsed, predictor, task, options)


def _evaluate(parsed: Any, predictor: Predictor, task: TaskSpec, options: Any) -> int:
    """Evaluate at each budget, print, and write JSON and pictures; returns the exit status.

    Results in the run folder replace those of the last evaluation of the split; files in another
    folder are never replaced.
    """
    out, split = parsed.out or parsed.run, parsed.split
    path = out / f"eval-{split}.json"
    if parsed.out is not None:
        check_new([path, *(out / f"{stem}-{split}.png" for stem in PICTURES)])
    data = data_of(
        parsed.run, data=parsed.data, split=parsed.split, where=parsed.where,
        max_bad_fraction=parsed.max_bad_fraction, reading=predictor.spec.reading,
    )  # fmt: skip
    print_depth_notice(data.index.paths, predictor.spec.reading)
    budgets = parsed.budgets or (predictor.spec.eval_tokens,)
    evaluator, skipped = evaluator_of(predictor, data, options)
    evaluations = evaluate_with(evaluator, skipped, predictor, data, budgets)
    record = {"run": str(parsed.run), "split": parsed.split}
    record = json_values(record | task.report.record(evaluations, predictor))
    record |= {"messages": data.messages} | data.index.scan.json()
    unreadable = evaluations[-1].cost.unreadable
    try:
        if parsed.json:
            print(json.dumps(record), flush=True)
        else:
            _print([*data.messages, *task.report.summary(evaluations, predictor)], unreadable)
    finally:  # the results are kept, also where nobody reads what is printed
        pictures = task.report.pictures(evaluations, predictor, evaluator)
        files = {path: (json.dumps(record, indent=1) + "\n").encode()}
        files |= {out / f"{stem}-{split}.png": to_png(image) for stem, image in pictures.items()}
        written = True
        if parsed.out is not None:
            _write(files, write_new)
        else:
            written = kept(lambda: _write(files, replace_file))
    if written and not parsed.json:
        Terminal().print(", ".join(map(str, files)), soft_wrap=True)
    return 1 if set(unreadable) - {f"{error.key}: {error.reason}" for error in skipped} else 0


def _write(files: Mapping[Path, bytes], write: Callable[[Path, bytes], None]) -> None:
    for path, content in files.items():
        write(path, content)


def _print(parts: Sequence[Any], unreadable: Sequence[str]) -> None:
    console = Terminal()
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))
    for error in list_bounded(unreadable):
        console.print(f"skipped: {error}", soft_wrap=True)


def _request(parsed: Any, predictor: Predictor, chooses: bool) -> Request:
    """The suites of the command, and those that an option implies."""
    suites = suites_of(parsed.suite) or (("cost",) if chooses else ())
    if parsed.fit_temperature and "calibration" not in suites:
        suites = (*suites, "calibration")
    templates = tuple(read_lines(parsed.templates)) if parsed.templates else BARE
    return Request(
        suites=suites,
        budgets=parsed.budgets or default_budgets(predictor),
        data=parsed.data,
        split=parsed.split,
        where=parsed.where,
        max_bad_fraction=parsed.max_bad_fraction,
        label_map=read_label_map(parsed.label_map),
        robustness_tokens=parsed.robustness_tokens,
        severities=parsed.severities,
        shifted_data=parsed.shifted_data,
        attributes=parsed.attributes,
        fit_temperature=parsed.fit_temperature,
        templates=templates,
    )
