"""Image files by the names that annotations have for them.

Tools write names of their own machine: with backslashes, absolute, as addresses, or with a prefix
that an upload added. The first candidate that exists is taken; a folder is listed once.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from patchpack.data.images import SUFFIXES

UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-")  # of Label Studio
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://|/?data/(upload|local-files)/", re.IGNORECASE)
FOREIGN = re.compile(r"[A-Za-z]:/|/|\.\./|upload/|data/")  # starts of paths of another machine


class ImageLookup:
    """The image files below, or near, a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, frozenset[str]] = {}  # by folder
        self._stems: dict[str, dict[str, str]] = {}  # by folder: stem → name

    def key(self, name: str, folders: Sequence[str]) -> str:
        """Return the path of an image relative to the root.

        name     as the annotations have it
        folders  relative to the root, where it may be; the first that has it

        Return the name where there is no such file.
        """
        path = name if self.exists(name) else name.replace("\\", "/")
        for spelling in _spellings(path):
            for folder in folders:
                key = os.path.normpath(os.path.join(folder, spelling))
                if self.exists(key):
                    return key
        return os.path.normpath(path)

    def with_stem(self, stem: str, folders: Sequence[str]) -> str | None:
        """Return the path of the image with this name but for its suffix; None without any."""
        for folder in folders:
            parent, name = os.path.split(os.path.normpath(os.path.join(folder, stem)))
            if parent not in self._stems:
                images = sorted(self._list(parent), reverse=True)
                self._stems[parent] = {os.path.splitext(n)[0]: n for n in images if is_image(n)}
            if name in self._stems[parent]:
                return os.path.join(parent, self._stems[parent][name])
        return None

    def exists(self, key: str) -> bool:
        folder, name = os.path.split(key)
        return name in self._list(folder)

    def images(self, folder: str) -> list[str]:
        """Return the keys of all image files in a folder, sorted."""
        return [os.path.join(folder, name) for name in sorted(self._list(folder)) if is_image(name)]

    def _list(self, folder: str) -> frozenset[str]:
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(self.root / folder))
            except (OSError, ValueError):  # ValueError: an impossible name
                self._names[folder] = frozenset()
        return self._names[folder]


def is_image(name: str) -> bool:
    """Return whether a file has the suffix of an image, and is not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _spellings(path: str) -> Iterator[str]:
    """Yield paths to try for a name with slashes."""
    yield path
    if ADDRESS.match(path):
        try:
            parts = urlsplit(path)
        except ValueError:
            return
        local = parse_qs(parts.query).get("d", [""])[0]
        path = f"/{local or unquote(parts.path)}"
        if local:
            yield local
    name = path.rsplit("/", 1)[-1]
    if FOREIGN.match(path) and name:
        yield name
    if UPLOAD_PREFIX.match(name) and len(name) > 9:
        yield os.path.join(os.path.dirname(path) if not FOREIGN.match(path) else "", name[9:])
