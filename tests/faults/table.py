"""Run the campaigns and write their figures to docs/reliability.md: `make faults`.

python -m faults.table                      all of them, whole
python -m faults.table --share 0.1          an evenly spaced tenth of each
python -m faults.table --share 0.1 kills=1  a tenth, but of the kills all
python -m faults.table images kills         some, printed and not written
python -m faults.table images --case 1466   one case, in this process
"""

import argparse
import os
import platform
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

from faults.campaigns import CAMPAIGNS, Campaign
from faults.verdicts import GOOD, Outcome, Verdict
from faults.workers import timed

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
START, END = "<!-- figures: written by make faults -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class Row:
    """The figures of one campaign."""

    campaign: Campaign
    outcomes: Sequence[Outcome]
    total: int  # cases of the whole campaign
    seconds: float

    def cells(self) -> list[str]:
        counts = Counter(outcome.verdict for outcome in self.outcomes)
        peak = max((outcome.megabytes for outcome in self.outcomes), default=0.0)
        slowest = max((outcome.seconds for outcome in self.outcomes), default=0.0)
        return [
            self.campaign.name,
            f"{len(self.outcomes):,} of {self.total:,}",
            *(f"{counts[verdict]:,}" for verdict in Verdict),
            f"{slowest:.1f}",
            f"{peak:,.0f}" if peak else "",
            f"{self.seconds:,.0f}",
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="faults.table")
    names = [campaign.name for campaign in CAMPAIGNS]
    parser.add_argument("campaigns", nargs="*", metavar="CAMPAIGN", help=", ".join(names))
    parser.add_argument("--share", nargs="+", default=["1"], metavar="SHARE or CAMPAIGN=SHARE",
                        help="share of the cases, 0 to 1, of all campaigns or of one")  # fmt: skip
    parser.add_argument("--jobs", type=int, help="cases at a time; without it, as in the table")
    parser.add_argument("--case", type=int, help="number of the only case")
    options = parser.parse_args()
    chosen = [c for c in CAMPAIGNS if c.name in options.campaigns or not options.campaigns]
    if unknown := set(options.campaigns) - set(names):
        parser.error(f"no campaign {', '.join(unknown)}: choose among {', '.join(names)}")
    if options.case is not None:
        return max(_one(campaign, options.case) for campaign in chosen)
    shares, rows = _shares(options.share, names, parser), []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        for campaign in chosen:
            share = shares.get(campaign.name, shares[""])
            rows.append(_run(campaign, Path(folder), share, options.jobs))
            print(" | ".join(rows[-1].cells()), flush=True)
    text = figures(rows)
    if options.campaigns:
        print(text)
    else:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{START}\n{text}{END}{after}", encoding="utf-8")
    return int(any(outcome.verdict not in GOOD for row in rows for outcome in row.outcomes))


def _shares(texts: Sequence[str], names: Sequence[str], parser: argparse.ArgumentParser) -> dict:
    """Name of a campaign, or "" for the others, → share of its cases."""
    shares = {"": 1.0}
    for text in texts:
        name, _, number = text.rpartition("=")
        if name not in ("", *names):
            parser.error(f"--share {text}: no campaign {name!r}: choose among {', '.join(names)}")
        try:
            shares[name] = float(number)
        except ValueError:
            parser.error(f"--share {text}: {number!r} is not a number")
    return shares


def figures(rows: Sequence[Row]) -> str:
    """The table of figures, with the machine that they are of."""
    header = ["campaign", "tried", *Verdict, "slowest (s)", "peak (MB)", "took (s)"]
    lines = [header, [":---", *["---:"] * (len(header) - 1)], *(row.cells() for row in rows)]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return f"\n{date.today().isoformat()}; {machine()}.\n\n{table}\n"


def machine() -> str:
    """Processor, cores, memory and versions."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "pillow", "av"))
    model = models[0] if models else platform.machine()
    return (
        f"{len(os.sched_getaffinity(0))} cores of {model}, {memory:.0f} GiB, "
        f"Python {platform.python_version()}, {packages}"
    )


def _run(campaign: Campaign, folder: Path, share: float, jobs: int | None) -> Row:
    """Run a campaign; faults are printed as they come."""
    start, outcomes = time.monotonic(), []
    for outcome in campaign.run(folder, share, jobs):
        outcomes.append(outcome)
        if outcome.verdict not in GOOD:
            print(_line(campaign, outcome), file=sys.stderr, flush=True)
    total = campaign.count(campaign.reference_in(folder))
    return Row(campaign, outcomes, total, time.monotonic() - start)


def _one(campaign: Campaign, number: int) -> int:
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        reference, folder = Path(name) / "reference", Path(name) / "case"
        reference.mkdir()
        folder.mkdir()
        if campaign.reference is not None:
            campaign.reference(reference)
        outcome = timed(campaign.check, number, folder, reference)
    print(_line(campaign, outcome))
    return int(outcome.verdict not in GOOD)


def _line(campaign: Campaign, outcome: Outcome) -> str:
    detail = outcome.detail.encode("unicode_escape").decode()
    return f"{campaign.name} {outcome.case}: {outcome.verdict}: {detail}"


if __name__ == "__main__":
    sys.exit(main())
