"""What may become of a case: an answer that is right, a clear refusal, or a fault.

A refusal is clear if it is one line that names the file, and, of a command, on stderr with exit
status 2 (1 where the other files of the command were done).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

# What a file is not to blame for, and must not be refused with.
OF_THE_MACHINE = ("MemoryError", "[Errno 5]", "[Errno 12]", "[Errno 24]", "Too many open files")
LONGEST_LINE = 2000  # characters of a refusal


class Verdict(StrEnum):
    RIGHT = "right"
    REFUSED = "refused"
    UNCLEAR = "unclear"  # refused without the name of the file, in several lines, or a good file
    SILENT = "silent"  # a wrong answer that nothing shows
    HANG = "hang"
    TRACEBACK = "traceback"
    CRASH = "crash"  # ended by a signal, or beyond the limit of memory


GOOD = (Verdict.RIGHT, Verdict.REFUSED)


@dataclass(frozen=True)
class Outcome:
    """What became of one case."""

    case: str  # what was done, enough to do it again with its number
    verdict: Verdict
    detail: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0  # peak memory; 0: not measured


def of_error(error: Exception, names: Sequence[str]) -> tuple[Verdict, str]:
    """The verdict on an exception: a refusal that has one of the names, or a traceback."""
    text = f"{type(error).__name__}: {error}"
    if not isinstance(error, _refusals()):
        return Verdict.TRACEBACK, text
    shown = str(error).encode("unicode_escape").decode()  # the command escapes what it prints
    clear = is_clear(shown, ()) and any(name in str(error) for name in names)
    return (Verdict.REFUSED if clear else Verdict.UNCLEAR), text


def _refusals() -> tuple[type[Exception], ...]:
    """What the library raises for wrong input; imported late, since it imports PyTorch."""
    from patchpack.checkpoint import CheckpointError
    from patchpack.data.images import BadImage
    from patchpack.data.records import BadDataset
    from patchpack.serialization import ConfigError
    from patchpack.train.loop import TrainingError

    return BadImage, BadDataset, CheckpointError, ConfigError, TrainingError


def of_command(status: int, err: str, names: Sequence[str]) -> tuple[Verdict, str]:
    """The verdict on a command that should have failed or be right; RIGHT is still to be checked.

    status  exit status; negative: the number of the signal that ended it
    """
    detail = f"status {status}: {err.strip()[-400:]}"
    if "Traceback (most recent call last)" in err:
        return Verdict.TRACEBACK, detail
    if status < 0:
        return Verdict.CRASH, detail
    if status == 0:
        return Verdict.RIGHT, detail
    lines = [line for line in err.splitlines() if line.startswith("patchpack: ")]
    clear = status in (1, 2) and lines and all(is_clear(line, ()) for line in lines)
    named = not names or any(name in line for line in lines for name in names)
    return (Verdict.REFUSED if clear and named else Verdict.UNCLEAR), detail


def is_clear(text: str, names: Sequence[str]) -> bool:
    """Whether a refusal is one printable line with one of the names (any, if there are none)."""
    one_line = text.isprintable() and 0 < len(text) <= LONGEST_LINE
    one_line = one_line and not any(reason in text for reason in OF_THE_MACHINE)
    return one_line and (not names or any(name in text for name in names))
