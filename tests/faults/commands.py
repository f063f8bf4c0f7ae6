"""`patchpack …` in a process of its own, with limits, signals and what it leaves behind."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import patchpack

MARK = "PATCHPACK_FAULTS"  # environment variable by which the processes of a command are known
TESTS = Path(__file__).parent.parent
LAUNCHER = (
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
    "patchpack",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    status: int  # negative: the number of the signal
    out: str
    err: str
    seconds: float = 0.0  # of computing; 0: not measured
    megabytes: float = 0.0  # peak memory above that of the imported package; 0: not measured


class TimedOut(Exception):
    """A command took longer than its limit, and was killed."""


@dataclass
class Command:
    """A command that runs."""

    pid: int
    folder: Path  # of its out.txt and err.txt
    mark: str  # value of MARK in the environment of all of its processes but the first
    process: subprocess.Popen | None = None  # None: a child of the zygote

    def wait(self, seconds: float) -> Result:
        """Its result; raises TimedOut after these seconds, with all of its processes killed."""
        try:
            if self.process is not None:
                answer = {"status": self.process.wait(seconds)}
            else:
                answer = _zygote().wait(self.pid, seconds)
        except (subprocess.TimeoutExpired, TimedOut):
            self.kill()
            raise TimedOut(f"no end after {seconds:.0f} s") from None
        out, err = (
            (self.folder / name).read_bytes().decode(errors="backslashreplace")
            for name in ("out.txt", "err.txt")
        )
        return Result(out=out, err=err, **answer)

    def left(self) -> list[int]:
        """Its processes that still run, but for the first."""
        return [pid for pid in marked(self.mark) if pid != self.pid]

    def kill(self) -> None:
        for pid in [self.pid, *self.left()]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def start(
    words: Sequence[object],
    folder: Path,
    *,
    env: Mapping[str, str] | None = None,
    limits: Mapping[str, int] | None = None,
    launcher: bool = False,
    cwd: Path | None = None,
) -> Command:
    """Start `patchpack <words>`; its output goes to files in the folder.

    limits    of resources, by the names of the module `resource`
    launcher  by torchrun, with two ranks
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark = uuid4().hex
    added = {**(env or {}), MARK: mark}
    texts = [str(word) for word in words]
    if not launcher:
        request = {
            "words": texts, "env": added, "limits": dict(limits or {}), "cwd": str(cwd or folder),
            "out": str(folder / "out.txt"), "err": str(folder / "err.txt"),
        }  # fmt: skip
        return Command(_zygote().start(request), folder, mark)
    with (folder / "out.txt").open("wb") as out, (folder / "err.txt").open("wb") as err:
        process = subprocess.Popen(
            [*LAUNCHER, *texts], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            env=environment() | added, cwd=cwd or folder, start_new_session=True,
        )  # fmt: skip
    return Command(process.pid, folder, mark, process)


def run(words: Sequence[object], folder: Path, *, seconds: float = 60, **options: Any) -> Result:
    """Run a command to its end; raises TimedOut."""
    return start(words, folder, **options).wait(seconds)


def marked(mark: str) -> list[int]:
    """Processes, zombies apart, that were started with a mark in their environment."""
    wanted, pids = f"{MARK}={mark}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    pids.append(int(entry.name))
    return pids


def environment() -> dict[str, str]:
    """One compute thread, and this source and these tests before what is installed."""
    paths = (str(Path(patchpack.__file__).parent.parent), str(TESTS))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


class _Zygote:
    """The near end of `zygote.py`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "faults.zygote"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env=environment(),
        )  # fmt: skip
        self.ended: dict[int, dict[str, Any]] = {}
        self.lines = b""

    def start(self, request: dict[str, Any]) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        while True:
            answer = self._read(60)
            if answer is None:
                raise TimedOut("the zygote starts no command")
            if "status" not in answer:
                return answer["pid"]
            self.ended[answer["pid"]] = answer

    def wait(self, pid: int, seconds: float) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while pid not in self.ended:
            answer = self._read(until - time.monotonic())
            if answer is None:
                raise TimedOut(str(pid))
            self.ended[answer["pid"]] = answer
        answer = self.ended.pop(pid)
        del answer["pid"]
        return answer

    def _read(self, seconds: float) -> dict[str, Any] | None:
        """The next answer; None if none comes in time."""
        assert self.process.stdout is not None
        until = time.monotonic() + seconds
        while b"\n" not in self.lines:
            left = max(0.0, until - time.monotonic())
            if not select.select([self.process.stdout], [], [], left)[0]:
                return None
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                raise TimedOut("the zygote has ended")
            self.lines += data
        line, _, self.lines = self.lines.partition(b"\n")
        return json.loads(line)


@cache
def _zygote() -> _Zygote:
    return _Zygote()
