"""Imported by the fork server of the loader processes alone, and so a part of each of them.

A loader process that has just been forked waits for what it is to run. If the main process is
killed in this moment, the pipe ends, and the process has nothing to do: it ends without a
traceback of `multiprocessing`.
"""

import sys
from types import TracebackType


def _end_quietly(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    if not isinstance(error, EOFError | BrokenPipeError):
        sys.__excepthook__(kind, error, at)


sys.excepthook = _end_quietly
