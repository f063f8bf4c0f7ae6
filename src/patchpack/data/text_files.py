"""Text files that people write: their encodings, and the invisible characters around a cell.

UTF-8 and files that name their encoding by a byte-order mark (UTF-16, UTF-32) are read. Other
encodings have no single meaning, so they are refused, with the line of the first wrong byte.
"""

import codecs
from pathlib import Path

from patchpack.regular_files import open_regular

MARKS = (  # UTF-32 first: its mark starts with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
# Byte-order mark, zero-width and direction characters, which no `strip` removes.
INVISIBLE = "\ufeff\u200b\u200c\u200d\u200e\u200f\u2060"
ADVICE = "save it as UTF-8 (in a spreadsheet: CSV UTF-8)"


class NotText(ValueError):
    """A file that is not text of a known encoding; the message names file, line and byte."""


def clean(text: str) -> str:
    """Return a text without spaces and invisible characters at its ends.

    Non-breaking and other Unicode spaces count as spaces.
    """
    if not text or (text[0] > " " and text[-1] > " " and text.isascii()):
        return text
    stripped = None
    while text != stripped:
        stripped, text = text, text.strip().strip(INVISIBLE)
    return text


def encoding_of(path: Path) -> str:
    """Return the encoding that a file's byte-order mark names; UTF-8 without one.

    Raise NotText for a pipe, a device or a folder.
    """
    try:
        with open_regular(path) as file:
            start = file.read(4)
    except ValueError as error:  # a pipe, a device, a folder
        raise NotText(f"{path}: {error}") from error
    return next((name for mark, name in MARKS if start.startswith(mark)), "utf-8-sig")


def read_text(path: Path) -> str:
    """Return the text of a file; raise NotText for other encodings, OSError as `open` does."""
    try:
        text = path.read_text(encoding=encoding_of(path))
    except UnicodeError as error:
        raise not_text(path) from error
    if "\0" in text:
        raise not_text(path)
    return text


def not_text(path: Path) -> NotText:
    """Return the error of a file that cannot be decoded, or holds NUL characters."""
    encoding, data = encoding_of(path), path.read_bytes()
    if encoding != "utf-8-sig":
        return NotText(f"{path} is not {encoding.upper()} text, as its first bytes claim; {ADVICE}")
    try:
        data.decode("utf-8")
        at, reason = data.index(b"\0"), "holds NUL bytes, as UTF-16 without a byte-order mark"
    except UnicodeDecodeError as error:
        at, reason = error.start, f"is not UTF-8 text (byte 0x{data[error.start]:02x})"
    line = data[:at].replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n") + 1
    return NotText(f"{path}, line {line}: {reason}; {ADVICE}")
