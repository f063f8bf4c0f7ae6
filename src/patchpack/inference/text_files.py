"""Text files that a user names: one text per line."""

from pathlib import Path


def read_lines(path: Path) -> list[str]:
    """The lines that hold a text, stripped; raises ValueError where none does."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"{path} holds no text")
    return texts
