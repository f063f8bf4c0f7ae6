"""`patchpack compare`: several runs, side by side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from patchpack.cli.options import LimitOptions
from patchpack.data.transforms.corruptions import SEVERITIES
from patchpack.evaluation.request import NEEDS_REPORT, Request, suites_of
from patchpack.evaluation.run_data import data_source
from patchpack.inference.output_files import check_folder, check_outside

COMPARED = ("calibration", "robustness", "fairness")


@dataclass(frozen=True, kw_only=True)
class Compare(LimitOptions):
    """Compare runs on the same images: accuracy over cost, and evaluation suites; the first run is
    the baseline."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN...")]
    """Run folders, two or more."""
    suite: str = "calibration"
    """Comma-separated evaluation suites: calibration, robustness, fairness; accuracy over cost is
    always compared."""
    budgets: tuple[int, ...] = ()
    """Maximum tokens per image, one or more; without it, five shares of the first run's budget."""
    data: Path | None = None
    """Image folder, COCO file or manifest; without it, each run's own data."""
    split: str = "test"  # split to evaluate on
    where: tuple[str, ...] = ()  # manifest filters "column=value"; an image must match all of them
    robustness_tokens: int | None = None
    """Maximum tokens per image in the suite robustness; without it, the largest budget."""
    severities: tuple[int, ...] = SEVERITIES  # severities of corruptions, 1 to 5
    attributes: tuple[str, ...] = ()  # manifest columns to probe, for the suite fairness
    out: Path = Path("compare")  # folder for the report, which must not hold one yet
    json: bool = False  # print JSON


def run_compare(options: Compare) -> int:
    """Compare; returns the exit status, 1 if items cannot be read."""
    if len(options.runs) < 2:
        raise ValueError("compare needs two runs or more")
    if len({run.resolve() for run in options.runs}) < len(options.runs):
        raise ValueError("a run is given twice: compare needs different runs")
    suites = suites_of(options.suite)
    if wrong := [name for name in suites if name not in COMPARED]:
        raise ValueError(f"compare has no suite {wrong[0]!r}: choose among {', '.join(COMPARED)}")
    check_folder(options.out)
    check_outside(options.out, [data_source(run, options.data) for run in options.runs])
    request = Request(
        suites=suites,
        budgets=options.budgets,
        data=options.data,
        split=options.split,
        where=options.where,
        robustness_tokens=options.robustness_tokens,
        severities=options.severities,
        attributes=options.attributes,
    )
    try:
        from patchpack.cli.report import report_comparison
    except ImportError as error:
        raise ImportError(f"{NEEDS_REPORT} ({error})") from error
    return report_comparison(
        options.runs, request, file_limits=options, out=options.out, as_json=options.json
    )
