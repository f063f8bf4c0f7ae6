"""Paths as people type them in manifests, resolved to files.

A path that exists is taken as it is. Otherwise the one meaning it may have is looked for: the file
without spaces around it, with / for \\, a file:// address, ~ for the home folder, and a name that
differs from a file only in case or in the form of its accents (Unicode normalization).

Raises ValueError, with the reason, for paths that are no file of this machine.
"""

import os
import re
import unicodedata
from collections import defaultdict
from pathlib import Path
from urllib.parse import unquote, urlsplit

from patchpack.data.text_files import clean

DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # C:\, \\server
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class FilePaths:
    """Resolves the paths of one manifest; lists each folder at most once.

    folder  folder of the manifest, which paths are relative to
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, dict[str, list[str]]] = {}  # folder → folded name → names

    def resolve(self, typed: str) -> str:
        """Return the path of a file, normalized; one that exists nowhere is returned cleaned."""
        if self._exists(typed):
            return os.path.normpath(typed)
        path = clean(typed)
        if ADDRESS.match(path):
            path = _local_file(path)
        if DRIVE.match(path) and os.name != "nt":
            raise ValueError(
                f"{path} is an absolute path of Windows; write it relative to the manifest"
            )
        if path.startswith("~") and not self._exists(path):
            path = os.path.expanduser(path)
        if "\\" in path and not self._exists(path):
            path = path.replace("\\", "/")
        path = os.path.normpath(path)
        return path if self._exists(path) else self._respell(path) or path

    def _exists(self, path: str) -> bool:
        try:
            return os.path.lexists(os.path.join(self.folder, path))
        except ValueError:  # an impossible file name
            return False

    def _respell(self, path: str) -> str | None:
        """Return the only file whose name equals a path but for case and accents."""
        spelled = "/" if path.startswith("/") else ""
        for part in path.strip("/").split("/"):
            if part != ".." and not self._exists(os.path.join(spelled, part)):
                names = self._listed(spelled)[_fold(part)]
                if len(names) != 1:
                    return None
                (part,) = names
            spelled = os.path.join(spelled, part)
        return spelled

    def _listed(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._names:
            names: dict[str, list[str]] = defaultdict(list)
            try:
                for name in os.listdir(os.path.join(self.folder, folder)):
                    names[_fold(name)].append(name)
            except (OSError, ValueError):
                pass
            self._names[folder] = names
        return self._names[folder]


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _local_file(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme.lower() != "file" or parts.netloc not in ("", "localhost"):
        raise ValueError(f"{address} is no file of this machine; download it first")
    return unquote(parts.path, errors="surrogateescape")
