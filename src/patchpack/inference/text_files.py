"""Text files that a user names: one text per line."""

from pathlib import Path

from patchpack.manifest import reason_of
from patchpack.regular_files import read_text


def read_lines(path: Path) -> list[str]:
    """The lines that hold a text, stripped; raises ValueError where none does."""
    try:
        lines = read_text(path).removeprefix("\ufeff").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {reason_of(error)}") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"{path} holds no text")
    return texts
