"""Log of a run: a live display, a JSONL file, and TensorBoard if it is installed.

The JSONL file has one object per line: `{"kind": "train", "step": 10, "loss": 2.31, …}`. A resumed
run removes the lines after the step it resumes from, so the file equals that of an uninterrupted
run.

The log never decides whether a run goes on: damaged lines are dropped, and where the file or the
terminal cannot be written (a full disk, a closed pipe), the run trains on without it.
"""

import errno
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from patchpack.data.images import BadImage
from patchpack.metrics.undefined import defined, json_values, shown
from patchpack.terminal import Terminal
from patchpack.writing import write_text_atomic

LOG = "log.jsonl"
TRAIN_COLUMNS = (
    ("loss", "loss", "{:.4f}"),
    ("lr", "learning rate", "{:.2e}"),
    ("grad_norm", "gradient norm", "{:.2f}"),
    ("images_per_s", "images/s", "{:,.0f}"),
    ("tokens_per_s", "tokens/s", "{:,.0f}"),
    ("gflops_per_s", "GFLOP/s", "{:,.0f}"),
    ("fill", "fill", "{:.2%}"),
    ("data_wait", "data wait", "{:.1%}"),
)


class _Console(Terminal):
    def on_broken_pipe(self) -> None:
        """Print nothing from now on, instead of ending the program."""
        self.quiet = True


class RunLog:
    """The log of one run, shown live on a terminal and as plain lines elsewhere."""

    def __init__(
        self, folder: Path | None, *, resume_step: int, resume_fraction: float, live: bool
    ) -> None:
        """Open the log in `folder`; None on ranks that write no log.

        `resume_fraction` is the fraction of the run that is done at `resume_step`.
        """
        self._is_writer = folder is not None
        self.console = _Console(stderr=True)
        self._file = LineFile(folder / LOG) if folder else None
        self._board, problem = _tensorboard(folder) if folder else (None, "")
        self._latest: dict[str, float] = {}
        self._evaluated: dict[str, float] = {}
        self._start = time.monotonic()
        self._start_fraction = self._fraction = resume_fraction
        self._live = None
        if live and self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        self._lines = live and self._live is None
        self._warn(problem)
        if self._file:
            self._warn(self._file.begin(resume_step))

    def train(self, step: int, fraction_done: float, values: dict[str, float]) -> None:
        """Log the training values of a step."""
        self._latest, self._fraction = values, min(1.0, fraction_done)
        self._write("train", step, values)
        if self._live:
            self._live.update(self._table(step))
        elif self._lines:
            self._print(self._line(step, values))

    def evaluation(self, step: int, values: dict[str, float]) -> None:
        """Log the metrics of an evaluation; an undefined one, NaN, is null in the file."""
        self._evaluated = values
        self._write("eval", step, values)
        if self._lines:
            text = "  ".join(f"{k} {shown(v, '.4f')}" for k, v in values.items())
            self._print(f"step {step}  {text}")

    def message(self, text: str) -> None:
        """Print a message above the live display, on the writing rank only."""
        if self._is_writer:
            self._print(text)

    def note(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Write a line to the file only."""
        self._write(kind, step, values)

    def log_unreadable(self, step: int, errors: Sequence[BadImage]) -> None:
        """Log images that could not be read."""
        for error in errors:
            self.message(f"skipped: {error}")
            self.note("bad_image", step, {"error": str(error)})

    def close(self) -> None:
        """Close the display and the files."""
        if self._live:
            with suppress(OSError):
                self._live.stop()
        if self._file:
            self._file.close()
        if self._board:
            with suppress(OSError):
                self._board.close()

    def _print(self, text: str) -> None:
        """Print a line; to a terminal or pipe that is closed, nothing, from then on."""
        if self.console.quiet:
            return
        try:
            self.console.print(text, soft_wrap=True)
        except OSError:
            self.console.quiet = True

    def _warn(self, problem: str) -> None:
        if problem:
            self.message(problem)

    def _write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        if self._file:
            self._warn(self._file.write(json_values({"kind": kind, "step": step, **values})))
        if self._board and kind in ("train", "eval"):
            try:
                for name, value in values.items():
                    if defined(value):
                        self._board.add_scalar(f"{kind}/{name}", value, step)
            except OSError as error:
                self._board = None
                self._warn(f"TensorBoard's files cannot be written ({error.strerror})")

    def _progress(self, step: int) -> str:
        return f"step {step:,} ({self._fraction:.0%})"

    def _time_left(self) -> str:
        """Return the estimated minutes and seconds left, at the pace since the start."""
        fraction = self._fraction - self._start_fraction
        if fraction <= 0:
            return "?"
        seconds = (time.monotonic() - self._start) / fraction * (1 - self._fraction)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def _line(self, step: int, values: dict[str, float]) -> str:
        shown = (f"{title} {form.format(values[key])}" for key, title, form in TRAIN_COLUMNS)
        return f"{self._progress(step)}  " + "  ".join(shown) + f"  left {self._time_left()}"

    def _table(self, step: int) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_row(*self._progress(step).split(" ", 1), "left", self._time_left())
        cells = [(title, form.format(self._latest[key])) for key, title, form in TRAIN_COLUMNS]
        for left, right in zip(cells[::2], cells[1::2], strict=True):
            table.add_row(*left, *right)
        for name, value in self._evaluated.items():
            table.add_row(name, shown(value, ".4f"))
        return table


class LineFile:
    """A file of JSON lines, whose failures are texts: the first of each series, then empty ones."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None
        self._failed = False

    def begin(self, step: int) -> str:
        """Open the file, without the lines after `step` and without damaged ones; 0: empty it."""
        note = ""
        try:
            if step:
                records, damaged = _read_lines(self.path)
                if damaged:
                    note = f"{self.path}: {damaged} damaged lines dropped"
                kept = [record for record in records if record["step"] <= step]
                write_text_atomic(self.path, "".join(json.dumps(r) + "\n" for r in kept))
            self._file = FileIO(self.path, "a" if step else "w")
        except (OSError, ValueError) as error:
            return f"{note}{self._failure(error)}"
        return note

    def write(self, record: dict[str, Any]) -> str:
        """Append a line."""
        if self._file is None:
            return ""
        line = (json.dumps(record) + "\n").encode()
        try:
            if self._failed:  # perhaps within a line
                line = b"\n" + line
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            return self._failure(error)
        self._failed = False
        return ""

    def close(self) -> None:
        if self._file:
            with suppress(OSError):
                self._file.close()

    def _failure(self, error: Exception) -> str:
        first, self._failed = not self._failed, True
        reason = getattr(error, "strerror", None) or error
        return f"{self.path} cannot be written ({reason}): the run goes on without" if first else ""


def read_log(path: Path, kind: str) -> list[dict[str, Any]]:
    """Return the lines of one kind, without damaged ones; none if there is no such file."""
    return [record for record in _read_lines(path)[0] if record["kind"] == kind]


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the lines of a log, and the number of damaged ones; a last half line is neither."""
    if not path.is_file():
        return [], 0
    *lines, _ = path.read_bytes().split(b"\n")
    lines = [line for line in lines if line.strip()]
    records = [record for line in lines if (record := _record(line)) is not None]
    return records, len(lines) - len(records)


def _record(line: bytes) -> dict[str, Any] | None:
    """Return the object of a line, if it is one that a log holds."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    kind, step = record.get("kind"), record.get("step")
    if not isinstance(kind, str) or not _is_number(step) or not isinstance(step, int) or step < 0:
        return None
    if kind not in ("train", "eval"):
        return record
    whole = kind == "eval" or all(name in record for name, *_ in TRAIN_COLUMNS)
    numbers = all(_is_number(value) for name, value in record.items() if name != "kind")
    return record if whole and numbers else None


def _is_number(value: object) -> bool:
    """Whether a value is one that plots take; NaN, and none of an empty set, are."""
    return value is None or isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def _tensorboard(folder: Path) -> tuple[Any | None, str]:
    """Return a writer of TensorBoard's files, if it is installed, or why there is none."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None, ""
    try:
        return SummaryWriter(str(folder / "tensorboard")), ""
    except OSError as error:
        return None, f"TensorBoard's files cannot be written ({error.strerror})"
