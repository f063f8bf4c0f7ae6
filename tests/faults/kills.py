"""Runs that are killed at a random moment, resumed to the end, and compared to the bit.

A case follows from its number: launcher, kind of loader, signal, whom it reaches, and when. After
it: the exit status of a signal that can be caught is 128 + its number, no process is left, the run
resumes (or, where it had saved nothing, starts again), and ends with the bits of a run that was
left alone.
"""

import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conftest import write_folder
from faults.commands import Command, TimedOut, run, start
from faults.mutate import any_of
from faults.reference import OPTIONS, SIZES, cache_of, same_tensors, step_of
from faults.verdicts import Outcome, Verdict

GRACE = 15.0  # seconds after which nothing of a killed run may be left
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
STEPS = 30
LONG = [*OPTIONS, *f"--train.steps {STEPS} --train.eval-every 12 --train.save-every 3".split()]


@dataclass(frozen=True)
class Kill:
    """Who is killed how, and when."""

    ranks: int
    loader: str  # "main", "threads" or "processes"
    signal: signal.Signals
    reach: str  # "process": the first alone; "group": all; "worker": a loader process
    share: float  # of the run's length at which it is killed, from its first step; below 0: before

    def __str__(self) -> str:
        launcher = "torchrun with two ranks" if self.ranks == 2 else "one process"
        return (
            f"{launcher}, loader {self.loader}, {self.signal.name} to the {self.reach} "
            f"at {self.share:.0%}"
        )


def kill_of(seed: int) -> Kill:
    """Every combination of launcher, loader, signal and reach comes first, then again."""
    rng = np.random.default_rng([4, seed])
    loader = ("main", "threads", "processes", "threads")[seed % 4]
    ranks = 2 if seed % 5 == 4 else 1
    reach = ("process", "group")[seed // 4 % 2]
    if loader == "processes" and ranks == 1 and seed // 4 % 3 == 2:
        reach = "worker"
    return Kill(ranks, loader, any_of(SIGNALS, rng), reach, float(rng.uniform(-0.3, 1.0)))


def make_whole_runs(folder: Path) -> None:
    """Write data/ and the runs that are left alone, of one process and of two."""
    data = write_folder(folder / "data", SIZES)
    for ranks in (1, 2):
        words = ["train", data, *LONG, "--out", folder / f"whole{ranks}"]
        result = run(words, folder / "command", seconds=120, env=cache_of(folder),
                     launcher=ranks == 2)  # fmt: skip
        assert result.status == 0, result.err


def check_kill(seed: int, folder: Path, reference: Path) -> Outcome:
    kill = kill_of(seed)
    out = folder / "run"
    for path in (out, folder / "cache"):
        shutil.rmtree(path, ignore_errors=True)
    try:
        verdict, detail = _kill_and_resume(kill, out, folder, reference)
    except TimedOut as error:
        verdict, detail = Verdict.HANG, str(error)
    return Outcome(str(kill), verdict, detail)


def _kill_and_resume(kill: Kill, out: Path, folder: Path, reference: Path) -> tuple[Verdict, str]:
    loader = ["--data.loader.workers", "0" if kill.loader == "main" else "2"]
    if kill.loader == "processes":
        loader += ["--data.loader.worker-type", "processes"]
    words = ["train", reference / "data", *LONG, *loader, "--out", out]
    options = {"env": cache_of(folder), "launcher": kill.ranks == 2}
    running = start(words, folder / "killed", **options)
    reached = _wait_for(kill, out, running)
    if reached:
        _send(kill, running)
    result = running.wait(60)
    left = _left(running)
    running.kill()
    saved = step_of(out)
    if left:
        return Verdict.HANG, f"{left} processes are left after {GRACE:.0f} s"
    ours = kill.ranks == 1 or "patchpack/__main__.py" in result.err  # torchrun has its own
    if "Traceback" in result.err and ours and kill.reach != "worker":
        return Verdict.TRACEBACK, result.err[-300:]
    caught = kill.signal != signal.SIGKILL and reached and saved > 0
    if caught and kill.ranks == 1 and kill.reach != "worker":
        if result.status not in (0, 128 + kill.signal):
            return Verdict.CRASH, f"status {result.status}: {result.err[-300:]}"
    again = ["train", "--resume", out] if saved else words
    resumed = run(again, folder / "resumed", seconds=120, **options)
    if resumed.status != 0:
        verdict = Verdict.TRACEBACK if "Traceback" in resumed.err else Verdict.UNCLEAR
        return verdict, f"does not resume: {resumed.err[-300:]}"
    if not same_tensors(out, reference / f"whole{kill.ranks}"):
        return Verdict.SILENT, "its weights are not those of a run that was left alone"
    return Verdict.RIGHT, f"goes on from step {saved}"


def _wait_for(kill: Kill, out: Path, running: Command) -> bool:
    """Wait for the moment of the kill; False if the run has ended before."""
    log, until = out / "log.jsonl", time.monotonic() + 60
    if kill.share < 0:
        time.sleep(-kill.share * (2 if kill.ranks == 1 else 20))
        return _alive(running.pid)
    while time.monotonic() < until and _alive(running.pid):
        with suppress(OSError):
            if log.read_bytes().count(b'"kind": "train"') >= kill.share * STEPS:
                time.sleep(float(np.random.default_rng(int(kill.share * 1e6)).uniform(0, 0.05)))
                return _alive(running.pid)
        time.sleep(0.002)
    return False


def _send(kill: Kill, running: Command) -> None:
    targets = [running.pid]
    if kill.reach == "group":
        targets += running.left()
    elif kill.reach == "worker":
        targets = running.left()[-1:] or targets
    for pid in targets:
        with suppress(ProcessLookupError):
            os.kill(pid, kill.signal)


def _left(running: Command) -> int:
    """Number of processes that are left of a run after the time of grace."""
    until = time.monotonic() + GRACE
    while (left := running.left()) and time.monotonic() < until:
        time.sleep(0.1)
    return len(left)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
