"""The table of campaigns: what is tried, how often, and within which limits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from faults.attacks import ATTACKS, check_attack
from faults.costs import WORST, check_cost
from faults.damage import check_damage, matrix
from faults.disks import CASES, check_disk
from faults.exports import check_export
from faults.images import check_image
from faults.kills import check_kill, make_whole_runs
from faults.reference import make_reference
from faults.tables import check_table
from faults.verdicts import Outcome
from faults.videos import check_video
from faults.workers import Check, run_cases


@dataclass(frozen=True)
class Campaign:
    """Cases of one kind, which follow from their numbers."""

    name: str
    what: str  # a clause for the page
    check: Check
    cases: int | Callable[[Path], int]  # in the whole campaign; of a matrix, by its reference
    sample: int  # in the default tests; 0: none, since each takes seconds
    seconds: float = 20.0  # limit of one case
    reference: Callable[[Path], None] | None = None  # writes what all cases read
    jobs: int = 2  # at a time

    def count(self, reference: Path) -> int:
        return self.cases if isinstance(self.cases, int) else self.cases(reference)

    def reference_in(self, folder: Path) -> Path:
        """The folder of what all cases read."""
        return folder / (self.reference.__name__ if self.reference else "none")

    def run(self, folder: Path, share: float = 1.0, jobs: int | None = None) -> Iterator[Outcome]:
        """Yield the outcomes of an evenly spaced share of the cases, at least one.

        folder  of all campaigns: those with the same reference make it once
        """
        reference = self.reference_in(folder)
        if not reference.exists():
            reference.mkdir()
            if self.reference:
                self.reference(reference)
        total = self.count(reference)
        count = max(1, round(total * share))
        numbers = [position * total // count for position in range(count)]
        yield from run_cases(
            self.check, numbers, folder / self.name, reference,
            seconds=self.seconds, jobs=jobs or self.jobs,
        )  # fmt: skip


CAMPAIGNS = (
    Campaign(
        "images", "files of every format, turned, damaged, spliced; compared with Pillow",
        check_image, 10_000, 200),
    Campaign(
        "videos", "containers turned, mirrored, damaged; compared with a linear decode",
        check_video, 2_000, 30),
    Campaign(
        "manifests", "CSV and JSON lines as people type them, or damaged; compared with `csv`",
        check_table, 3_000, 50),
    Campaign(
        "exports", "datasets of nine annotation tools, whole or damaged; compared box by box",
        check_export, 1_500, 20),
    Campaign(
        "worst files", "giants, scan bombs, chunk bombs: seconds and memory of `embed`",
        check_cost, len(WORST), 0, seconds=300, reference=make_reference, jobs=1),
    Campaign(
        "damage", "every file of a run and its cache, damaged in every way, then used",
        check_damage, lambda reference: len(matrix(reference)), 0, seconds=150,
        reference=make_reference),
    Campaign(
        "kills", "runs of every launcher and loader, killed, resumed, compared to the bit",
        check_kill, 100, 0, seconds=400, reference=make_whole_runs),
    Campaign(
        "full disks", "every verb that writes, on disks that fill up or cannot be written",
        check_disk, CASES, 0, seconds=300, reference=make_reference),
    Campaign(
        "attacks", "runs, outputs and machines as users and schedulers treat them",
        check_attack, len(ATTACKS), 0, seconds=300, reference=make_reference),
)  # fmt: skip
