"""`patchpack compare`: several runs, side by side."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from patchpack.data.transforms.corruptions import SEVERITIES
from patchpack.evaluation.request import NEEDS_REPORT, Request, suites_of


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Runs side by side on the same images; the first is what the others are held against."""

    runs: Positional[tuple[Path, ...]]  # folders of runs
    suite: str = "calibration"  # of calibration, robustness, fairness, with commas; cost always is
    budgets: tuple[int, ...] = ()  # most tokens of an image; those of the first run when empty
    data: Path | None = None  # a folder or manifest; each run's own data when absent
    split: str = "test"
    where: tuple[str, ...] = ()  # "column=value": the images of a manifest to take
    robustness_tokens: int | None = (
        None  # tokens of an image for robustness; the largest budget when absent
    )
    severities: tuple[int, ...] = SEVERITIES  # of corruptions
    attributes: tuple[str, ...] = ()  # columns of a manifest, for fairness
    out: Path = Path("compare")  # folder of the report
    json: bool = False  # print JSON


def run_compare(options: Compare) -> None:
    if len(options.runs) < 2:
        raise ValueError("compare needs two runs or more")
    request = Request(
        suites=suites_of(options.suite),
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
    report_comparison(options.runs, request, out=options.out, as_json=options.json)
