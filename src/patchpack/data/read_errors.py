"""Errors of reading files: damage of the file, and failures of the machine that reads it.

A damaged file is a BadImage: it is skipped, counted and reported. A failed disk or network, too
many open files and missing memory are no damage: reading is repeated after short pauses, and then
ReadError stops the command, because a run without these files would be another run.
"""

import errno
import os
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from patchpack.printable import printable

T = TypeVar("T")
PAUSES = (0.05, 0.2, 0.6)  # seconds before each further attempt
MACHINE_ERRORS = frozenset(
    (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN,
     errno.ENOMEM, errno.EINTR, errno.ENOLCK, errno.EBUSY, errno.ENETDOWN, errno.ENETUNREACH,
     errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN,
     errno.EREMOTEIO)
)  # fmt: skip
OUT_OF_MEMORY = ("out of memory", "allocate memory")  # in messages of Pillow, decoders, PyTorch
BYTES_PER_PIXEL = 16  # more than reading an image takes


class _FileError(Exception):
    """An error of one file: its key and the reason."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key, self.reason = key, reason

    def __str__(self) -> str:
        """Return one line, with unprintable characters escaped."""
        return printable(f"{self.key}: {self.reason}")


class BadImage(_FileError, ValueError):
    """An image that cannot be read: its key and the reason."""


class ReadError(_FileError, RuntimeError):
    """A file that the machine failed to read several times: its key and the reason."""


def retry(
    read: Callable[[], T], key: str, is_damage: Callable[[Exception], bool] = lambda error: False
) -> T:
    """Return the result of `read`, repeated while the machine fails.

    is_damage  whether the contents of the file caused an error that seems to be the machine's

    Raise ReadError after the last attempt, and at once BadImage for any other error.
    """
    for pause in (*PAUSES, None):
        try:
            return read()
        except ReadError:
            raise
        except BadImage as error:
            raise BadImage(key, error.reason) from error
        except Exception as error:  # decoders raise exceptions of any type on hostile files
            if not is_machine_failure(error):
                raise BadImage(key, explain_error(error)) from error
            if pause is None:
                reason = explain_error(error)
                if is_damage(error):
                    name = type(error).__name__
                    raise BadImage(key, f"is damaged (decoding ends in {name})") from error
                raise ReadError(key, f"{reason}, {len(PAUSES) + 1} times") from error
            time.sleep(pause)
    raise AssertionError("unreachable")


def is_machine_failure(error: BaseException) -> bool:
    """Return whether the machine failed, and not the file."""
    number = getattr(error, "errno", None)
    return number in MACHINE_ERRORS if number else is_out_of_memory(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory could not be had, by type or, for decoders, by message."""
    return (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or (
            isinstance(error, OSError | RuntimeError | ValueError)
            and any(words in str(error).lower() for words in OUT_OF_MEMORY)
        )
    )


def has_memory(pixels: int) -> bool:
    """Return whether there is memory for an image: a damaged file may request any amount."""
    try:
        np.empty(BYTES_PER_PIXEL * pixels, np.uint8)
    except MemoryError:
        return False
    return True


def has_readable_bytes(path: str | os.PathLike[str]) -> bool:
    """Return whether a file can be read to its end: decoders report some damage as EIO."""
    try:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
    except OSError:
        return False
    return True


def explain_error(error: Exception) -> str:
    """Return a short reason for a reading error, to follow the file's name."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "is a folder"
    if isinstance(error, PermissionError):
        return "cannot be read (permission denied)"
    if is_out_of_memory(error):
        return "cannot be read (there is not enough memory)"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return f"is damaged ({text})"
