"""How a run stops before its end: by a signal, or because it cannot go on.

A stop signal ends the run after the step in progress, with a checkpoint. The groups that send
signals do so more than once: `timeout` signals its child and then the group, torchrun passes on
what the group received. Hence only a second Ctrl-C, a second after the first, ends a run at once.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from patchpack.data.read_errors import ReadError
from patchpack.distributed import is_lost_process

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_STOP = 1.0  # seconds within which signals count as one


class TrainingError(RuntimeError):
    """The run cannot continue; the message gives the reason and a remedy."""


class Stopped(Exception):
    """The run received a stop signal, and has saved a checkpoint."""

    def __init__(self, signal_number: int, step: int, folder: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name} after step {step}")
        self.signal_number, self.folder = signal_number, folder


@contextmanager
def catch_stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP; a second SIGINT terminates the process.

    A SIGHUP that is ignored, as by nohup, stays ignored.
    """
    received: list[int] = []
    first = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if received and number == signal.SIGINT and now - first > SAME_STOP:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        first = first or now
        received.append(number)

    caught = [
        number
        for number in STOP_SIGNALS
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    ]
    handlers = {number: signal.signal(number, note) for number in caught}
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def saved_on_loss(save: Callable[[], str]) -> Iterator[None]:
    """Save the last completed step where data cannot be read, or another process has ended.

    save  saves, and returns how to continue

    Raise TrainingError with the reason.
    """
    try:
        yield
    except (OSError, ReadError) as error:
        raise TrainingError(f"{error}; {save()}") from error
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        raise TrainingError(f"another process of this run has ended; {save()}") from error


@contextmanager
def naming_lost_process() -> Iterator[None]:
    """Raise TrainingError where a collective operation fails because another process has ended."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        raise TrainingError("another process of this run has ended; see its message") from error
