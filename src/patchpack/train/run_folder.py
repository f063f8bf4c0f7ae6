"""The run folder: one run writes it at a time, and nothing in it is overwritten.

A lock on `.lock` is held while a run trains. The kernel drops it with the process, however that
ends, so no stale lock remains. The file names the process for the message to a second run.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from patchpack.checkpoint import list_checkpoints
from patchpack.train.stopping import TrainingError

CHECKPOINTS = "checkpoints"
CONFIG = "config.json"
LOCK = ".lock"
OUTPUTS = ("log.jsonl", "curves.png", "items.safetensors", "operating_point.json")


def check_new_folder(out: Path, root: Path) -> None:
    """Raise TrainingError where a new run would overwrite files, or become part of its own data.

    root  folder or file of the data
    """
    if root.is_dir() and out.resolve().is_relative_to(root):
        raise TrainingError(
            f"{out} is inside the data folder {root}: the run's pictures would become data; "
            "choose a folder outside with --out"
        )
    if list_checkpoints(out / CHECKPOINTS, "last"):
        raise TrainingError(
            f"{out} already holds a run: continue it with --resume {out}, "
            "or choose another folder with --out"
        )
    if best := list_checkpoints(out / CHECKPOINTS, "best"):
        raise TrainingError(
            f"{out} holds trained weights, {best[0].name}, which a new run would delete: "
            "choose another folder with --out"
        )
    foreign = [name for name in (CONFIG, *OUTPUTS) if (out / name).exists()]
    if foreign and not _is_begun_run(out):
        raise TrainingError(
            f"{out / foreign[0]} exists and is not of a run: choose another folder with --out"
        )


def _is_begun_run(out: Path) -> bool:
    """Whether config.json is that of a run, which then ended before its first checkpoint."""
    try:
        config = json.loads((out / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and {"data", "model", "task", "optim", "train"} <= {*config}


@contextmanager
def locked(folder: Path) -> Iterator[str]:
    """Hold the lock of an existing run folder; yield a note where the file system has no locks.

    Raise TrainingError where another process holds it, with its number, computer and start.
    """
    try:
        file = (folder / LOCK).open("a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise TrainingError(f"cannot write to {folder}: {error.strerror}") from error
    with file:
        note = _acquire(file, folder)
        yield note


def _acquire(file: TextIO, folder: Path) -> str:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read(200).strip() or "another process"
        raise TrainingError(
            f"{folder} is in use by {holder}: wait for that run, stop it, or choose another folder"
        ) from None
    except OSError as error:  # a network file system without locks
        return f"{folder} cannot be locked ({error.strerror}): start no second run in it"
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}, since {started}\n")
    file.flush()
    return ""
