"""Files written whole or not at all: to a new file of a random name beside them, then renamed.

    write_new(path, content)      never replaces a file, and never follows a link
    replace_file(path, content)   replaces a file of the program's own; not a link, not a folder

`content` is bytes or a function that writes to a binary file. On failure nothing is left behind,
and the error, an OSError, has the path. The file is synced before it gets its name.
"""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

Content = bytes | Callable[[BinaryIO], object]
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EMLINK}


class OutputExists(ValueError):
    """An output would replace a file."""


class WriteError(OSError):
    """An output could not be written; the message has its path and the reason."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(error.errno, error.strerror or str(error))
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} could not be written: {self.strerror}"


def check_new(path: Path) -> None:
    """Raise OutputExists for a path that exists, also as a link that leads nowhere."""
    if os.path.lexists(path):
        raise OutputExists(f"{path} exists, and is not overwritten: name another output")


def check_replaceable(path: Path) -> None:
    """Raise OutputExists for a path that exists and is no regular file."""
    with suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OutputExists(f"{path} is no regular file, and is not replaced: remove it")


def write_new(path: Path, content: Content) -> None:
    """Write a file that does not exist yet; raise OutputExists where it does."""
    check_new(path)
    with _written(path, content) as temporary:
        try:
            os.link(temporary, path, follow_symlinks=False)
        except FileExistsError:
            check_new(path)
            raise
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            check_new(path)  # a file system without hard links
            os.rename(temporary, path)


def replace_file(path: Path, content: Content) -> None:
    """Write or replace a file atomically; raise OutputExists for a link, a folder or a device."""
    check_replaceable(path)
    with _written(path, content) as temporary:
        check_replaceable(path)
        os.replace(temporary, path)


def write_text_atomic(path: Path, text: str) -> None:
    """Write or replace a UTF-8 text file, as `replace_file` does."""
    replace_file(path, text.encode())


@contextmanager
def _written(path: Path, content: Content) -> Iterator[Path]:
    """A synced file beside `path` with the content, removed at the end if it still exists."""
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
        _sync_folder(path.parent)
    except OSError as error:
        raise WriteError(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Sync the name of a file; some network file systems cannot."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
