"""Where results go: predictions never over a file that is there, nothing below one."""

import os
from collections.abc import Iterable
from pathlib import Path


def check_new(paths: Iterable[Path]) -> None:
    """Raise ValueError for a file that is there already: it may be an image, or its true mask."""
    for path in paths:
        if os.path.lexists(path):
            raise ValueError(f"{path} is there already, and is left as it is: name another output")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; raises ValueError where a file is in the way."""
    for above in (folder, *folder.parents):
        if above.exists():
            if not above.is_dir():
                raise ValueError(f"{above} is a file: name a folder")
            break
    folder.mkdir(parents=True, exist_ok=True)
