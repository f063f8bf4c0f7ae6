"""Cases in processes with limits: a case that hangs or crashes ends its process, and is counted.

Cases are numbered; a worker process computes one at a time and is replaced when it is lost.
"""

import faulthandler
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path

from faults.verdicts import Outcome, Verdict

# (number of the case, folder of this worker, folder that all cases read) → outcome
Check = Callable[[int, Path, Path], Outcome]
MEMORY = 8 << 30  # bytes of address space of a worker
START = 300.0  # seconds in which a worker must have started


def run_cases(
    check: Check,
    numbers: Sequence[int],
    folder: Path,
    reference: Path,
    *,
    seconds: float,
    jobs: int,
) -> Iterator[Outcome]:
    """Yield the outcome of each case, in any order.

    seconds  limit of one case; beyond it the verdict is `hang`
    """
    queue = list(reversed(numbers))
    workers = [_Worker(check, folder / str(job), reference) for job in range(min(jobs, len(queue)))]
    try:
        while any(worker.number is not None for worker in workers) or queue:
            for worker in workers:
                if worker.number is None and queue:
                    worker.send(queue.pop())
            wait([worker.pipe for worker in workers if worker.number is not None], timeout=0.2)
            for worker in workers:
                if (outcome := worker.poll(seconds)) is not None:
                    yield outcome
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """One process, which computes at most one case."""

    def __init__(self, check: Check, folder: Path, reference: Path) -> None:
        self.arguments = check, folder, reference
        self.number: int | None = None
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(*self.arguments, other))
        self.process.start()
        other.close()
        if not self.pipe.poll(START):
            raise TimeoutError(f"a worker has not started in {START:.0f} s")
        self.pipe.recv()

    def send(self, number: int) -> None:
        self.number, self.since = number, time.monotonic()
        self.pipe.send(number)

    def poll(self, seconds: float) -> Outcome | None:
        """The outcome of the case, if it has one by now."""
        if self.number is None:
            return None
        with suppress(EOFError, ConnectionResetError):
            if self.pipe.poll():
                outcome = self.pipe.recv()
                self.number = None
                return outcome
        took = time.monotonic() - self.since
        if self.process.is_alive() and took < seconds:
            return None
        hangs = self.process.is_alive()
        self.end()
        detail = f"after {took:.0f} s" if hangs else f"exit status {self.process.exitcode}"
        verdict = Verdict.HANG if hangs else Verdict.CRASH
        outcome = Outcome(f"case {self.number}", verdict, detail, took)
        self.number = None
        self._start()
        return outcome

    def end(self) -> None:
        self.pipe.close()
        self.process.join(timeout=5 if self.number is None else 0)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _serve(check: Check, folder: Path, reference: Path, pipe: Connection) -> None:
    """Compute the cases whose numbers arrive, until the pipe closes."""
    faulthandler.enable()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, hard))
    folder.mkdir(parents=True, exist_ok=True)
    pipe.send("started")
    while True:
        try:
            number = pipe.recv()
        except EOFError:
            return
        pipe.send(timed(check, number, folder, reference))


def timed(check: Check, number: int, folder: Path, reference: Path) -> Outcome:
    """A case with its seconds; an exception that it does not catch is a traceback."""
    start = time.monotonic()
    try:
        outcome = check(number, folder, reference)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        outcome = Outcome(f"case {number}", Verdict.TRACEBACK, text)
    took = time.monotonic() - start
    return Outcome(f"{number}: {outcome.case}", outcome.verdict, outcome.detail,
                   outcome.seconds or took, outcome.megabytes)  # fmt: skip
