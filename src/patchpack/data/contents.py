"""Digests of file contents: whether the files of a dataset are those of an earlier run.

The digest of a file covers its length, its first and its last 32 KiB; that of a folder of frames
covers every frame. Digests are cached beside the sizes of the index, so a second call reads only
files that changed. Nothing but a call of these functions reads contents.

Axes: item (of an index), file.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt64

from patchpack.data.file_cache import (
    NO_FILE,
    Numbers,
    Signature,
    cache_path,
    file_signature,
    load_cache,
    save_cache,
    wait_for_tick,
)
from patchpack.data.images import BadImage, require_regular_file
from patchpack.data.index import Index
from patchpack.data.video.decode import frames_in

ENDS = 32 * 1024  # bytes at the start and at the end of a file that its digest covers
THREADS = 16
MISSING = 0  # digest of a file that cannot be read


def content_digests(index: Index, *, cache_dir: Path | None = None) -> UInt64[np.ndarray, " item"]:
    """Return a digest of the contents of each item and of its annotation files (masks).

    cache_dir  folder of cached digests; None: ~/.cache/patchpack/index

    A file that cannot be read has the digest 0.
    """
    annotations = [annotation.files() for annotation in index.annotations.values()]
    files = [index.keys, *(paths for paths in annotations if paths)]
    flat = file_digests(index.root, [key for keys in files for key in keys], cache_dir=cache_dir)
    table = flat.reshape(len(files), len(index))
    if len(files) == 1:
        return table[0]
    rows = table.view(np.int64).T.tolist()
    return np.array([_combine(row) for row in rows], np.int64).view(np.uint64)


def file_digests(
    root: Path, keys: Sequence[str], *, cache_dir: Path | None = None
) -> UInt64[np.ndarray, " file"]:
    """Return a digest of the contents of each file or folder of frames.

    root       folder that the keys are relative to
    keys       paths; a file that cannot be read has the digest 0
    cache_dir  folder of cached digests; None: ~/.cache/patchpack/index
    """
    frames = {key: list(_frames(root, key)) for key in dict.fromkeys(keys)}
    names = [name for of_key in frames.values() for name in of_key]
    digests = _digests(root, names, cache_path(root.resolve(), "contents", cache_dir))

    def digest(key: str) -> int:
        if frames[key] == [key]:
            return digests[key]
        parts = (os.path.basename(name).encode("utf-8", "surrogatepass") for name in frames[key])
        return _combine([digests[name] for name in frames[key]], b"\0".join(parts))

    return np.array([digest(key) for key in keys], np.int64).view(np.uint64)


def _frames(root: Path, key: str) -> Iterator[str]:
    """Yield the names of the frames of a folder; that of a file alone."""
    try:
        if not os.path.isdir(path := os.path.join(root, key)):
            yield key
            return
        yield from (f"{key}/{frame.name}" for frame in frames_in(Path(path), key))
    except (BadImage, ValueError):  # no frame, or an impossible name
        yield key


def _digests(root: Path, names: Sequence[str], cache: Path) -> dict[str, int]:
    """Return the digest of each file, cached or read."""
    cached = load_cache(cache, 1)
    with ThreadPoolExecutor(THREADS) as pool:
        paths = [os.path.join(root, name) for name in names]
        signatures = dict(zip(names, pool.map(file_signature, paths), strict=True))
        missing = [name for name in names if _outdated(cached.get(name), signatures[name])]
        wait_for_tick(signatures[name] for name in missing)
        values = pool.map(_read_digest, [os.path.join(root, name) for name in missing])
        new = {
            name: (signatures[name], (value,)) for name, value in zip(missing, values, strict=True)
        }
    entries = cached | {name: entry for name, entry in new.items() if entry[1] != (MISSING,)}
    if entries != cached:
        save_cache(cache, entries)
    entries |= new
    return {name: entries[name][1][0] for name in names}


def _outdated(entry: tuple[Signature, Numbers] | None, signature: Signature) -> bool:
    return entry is None or entry[0] != signature or signature == NO_FILE


def _read_digest(path: str) -> int:
    """Return the digest of a file: its length, its first and its last bytes."""
    try:
        require_regular_file(path)
        with open(path, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            hash = hashlib.blake2b(length.to_bytes(8, "little"), digest_size=8)
            hash.update(file.read(ENDS if length > 2 * ENDS else 2 * ENDS))
            if length > 2 * ENDS:
                file.seek(-ENDS, os.SEEK_END)
                hash.update(file.read(ENDS))
    except (OSError, ValueError, BadImage):
        return MISSING
    return int.from_bytes(hash.digest(), "little", signed=True)


def _combine(digests: Sequence[int], names: bytes = b"") -> int:
    """Return one digest of several, and of the names of their files."""
    hash = hashlib.blake2b(np.array(digests, "<i8").tobytes(), digest_size=8)
    hash.update(names)
    return int.from_bytes(hash.digest(), "little", signed=True)
