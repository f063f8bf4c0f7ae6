"""Numbers read from files, such as sizes and digests, cached outside the dataset.

An entry is valid as long as its file's signature is: modification time, change time and length. The
change time cannot be set by a program, so a file replaced by one of the same length and
modification time is read again. A cache that is missing, outdated or damaged counts as empty.
"""

import hashlib
import os
import time
import zipfile
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from uuid import uuid4

import numpy as np

from patchpack.data.video.decode import frames_in

CACHE_VERSION = 6
CLOCK_TICK = 10_000_000  # ns; file systems round the time of a change to the kernel's clock tick
Signature = tuple[int, int, int]  # modification and change time in ns, length in bytes
Numbers = tuple[int, ...]  # what was read from a file, as 64-bit integers
NO_FILE: Signature = (0, 0, 0)


def file_signature(path: str | os.PathLike[str]) -> Signature:
    """Return values that change with the file, or with the first frame of a folder; zeros if there
    is no file."""
    try:
        stat = os.stat(path)
        if S_ISDIR(stat.st_mode):
            frame = os.stat(frames_in(Path(path), os.fspath(path))[0])
        else:
            frame = stat
    except (OSError, ValueError):  # ValueError: an impossible file name, or no frame
        return NO_FILE
    times = (max(stat.st_mtime_ns, frame.st_mtime_ns), max(stat.st_ctime_ns, frame.st_ctime_ns))
    # Times before 1970 or after 2262 exceed 64 bits, and are wrapped.
    return times[0] % 2**63, times[1] % 2**63, frame.st_size


def wait_for_tick(signatures: Iterable[Signature]) -> None:
    """Wait until a file that is changed from now on has another change time than in a signature.

    At most one clock tick, for files that were changed during the last one.
    """
    newest = max((changed for _, changed, _ in signatures), default=0)
    if 0 <= time.time_ns() - newest < CLOCK_TICK:
        time.sleep(CLOCK_TICK / 1e9)


def cache_path(source: Path, kind: str, cache_dir: Path | None) -> Path:
    """Return the cache file of a dataset.

    source     resolved path of the dataset
    kind       what is cached, the start of the file's name
    cache_dir  folder of the cache; None: ~/.cache/patchpack/index
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.blake2b(os.fsencode(source), digest_size=16).hexdigest()
    return (cache_dir or home / "patchpack" / "index") / f"{kind}-{name}.npz"


def load_cache(path: Path, width: int) -> dict[str, tuple[Signature, Numbers]]:
    """Return signature and numbers of each key; empty if the cache cannot be used.

    width  numbers per key
    """
    try:
        if not S_ISREG(os.stat(path).st_mode):
            return {}
        data = path.read_bytes()
        with zipfile.ZipFile(BytesIO(data)) as archive:
            if sum(member.file_size for member in archive.infolist()) > len(data):
                return {}  # compressed, so not written here
        with np.load(BytesIO(data), allow_pickle=False) as cache:
            if int(cache["version"]) != CACHE_VERSION:
                return {}
            keys = bytes(cache["keys"]).decode("utf-8", "surrogatepass").split("\0")
            rows = cache["numbers"]
        if rows.dtype != np.int64 or rows.shape[1:] != (3 + width,):
            return {}
        return {
            key: ((modified, changed, length), tuple(numbers))
            for key, (modified, changed, length, *numbers) in zip(keys, rows.tolist(), strict=True)
        }
    except Exception:  # a cache can always be made again
        return {}


def save_cache(path: Path, entries: Mapping[str, tuple[Signature, Numbers]]) -> None:
    """Write the cache atomically; do nothing if its folder is not writable."""
    keys = "\0".join(entries).encode("utf-8", "surrogatepass")
    rows = [(*signature, *numbers) for signature, numbers in entries.values()]
    unfinished = path.with_suffix(f".{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                np.savez(
                    file,
                    version=CACHE_VERSION,
                    keys=np.frombuffer(keys, np.uint8),
                    numbers=np.array(rows, np.int64),
                )
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError:
        return
