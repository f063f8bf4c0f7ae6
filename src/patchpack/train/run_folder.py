"""The run folder: one run writes it at a time, and nothing in it is overwritten.

A lock on `.lock` is held while a run trains. The kernel drops it with the process, however that
ends, so no stale lock remains. The file names the process for the message to a second run.
"""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from patchpack.checkpoint import list_checkpoints
from patchpack.regular_files import read_json_object
from patchpack.train.stopping import TrainingError
from patchpack.writing import OutputExists, check_replaceable

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
    checkpoints = out / CHECKPOINTS
    if os.path.lexists(checkpoints) and not checkpoints.is_dir():
        raise TrainingError(f"{checkpoints} is no folder: choose another folder with --out")
    if list_checkpoints(checkpoints, "last"):
        raise TrainingError(
            f"{out} already holds a run: continue it with --resume {out}, "
            "or choose another folder with --out"
        )
    if best := list_checkpoints(checkpoints, "best"):
        raise TrainingError(
            f"{out} holds trained weights, {best[0].name}, which a new run would delete: "
            "choose another folder with --out"
        )
    foreign = [name for name in (CONFIG, *OUTPUTS) if os.path.lexists(out / name)]
    if foreign and not _is_begun_run(out):
        raise TrainingError(
            f"{out / foreign[0]} exists and is not of a run: choose another folder with --out"
        )


def _is_begun_run(out: Path) -> bool:
    """Whether config.json is that of a run, which then ended before its first checkpoint."""
    try:
        config = read_json_object(out / CONFIG)  # hangs on no pipe, reads no device
    except (OSError, ValueError):
        return False
    return {"data", "model", "task", "optim", "train"} <= {*config}


@contextmanager
def locked(folder: Path) -> Iterator[str]:
    """Hold the lock of an existing run folder; yield a note where the file system has no locks.

    Raise TrainingError where another process holds it, with its number, computer and start.
    """
    path = folder / LOCK
    try:
        check_replaceable(path)  # a link may lead to a file of somebody else
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o666)
    except OutputExists as error:
        raise TrainingError(str(error)) from error
    except OSError as error:
        raise TrainingError(f"cannot write to {folder}: {error.strerror}") from error
    with open(descriptor, "r+", encoding="utf-8", errors="replace") as file:
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
    file.seek(0)
    file.truncate()
    file.write(f"process {os.getpid()} on {socket.gethostname()}, since {started}\n")
    file.flush()
    return ""
