"""Full disks at every write, and run folders that cannot be written.

A case is a verb and the size of the disk that it writes to: small sizes end it at its first write,
larger ones at a later one. The disk is a tmpfs where mounting is permitted; elsewhere files have a
maximum length (RLIMIT_FSIZE), and a folder that cannot be written has no write permission.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from faults.commands import Result, TimedOut, run
from faults.reference import OPTIONS, cache_of, copy_run, same_tensors, step_of
from faults.verdicts import Outcome, Verdict, of_command

KILOBYTES = (4, 16, 28, 40, 64, 100, 160, 240, 360, 520)  # sizes of the disk
ENOUGH = 64 << 10
Words = Callable[[Path, Path], list]  # (disk, reference) → command
VERBS: dict[str, Words] = {
    "train": lambda disk, ref: ["train", ref / "data", *OPTIONS, "--out", disk / "run"],
    "embed": lambda disk, ref: ["embed", ref / "runs/half", ref / "data", "-o", disk / "v.npz"],
    "eval": lambda disk, ref: ["eval", disk / "run"],
    "eval --suite": lambda disk, ref: [
        "eval", disk / "run", "--suite", "calibration", "--out", disk / "report"],
    "inspect --picture": lambda disk, ref: [
        "inspect", ref / "data", "--picture", disk / "picture.png"],
}  # fmt: skip
READ_ONLY: dict[str, Words] = {
    "eval": lambda disk, ref: ["eval", disk / "run"],
    "eval --suite": lambda disk, ref: [
        "eval", disk / "run", "--suite", "calibration", "--out", ref.parent / "report"],
    "predict": lambda disk, ref: ["predict", disk / "run", ref / "data/test"],
    "embed": lambda disk, ref: ["embed", disk / "run", ref / "data", "-o", ref.parent / "v.npz"],
    "compare": lambda disk, ref: [
        "compare", disk / "run", ref / "runs/half", "--out", ref.parent / "report"],
}  # fmt: skip
CASES = len(VERBS) * len(KILOBYTES) + len(READ_ONLY)


def check_disk(number: int, folder: Path, reference: Path) -> Outcome:
    read_only = number - len(VERBS) * len(KILOBYTES)
    try:
        if read_only >= 0:
            verb = list(READ_ONLY)[read_only]
            name = f"{verb} of a run folder that cannot be written"
            return Outcome(name, *_cannot_write(verb, folder, reference))
        verb, size = list(VERBS)[number % len(VERBS)], KILOBYTES[number // len(VERBS)]
        name = f"{verb} on a disk of {size} kB"
        return Outcome(name, *_full(verb, size, folder, reference))
    except TimedOut as error:
        return Outcome(name, Verdict.HANG, str(error))


def _full(verb: str, kilobytes: int, folder: Path, reference: Path) -> tuple[Verdict, str]:
    """A refusal names a file and leaves no parts of one; a run goes on once there is space."""
    with disk_of(folder / "disk", ENOUGH) as disk:
        if verb.startswith("eval"):
            disk.copy(copy_run(reference, "half", folder))
        disk.resize(disk.used() // 1024 + kilobytes)
        words = VERBS[verb](disk.path, reference)
        result = disk.run(words, folder)
        verdict, detail = of_command(result.status, result.err, (str(disk.path),))
        parts = [str(p) for p in disk.path.rglob("*") if p.name.startswith(".tmp")]
        disk.resize(ENOUGH)
        if verdict not in (Verdict.RIGHT, Verdict.REFUSED):
            return verdict, detail
        if parts:
            return Verdict.UNCLEAR, f"leaves {parts}, {detail}"
        if verb == "eval" and _scores(result.out) != _scores(_printed(verb, reference, folder)):
            return Verdict.UNCLEAR, f"prints no result: {result.out[-200:]}, {detail}"
        if verb == "train":
            out = disk.path / "run"
            again = ["train", "--resume", out] if step_of(out) else words
            after = disk.run(again, folder)
            if after.status and "nothing" not in after.err and verdict == Verdict.REFUSED:
                return Verdict.UNCLEAR, f"does not go on: {after.err[-300:]}"
            if not same_tensors(out, reference / "runs" / "whole"):
                return Verdict.SILENT, "goes on to other weights"
        return verdict, detail


def _cannot_write(verb: str, folder: Path, reference: Path) -> tuple[Verdict, str]:
    """Verbs that read a run need not write into its folder."""
    for path in (reference.parent / "report", reference.parent / "v.npz"):
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
    with disk_of(folder / "disk", ENOUGH) as disk:
        disk.copy(copy_run(reference, "half", folder))
        disk.forbid_writing()
        result = disk.run(READ_ONLY[verb](disk.path, reference), folder)
        verdict, detail = of_command(result.status, result.err, (str(disk.path),))
        if verdict == Verdict.REFUSED:
            return Verdict.UNCLEAR, f"refused, where nothing need be written: {detail}"
        return verdict, detail


def _scores(out: str) -> list[list[str]]:
    """The rows of a table of results, without the columns of times."""
    return [line.split()[:4] for line in out.splitlines() if line.strip()[:1].isdigit()]


def _printed(verb: str, reference: Path, folder: Path) -> str:
    """What a verb prints where there is space."""
    with disk_of(folder / "disk2", ENOUGH) as disk:
        disk.copy(copy_run(reference, "half", folder))
        return disk.run(VERBS[verb](disk.path, reference), folder).out


class Disk:
    """A folder of limited size."""

    def __init__(self, path: Path, mounted: bool, kilobytes: int) -> None:
        self.path, self.mounted, self.kilobytes = path, mounted, kilobytes

    def run(self, words: list, folder: Path) -> Result:
        limits = {} if self.mounted else {"RLIMIT_FSIZE": self.kilobytes * 1024}
        options = {"env": cache_of(folder), "limits": limits}
        return run(words, folder / "command", seconds=60, **options)

    def copy(self, source: Path) -> None:
        shutil.copytree(source, self.path / source.name)

    def used(self) -> int:
        """Bytes in use, in whole pages."""
        if not self.mounted:
            return 0
        status = os.statvfs(self.path)
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    def resize(self, kilobytes: int) -> None:
        self.kilobytes = kilobytes
        if self.mounted:
            _mount("-o", f"remount,size={kilobytes}k", str(self.path))

    def forbid_writing(self) -> None:
        if self.mounted:
            _mount("-o", "remount,ro", str(self.path))
        else:
            for path in (self.path, *self.path.rglob("*")):
                path.chmod(path.stat().st_mode & ~0o222)


@contextmanager
def disk_of(path: Path, kilobytes: int) -> Iterator[Disk]:
    """A small disk at a path, which is empty before and gone after."""
    subprocess.run(["umount", "--lazy", str(path)], capture_output=True, check=False)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    mounted = _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(path))
    try:
        yield Disk(path, mounted, kilobytes)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(path)], check=True)
        else:
            for folder in (path, *path.rglob("*")):
                folder.chmod(folder.stat().st_mode | 0o700)


def _mount(*words: str) -> bool:
    return subprocess.run(["mount", *words], capture_output=True, check=False).returncode == 0
