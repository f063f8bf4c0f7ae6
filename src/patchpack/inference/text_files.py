"""Text files that a user names: one text per line."""

from pathlib import Path

from patchpack.data.text_files import clean, read_text


def read_lines(path: Path) -> list[str]:
    """The lines that hold a text, stripped; raises ValueError where none does, and for files that
    are not text."""
    texts = [text for line in read_text(path).splitlines() if (text := clean(line))]
    if not texts:
        raise ValueError(f"{path} holds no text")
    return texts
