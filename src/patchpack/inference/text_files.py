"""Text files that a user names: one text per line."""

from pathlib import Path

from patchpack.data.text_files import clean, read_text
from patchpack.manifest import reason_of


def read_lines(path: Path) -> list[str]:
    """The lines that hold a text, stripped; raises ValueError where none does, and for files that
    are not text."""
    try:
        lines = read_text(path).splitlines()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {reason_of(error)}") from error
    texts = [text for line in lines if (text := clean(line))]
    if not texts:
        raise ValueError(f"{path} holds no text")
    return texts
